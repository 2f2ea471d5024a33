"""One ranking for every engine: score descending, then document id descending as bytes, ties at the cut included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["order", "precedence", "top"]


def precedence(ids: Sequence[str]) -> np.ndarray:
    """Place of each document among equal scores, [N]: 0 for the id that is largest as bytes."""
    ranked = sorted(range(len(ids)), key=lambda row: ids[row].encode(), reverse=True)
    places = np.empty(len(ids), np.int32)
    places[ranked] = np.arange(len(ids), dtype=np.int32)
    return places


def order(rows: np.ndarray, scores: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores [Q, k], each list brought into the total order."""
    by_place = np.argsort(places[rows], axis=1, kind="stable")
    scores = np.take_along_axis(scores, by_place, 1)
    by_score = np.argsort(-scores, axis=1, kind="stable")
    rows = np.take_along_axis(np.take_along_axis(rows, by_place, 1), by_score, 1)
    return rows, np.take_along_axis(scores, by_score, 1)


def top(scores: np.ndarray, depth: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best `depth` rows of each list of scores [Q, N] in the total order, and their scores, both [Q, depth]."""
    depth = min(depth, scores.shape[1])
    if depth == scores.shape[1]:
        return order(np.broadcast_to(np.arange(depth), scores.shape), scores, places)
    rows = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    worst = np.take_along_axis(scores, rows, 1).min(1)
    # The partition kept some of the documents tied at the cut; which of them, only the total order may say.
    for query in np.flatnonzero((scores >= worst[:, None]).sum(1) > depth):
        tied = np.flatnonzero(scores[query] >= worst[query])
        rows[query] = order(tied[None], scores[query, tied][None], places)[0][0, :depth]
    return order(rows, np.take_along_axis(scores, rows, 1), places)
