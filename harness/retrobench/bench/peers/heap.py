"""
How beir's exact search joins the best hits of its corpus chunks, from its description (beir 2.2, dense exact search).

A heap of k (score, id) for each query; every hit of every chunk is pushed by itself, in Python, and the heaps become a
dictionary for each query.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

__all__ = ["heap_merge"]


def heap_merge(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], names: Sequence[str], depth: int
) -> list[dict[str, float]]:
    """For each query its best hits by name, unordered, from rows and scores [Q, k] of each part."""
    heaps: list[list[tuple[float, str]]] = [[] for _ in range(len(parts[0][0]))]
    for rows, scores in parts:
        for heap, hits, values in zip(heaps, rows.tolist(), scores.tolist(), strict=True):
            for hit, value in zip(hits, values, strict=True):
                if len(heap) < depth:
                    heapq.heappush(heap, (value, names[hit]))
                else:
                    heapq.heappushpop(heap, (value, names[hit]))
    return [{name: value for value, name in heap} for heap in heaps]
