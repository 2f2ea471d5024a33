"""
How beir's exact search joins the best hits of its corpus chunks, from its description (beir 2.2, dense exact search).

Each query has a heap of k (score, id). Python pushes every hit of every chunk by itself, then turns each heap into a
dictionary.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

__all__ = ["heap_merge"]

Heap = list[tuple[float, str]]


def heap_merge(
    chunks: Sequence[tuple[np.ndarray, np.ndarray]], names: Sequence[str], depth: int
) -> list[dict[str, float]]:
    """Return for each query its best hits by name, unordered, from rows and scores [Q, k] of each chunk."""
    first_rows, _ = chunks[0]
    heaps: list[Heap] = [[] for _ in range(len(first_rows))]
    for rows, scores in chunks:
        for heap, query_rows, query_scores in zip(heaps, rows.tolist(), scores.tolist(), strict=True):
            for row, score in zip(query_rows, query_scores, strict=True):
                if len(heap) < depth:
                    heapq.heappush(heap, (score, names[row]))
                else:
                    heapq.heappushpop(heap, (score, names[row]))
    return [_to_dictionary(heap) for heap in heaps]


def _to_dictionary(heap: Heap) -> dict[str, float]:
    return {name: score for score, name in heap}
