"""The total order of candidates: score descending, then tie rank ascending."""

from __future__ import annotations

from typing import Any

import numpy as np

from retrobench.retrieval.nearest.kernels import TopK

__all__ = ["select_best", "sort_keys"]

ABSENT = np.iinfo(np.int64).max  # the key of an empty position: it sorts last


def sort_keys(score_bits: Any, tie_ranks: Any) -> Any:
    """Return int64 keys that sort candidates into the total order, so that one sort settles score and tie rank.

    `score_bits` are the bits of finite float32 scores as int64, `tie_ranks` int64 below 2^31: arrays or tensors.
    """
    # As whole numbers, negative floats run backwards: flip all their bits but the sign.
    rising = score_bits ^ ((score_bits >> 31) & 0x7FFFFFFF)
    return ((0x7FFFFFFF - rising) << 31) | tie_ranks


def select_best(rows: np.ndarray, scores: np.ndarray, present: np.ndarray, depth: int, tie_ranks: np.ndarray) -> TopK:
    """Return the best `depth` of lists [q, m] whose candidates are `present`."""
    order = _sorted_columns(rows, scores, present, tie_ranks)
    order = order[:, :depth]
    filled = np.take_along_axis(present, order, 1)
    ordered_rows = np.take_along_axis(rows, order, 1)
    ordered_scores = np.take_along_axis(scores, order, 1)
    best_rows = np.where(filled, ordered_rows, -1)
    best_scores = np.where(filled, ordered_scores, -np.inf)
    return TopK(best_rows.astype(np.int32), best_scores.astype(np.float32))


def _sorted_columns(rows: np.ndarray, scores: np.ndarray, present: np.ndarray, tie_ranks: np.ndarray) -> np.ndarray:
    """Return the columns [q, m] of lists in the total order; empty positions come last."""
    contiguous_scores = np.ascontiguousarray(scores)
    bits = contiguous_scores.view(np.int32).astype(np.int64)
    present_rows = np.where(present, rows, 0)
    ranks = tie_ranks[present_rows].astype(np.int64)
    keys = np.where(present, sort_keys(bits, ranks), ABSENT)
    return np.argsort(keys, axis=1)
