"""The stages: each a function from an experiment and earlier results to a directory in the store."""

from retrobench.stages.choose import choose
from retrobench.stages.encode import encode
from retrobench.stages.finetune import finetune
from retrobench.stages.lexical import lexical
from retrobench.stages.measured import measured
from retrobench.stages.mine import mine
from retrobench.stages.negatives import negatives
from retrobench.stages.pretrain import adapt, pretrain
from retrobench.stages.score import facts, per_query, score, scores
from retrobench.stages.search import search
from retrobench.stages.start import start, width
from retrobench.stages.teach import look_at_teacher, teach
from retrobench.stages.tokenise import tokenise

__all__ = [
    "adapt",
    "choose",
    "encode",
    "facts",
    "finetune",
    "lexical",
    "look_at_teacher",
    "measured",
    "mine",
    "negatives",
    "per_query",
    "pretrain",
    "score",
    "scores",
    "search",
    "start",
    "teach",
    "tokenise",
    "width",
]
