"""The processes of one experiment, as torchrun starts them: rank, world size and agreement.

A single process never loads torch here.
"""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from retrobench.errors import RetrobenchError, quote

__all__ = [
    "agree",
    "average",
    "check_address",
    "join",
    "largest",
    "launch_command",
    "leads",
    "leave",
    "meet",
    "rank",
    "size",
]

# Rank 0 may tokenise or search an index for hours while the other ranks wait. `watch` ends a wait for a silent rank.
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


def largest(values: Sequence[int]) -> list[int]:
    """Return each value's maximum over all processes, which must call this together. No process waits for a device."""
    if size() == 1:
        return list(values)
    import torch
    from torch import distributed

    maxima = torch.tensor(values)
    distributed.all_reduce(maxima, distributed.ReduceOp.MAX, _host_group())
    return [int(value) for value in maxima]


@functools.cache
def _host_group() -> Any:
    """Return the processes' group for tensors in main memory; NCCL has only those of GPUs."""
    from torch import distributed

    join()
    if distributed.get_backend() == "gloo":
        return distributed.group.WORLD
    return distributed.new_group(backend="gloo", timeout=PATIENCE)


def launch_command(words: Sequence[str]) -> str:
    """Return the command line that starts `words` in as many processes as this experiment has."""
    if size() > 1:
        words = ["torchrun", "--no-python", "--nproc-per-node", str(size()), *words]
    return shlex.join(words)


def leave() -> None:
    """Tell the other processes that this one has finished and need not answer any more."""
    from retrobench.core import watch

    watch.leave()


def join() -> Any:
    """Return accelerate's `PartialState`, which connects the processes: NCCL between GPUs, else gloo.

    RetrobenchError where a process does not come.
    """
    check_address()
    import torch
    from accelerate import PartialState

    from retrobench.core import watch

    if size() > 1 and "MASTER_ADDR" in os.environ:
        watch.await_ranks(rank(), size(), launch_command(["retrobench", *sys.argv[1:]]))
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
