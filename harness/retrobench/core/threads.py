"""Loops compiled by numba, and work shared among threads."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

__all__ = ["in_threads", "jit"]


def jit(function: Callable[..., Any], fastmath: bool | set[str] = False) -> Callable[..., Any]:
    """Return the function compiled. Later processes read it from the disk, if a cache folder can be written."""
    import numba

    try:
        return numba.njit(function, nogil=True, cache=True, fastmath=fastmath)  # type: ignore[no-any-return]
    except RuntimeError:  # numba has no cache folder
        return numba.njit(function, nogil=True, fastmath=fastmath)  # type: ignore[no-any-return]


def in_threads(work: Callable[[int, int], object], count: int, least: int = 1) -> None:
    """Call `work(first, last)` for consecutive ranges of `range(count)`, in parallel.

    A range has at least `least` elements, unless there is only one range. `work` must not call `in_threads` itself: it
    would wait for threads that wait for it.
    """
    import torch

    threads = max(1, min(torch.get_num_threads(), count // least))
    edges = [count * thread // threads for thread in range(threads + 1)]
    own_range, *further_ranges = itertools.pairwise(edges)
    futures = [_pool(threads - 1, os.getpid()).submit(work, *edge_pair) for edge_pair in further_ranges]
    work(*own_range)
    for future in futures:
        future.result()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return a pool of this process. A forked child needs a pool of its own."""
    return ThreadPoolExecutor(threads, "kernels")
