"""The stages: each a function from an experiment and earlier results to a directory in the store."""

from retrobench.stages.choose import choose
from retrobench.stages.encode import encode
from retrobench.stages.finetune import finetune
from retrobench.stages.lexical import lexical
from retrobench.stages.mine import mine
from retrobench.stages.pretrain import pretrain
from retrobench.stages.score import score
from retrobench.stages.search import search
from retrobench.stages.start import start
from retrobench.stages.tokenise import tokenise

__all__ = [
    "choose",
    "encode",
    "finetune",
    "lexical",
    "mine",
    "pretrain",
    "score",
    "search",
    "start",
    "tokenise",
]
