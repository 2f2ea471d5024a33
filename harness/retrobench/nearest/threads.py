"""Work that threads share; the loops of `kernels` hold no lock."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

__all__ = ["spread"]


def spread(work: Callable[[int, int], Any], count: int, least: int = 1) -> None:
    """Do `work(begin, end)` for parts of `count`, as many as torch uses threads, each `least` long at least."""
    parts = max(1, min(torch.get_num_threads(), count // max(1, least)))
    if parts == 1:
        work(0, count)
        return
    edges = [count * part // parts for part in range(parts + 1)]
    futures = [_pool(parts - 1).submit(work, *pair) for pair in list(itertools.pairwise(edges))[1:]]
    work(edges[0], edges[1])
    for future in futures:
        future.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "search")
