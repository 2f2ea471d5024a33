"""
Training: one loop for pre-training and fine-tuning.

* loop           the training loop
* batches        the rows of each batch, and batches made ahead
* ledger         the log of losses, and the check that they are finite
* watching       a probe and a corridor, which watch a training
* trackers       losses in TensorBoard and others
* determinism    torch's deterministic algorithms, and other work amidst a training
* loss_scale     dynamic loss scaling, for float16
* machine        precision and compilation on this machine
* checkpoints    checkpoints, and resuming from them
* examples       training queries with positives and negatives, and their batches
* coupled        the forward of an objective whose loss compares examples
* contrastive    the loss of fine-tuning
* gathering      the tensors of all processes, with gradients
* contract       checks of the values that an objective returns
"""

from retrobench.training.batches import Batches, Shard, map_tensors, seeded
from retrobench.training.checkpoints import load as load_checkpoint
from retrobench.training.checkpoints import save as save_checkpoint
from retrobench.training.contract import (
    check_batch,
    check_module,
    check_rows,
    check_step,
    choose_examples,
)
from retrobench.training.contrastive import Contrastive
from retrobench.training.coupled import Coupled, forward, trainable
from retrobench.training.determinism import UnrepeatableError, deterministic
from retrobench.training.examples import (
    Candidates,
    ContrastiveBatch,
    ContrastiveBatches,
    Examples,
    TextGroup,
    TextGroups,
    grouped,
)
from retrobench.training.loop import Loop, train
from retrobench.training.machine import on_this_machine, resolve_precision
from retrobench.training.trackers import use_tracker
from retrobench.training.watching import Watch

__all__ = [
    "Batches",
    "Candidates",
    "Contrastive",
    "ContrastiveBatch",
    "ContrastiveBatches",
    "Coupled",
    "Examples",
    "Loop",
    "Shard",
    "TextGroup",
    "TextGroups",
    "UnrepeatableError",
    "Watch",
    "check_batch",
    "check_module",
    "check_rows",
    "check_step",
    "choose_examples",
    "deterministic",
    "forward",
    "grouped",
    "load_checkpoint",
    "map_tensors",
    "on_this_machine",
    "resolve_precision",
    "save_checkpoint",
    "seeded",
    "train",
    "trainable",
    "use_tracker",
]
