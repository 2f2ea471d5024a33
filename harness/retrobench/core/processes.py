"""The processes of one experiment, as torchrun starts them: rank, world size and agreement.

A single process never loads torch here.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from retrobench.errors import RetrobenchError, quote

__all__ = ["agree", "average", "check_address", "join", "leads", "meet", "rank", "size"]

# Rank 0 may tokenise or search an index for hours while the other ranks wait.
PATIENCE = timedelta(days=2)
LONGEST_NUMBER = 6  # digits
NEXT_STEP = "Start with torchrun, which sets both, or unset them for one process."


def size() -> int:
    """Return the world size. RetrobenchError for variables of the environment that torchrun would not set."""
    return _read_team()[1]


def rank() -> int:
    """Return the rank of this process, from 0. RetrobenchError as from `size`."""
    return _read_team()[0]


def check_address() -> None:
    """Check that several processes can find each other. RetrobenchError names the missing variable."""
    if size() == 1:
        return
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise RetrobenchError(f"WORLD_SIZE is {size()}, and {name} is not set. {NEXT_STEP}")


def _read_team() -> tuple[int, int]:
    """Return the rank and the world size."""
    size = os.environ.get("WORLD_SIZE", "")
    rank = os.environ.get("RANK", "")
    if not size and not rank:
        return 0, 1
    for name, text in (("WORLD_SIZE", size), ("RANK", rank)):
        if not text and (name == "WORLD_SIZE" or size != "1"):
            raise RetrobenchError(f"{name} is not set, and the other of WORLD_SIZE and RANK is. {NEXT_STEP}")
        if text and not (text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER):
            raise RetrobenchError(f"{name} is {quote(text)}, and must be a whole number. {NEXT_STEP}")
    if int(rank or 0) >= int(size):
        raise RetrobenchError(f"RANK is {rank or 0}, and must be below WORLD_SIZE, {size}. {NEXT_STEP}")
    return int(rank or 0), int(size)


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
    check_address()
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
