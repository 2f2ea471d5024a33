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
    """The function compiled. Kept on disk for later processes, unless no place for it can be written."""
    import numba

    try:
        return numba.njit(function, nogil=True, cache=True, fastmath=fastmath)  # type: ignore[no-any-return]
    except RuntimeError:  # numba's word for having no such place
        return numba.njit(function, nogil=True, fastmath=fastmath)  # type: ignore[no-any-return]


def in_threads(work: Callable[[int, int], object], count: int, least: int = 1) -> None:
    """Call `work(first, last)` for parts of `range(count)`, at once; each is `least` long at least, but for a lone one.

    What a part's work needs of threads it must not ask for here: it would wait for the ones that are at it.
    """
    import torch

    parts = max(1, min(torch.get_num_threads(), count // least))
    edges = [count * part // parts for part in range(parts + 1)]
    others = [_pool(parts - 1, os.getpid()).submit(work, *pair) for pair in list(itertools.pairwise(edges))[1:]]
    work(edges[0], edges[1])
    for other in others:
        other.result()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "kernels")
