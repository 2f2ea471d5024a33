"""
One ranking for every engine: score descending, then document id descending as bytes, ties at the cut included.

* precedence(ids)      who goes first among equals
* top, order           the best of all scores, and what was already chosen, in the total order
* finish -> Ranked     candidates of any engine or file to a ranking: ordered, own documents out, cut
* join                 blocks of queries to one ranking
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Ranked", "count_ties", "finish", "join", "order", "own_rows", "precedence", "tied", "top"]

_MANY = 10_000  # ids, for which it pays to load what sorts them in less memory


@dataclass(frozen=True)
class Ranked:
    """Ranked documents of each query.

    `rows` [Q, k] int32 count into the documents' ids, -1 where a list ends; `scores` [Q, k] float32 descend, -inf
    where a list ends. `self_hits`: own documents removed from the first k. `ties`: hits whose float32 score equals
    that of the hit right above, whose place therefore only their id decided.
    """

    rows: np.ndarray
    scores: np.ndarray
    self_hits: int
    ties: int


def precedence(ids: Sequence[str]) -> np.ndarray:
    """Place of each document among equal scores, [N]: 0 for the id that is largest as bytes."""
    places = np.empty(len(ids), np.int32)
    places[_falling(ids)] = np.arange(len(ids), dtype=np.int32)
    return places


def _falling(ids: Sequence[str]) -> Any:
    """Rows of the ids in falling order as bytes; of many without an object for each, which takes memory."""
    if len(ids) <= _MANY:
        return sorted(range(len(ids)), key=lambda row: ids[row].encode(), reverse=True)
    import pyarrow as pa
    import pyarrow.compute as pc

    # Strings compare as their UTF-8 bytes.
    found = pc.array_sort_indices(pa.array(ids, pa.large_string()), order="descending").to_numpy().astype(np.int32)
    pa.default_memory_pool().release_unused()  # which would keep what sorting took, half of what the ids themselves do
    return found


def tied(rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The documents that share their score with another of the same list; lists [Q, k] in any order."""
    if (scores[:, 1:] > scores[:, :-1]).any():
        by_score = np.argsort(scores, axis=1)
        rows, scores = np.take_along_axis(rows, by_score, 1), np.take_along_axis(scores, by_score, 1)
    equal = scores[:, 1:] == scores[:, :-1]
    found = np.unique(np.concatenate([rows[:, 1:][equal], rows[:, :-1][equal]]))
    return found[found >= 0]


def order(rows: np.ndarray, scores: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores [Q, k], each list brought into the total order."""
    rows, scores = np.array(rows), np.array(scores)
    unsettled = np.flatnonzero(~(scores[:, :-1] > scores[:, 1:]).all(1))  # what strictly falls is in order already
    if len(unsettled):
        rows[unsettled], scores[unsettled] = _sorted(rows[unsettled], scores[unsettled], places)
    return rows, scores


def _sorted(rows: np.ndarray, scores: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def own_rows(queries: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    """Row of the document that has each query's own id, [Q] int32; -1 where there is none."""
    asked = set(queries)
    row_of = {identifier: row for row, identifier in enumerate(ids) if identifier in asked}
    return np.asarray([row_of.get(query, -1) for query in queries], np.int32)


def finish(
    rows: np.ndarray, scores: np.ndarray, places: np.ndarray, depth: int, own: np.ndarray | None = None
) -> Ranked:
    """The ranking of the candidates `rows` [Q, m] (-1: none, as faiss has it) with their `scores` [Q, m].

    They are ordered as float32, lose each query's `own` row [Q] where that is given, and are cut at `depth`. With
    `own`, candidates are needed one deeper than the cut. ValueError for a candidate whose score is not finite.
    """
    absent = rows < 0
    with np.errstate(over="ignore"):
        scores = np.where(absent, -np.inf, scores).astype(np.float32)
    if not (np.isfinite(scores) | absent).all():
        raise ValueError("a candidate's score is not finite as a 32-bit number")
    rows, scores = order(rows, scores, places)
    removed = 0
    if own is not None:
        found = (rows == own[:, None]) & (rows >= 0)
        removed = int(found[:, :depth].sum())
        rows, scores = _without(found, rows, scores)
    rows, scores = np.ascontiguousarray(rows[:, :depth], np.int32), np.ascontiguousarray(scores[:, :depth])
    return Ranked(rows, scores, removed, count_ties(rows, scores))


def _without(found: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists [Q, m] without the marked hits, of which each has one at most; the rest moves up."""
    hit = np.flatnonzero(found.any(1))
    kept = ~found[hit]
    rows, scores = rows.copy(), scores.copy()
    rows[hit, :-1] = rows[hit][kept].reshape(len(hit), rows.shape[1] - 1)
    scores[hit, :-1] = scores[hit][kept].reshape(len(hit), rows.shape[1] - 1)
    rows[hit, -1], scores[hit, -1] = -1, -np.inf
    return rows, scores


def count_ties(rows: np.ndarray, scores: np.ndarray) -> int:
    """Hits of ordered lists [Q, k] whose score equals that of the hit right above."""
    return int(np.count_nonzero((scores[:, 1:] == scores[:, :-1]) & (rows[:, 1:] >= 0)))


def join(parts: Sequence[Ranked], queries: int) -> Ranked:
    """Blocks of queries, each [q, k], as one ranking; without any block the lists of all `queries` are empty."""
    if not parts:
        return Ranked(np.empty((queries, 0), np.int32), np.empty((queries, 0), np.float32), 0, 0)
    rows, scores = np.concatenate([part.rows for part in parts]), np.concatenate([part.scores for part in parts])
    return Ranked(rows, scores, sum(part.self_hits for part in parts), sum(part.ties for part in parts))
