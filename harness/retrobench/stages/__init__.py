"""
The stages. Each takes artifacts and returns one. No stage calls another; `pipeline` passes the artifacts on.

* open_inputs        open the inputs of an experiment from outside the store.
* tokenise, tokenise_*  convert texts to token ids.
* pretrain           train further under the objective.
* collect_negatives  collect a dataset's own hard negatives.
* finetune           train contrastively.
* encode             convert texts to vectors.
* mine               find hard negatives by search.
* teach              score candidates by a teacher.
* search, search_bm25  rank documents.
* score, choose      compute measures, and choose the round to test.
"""

from retrobench.stages.choose import VALIDATION_DEPTH, choose
from retrobench.stages.collect_negatives import collect_negatives
from retrobench.stages.encode import encode
from retrobench.stages.finetune import finetune
from retrobench.stages.inputs import Base, Inputs, open_base, open_inputs
from retrobench.stages.mine import mine
from retrobench.stages.overlaps import Overlaps
from retrobench.stages.pretrain import pretrain
from retrobench.stages.score import facts, per_query, score, scores
from retrobench.stages.search import search
from retrobench.stages.search_bm25 import search_bm25
from retrobench.stages.teach import teach
from retrobench.stages.tokenise import sample_queries, tokenise, tokenise_documents, tokenise_queries
from retrobench.stages.tokenised_collection import TokenisedCollection
from retrobench.stages.work import Work

__all__ = [
    "VALIDATION_DEPTH",
    "Base",
    "Inputs",
    "Overlaps",
    "TokenisedCollection",
    "Work",
    "choose",
    "collect_negatives",
    "encode",
    "facts",
    "finetune",
    "mine",
    "open_base",
    "open_inputs",
    "per_query",
    "pretrain",
    "sample_queries",
    "score",
    "scores",
    "search",
    "search_bm25",
    "teach",
    "tokenise",
    "tokenise_documents",
    "tokenise_queries",
]
