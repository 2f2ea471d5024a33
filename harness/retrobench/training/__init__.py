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
from retrobench.training.examples import Candidates, ContrastiveBatch, Examples, Round, TextGroup, TextGroups, grouped
from retrobench.training.loop import (
    Batches,
    Loop,
    deterministic,
    map_tensors,
    on_this_machine,
    resolve_precision,
    seeded,
    train,
)

__all__ = [
    "Batches",
    "Candidates",
    "Contrastive",
    "ContrastiveBatch",
    "Examples",
    "Loop",
    "Round",
    "TextGroup",
    "TextGroups",
    "deterministic",
    "discard",
    "grouped",
    "map_tensors",
    "on_this_machine",
    "resolve_precision",
    "seeded",
    "train",
]
