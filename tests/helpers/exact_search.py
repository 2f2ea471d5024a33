"""Exact searches as one block, and the best documents by a plain sort, to which they are compared."""

from __future__ import annotations

from typing import Any

import numpy as np

from retrobench.retrieval.nearest import VectorSet, search
from retrobench.retrieval.nearest.kernels import TopK


def ones(rows: int, width: int) -> VectorSet:
    return VectorSet(np.ones((rows, width), np.float32))


def in_row_order(documents: int) -> np.ndarray:
    """Return tie ranks [N] int32 that prefer the first of equal documents."""
    return np.arange(documents, dtype=np.int32)


def draw_tie_ranks(draw: np.random.Generator, documents: int) -> np.ndarray:
    return draw.permutation(documents).astype(np.int32)


def expected(scores: np.ndarray, tie_ranks: np.ndarray, depth: int) -> TopK:
    """Return the best `depth` of scores [Q, N] by a plain sort."""
    orders = []
    for query_scores in scores.astype(np.float64):
        order = np.lexsort((tie_ranks, -query_scores))
        orders.append(order[:depth])
    rows = np.stack(orders)
    return TopK(rows, np.take_along_axis(scores, rows, 1))


def search_all(*arguments: Any) -> TopK:
    """Return the blocks of `search` as one."""
    blocks = list(search(*arguments))
    rows = np.concatenate([block.rows for block in blocks])
    scores = np.concatenate([block.scores for block in blocks])
    assert rows.dtype == np.int32 and scores.dtype == np.float32
    return TopK(rows, scores)


def assert_same(ours: TopK, theirs: TopK) -> None:
    """Compare rows, and scores to the last bit."""
    assert np.array_equal(ours.rows, theirs.rows)
    assert np.array_equal(ours.scores.view(np.int32), theirs.scores.view(np.int32))
