"""
Training: one loop for pre-training and fine-tuning.

* loop         the loop, its batches and its determinism
* checkpoints  written aside, renamed, resumed from
* examples     training queries with positives and negatives
* contrastive  the loss of fine-tuning
* gathering    the tensors of all processes, with gradients
"""

from retrobench.training.checkpoints import discard
from retrobench.training.contrastive import Contrastive
from retrobench.training.examples import GROUP, Candidates, Examples, Round, grouped, judged
from retrobench.training.loop import Batches, Loop, compiles, deterministic, resolve_precision, seeded, train

__all__ = [
    "GROUP",
    "Batches",
    "Candidates",
    "Contrastive",
    "Examples",
    "Loop",
    "Round",
    "compiles",
    "deterministic",
    "discard",
    "grouped",
    "judged",
    "resolve_precision",
    "seeded",
    "train",
]
