"""Several processes at one experiment, as torchrun starts them: who is first, and how they agree.

Nothing here loads torch in a process that is alone.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

__all__ = ["agreed", "join", "leads", "meet", "rank", "size"]

# One process may tokenise for hours, or search by an index, while the others wait.
PATIENCE = timedelta(days=2)


def size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK") or 0)


def leads() -> bool:
    """Whether this one writes and prints."""
    return rank() == 0


def meet() -> None:
    """Wait until all are here."""
    if size() > 1:
        join().wait_for_everyone()


def agreed(decision: bool) -> bool:
    """What the first process decided, in all of them."""
    if size() == 1:
        return decision
    from accelerate.utils import broadcast_object_list

    join()
    found = broadcast_object_list([decision])
    return bool(found[0])


def join() -> Any:
    """accelerate's `PartialState`, by which the processes know each other: NCCL between GPUs, else gloo."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
