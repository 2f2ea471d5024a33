"""The processes of one experiment, as torchrun starts them: rank, world size and agreement.

A single process never loads torch here.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

__all__ = ["agree", "average", "join", "leads", "meet", "rank", "size"]

# Rank 0 may tokenise or search an index for hours while the other ranks wait.
PATIENCE = timedelta(days=2)


def size() -> int:
    """Return the world size."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Return the rank of this process, from 0."""
    return int(os.environ.get("RANK") or 0)


def leads() -> bool:
    """Tell whether this process writes and prints: rank 0 does."""
    return rank() == 0


def meet() -> None:
    """Wait until all processes call this function."""
    if size() > 1:
        join().wait_for_everyone()


def agree(decision: bool) -> bool:
    """Return rank 0's decision in all processes."""
    if size() == 1:
        return decision
    from accelerate.utils import broadcast_object_list

    join()
    decisions = broadcast_object_list([decision])
    return bool(decisions[0])


def average(values: Any) -> Any:
    """Return the mean of a tensor over all processes, which must call this together."""
    if size() == 1:
        return values
    from torch import distributed

    join()
    total = values.clone()
    distributed.all_reduce(total)
    return total / size()


def join() -> Any:
    """Return accelerate's `PartialState`, which connects the processes: NCCL between GPUs, else gloo."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
