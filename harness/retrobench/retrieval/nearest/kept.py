"""What is kept of the documents seen so far, for each query of a block; bounded, whatever comes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from retrobench.core import in_threads
from retrobench.retrieval.nearest import kernels
from retrobench.retrieval.nearest.bounds import lowered

__all__ = ["Kept", "best"]

_PAIRS = 2**20  # scored again together
_ALONE = 256  # so few queries are not worth a second thread

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]  # queries and rows of pairs -> their canonical scores


class Kept:
    """Candidates of q queries: row and first score, or the canonical one, of what may be among the best `depth`.

    Where the bar of a query cannot keep them few, they are scored canonically at once and cut to `depth`.
    """

    def __init__(self, queries: int, depth: int, places: np.ndarray, scorer: Scorer) -> None:
        room = room_for(depth)
        self.depth, self.places, self.scorer, self.rescored = depth, places, scorer, 0
        self.rows, self.values = np.empty((queries, room), np.int32), np.empty((queries, room), np.float32)
        self.counts, self.settled = np.zeros(queries, np.int64), np.zeros(queries, np.int64)
        self.bars, self.slacks = np.full(queries, -np.inf), np.zeros(queries)

    def add(self, scores: np.ndarray, first: int, shifts: np.ndarray, slacks: np.ndarray, unit: float) -> None:
        """Look at first scores [q, n] of the documents from `first` on, float32, or bfloat16 as int16."""
        bits, up = (scores, 16) if scores.dtype == np.int16 else (scores.view(np.int32), 0)
        at = np.zeros(len(scores), np.int64)
        self.bars, self.slacks = lowered(self.bars, self.slacks, slacks, unit), slacks
        state = (self.rows, self.values, self.counts, self.settled, self.bars, shifts, slacks, unit)
        while True:
            in_threads(
                lambda begin, end: kernels.scan(bits, up, first, self.depth, at, *state, begin, end),
                len(scores),
                _ALONE,
            )
            flooded = np.flatnonzero(at < scores.shape[1])
            if not len(flooded):
                return
            self._settle(flooded, shifts, slacks, unit)

    def settle_all(self, shifts: np.ndarray, slacks: np.ndarray, unit: float) -> None:
        """Canonical scores for all there is, after which first scores of another kind may come."""
        state = (self.rows, self.values, self.counts, self.settled, self.depth, self.bars, shifts, slacks, unit)
        in_threads(lambda begin, end: kernels.compact(*state, begin, end), len(self.rows), _ALONE)
        self._settle(np.arange(len(self.rows)), shifts, slacks, unit)

    def finish(self, shifts: np.ndarray, slacks: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
        """The best rows and their scores [q, depth] in the total order; documents there must be as many."""
        self.settle_all(shifts, slacks, unit)
        return self.rows[:, : self.depth].copy(), self.values[:, : self.depth].copy()

    def _settle(self, queries: np.ndarray, shifts: np.ndarray, slacks: np.ndarray, unit: float) -> None:
        """Canonical scores for all candidates of some queries, which are then cut to the best."""
        ends = np.cumsum(self.counts[queries] - self.settled[queries])
        parts = np.searchsorted(ends, np.arange(_PAIRS, int(ends[-1]) if len(ends) else 0, _PAIRS), "right")
        for some in np.split(queries, np.unique(parts)):
            if len(some):
                self._settle_some(some)
        full = queries[self.counts[queries] >= self.depth]
        lower = self.values[full, self.depth - 1] - shifts[full] - slacks[full]
        lower = np.where(lower > 0, lower / (1 + unit), lower / (1 - unit)) + shifts[full]
        self.bars[full] = np.maximum(self.bars[full], lower)

    def _settle_some(self, queries: np.ndarray) -> None:
        most = int(self.counts[queries].max())
        here = np.arange(most)
        present = here < self.counts[queries, None]
        fresh = present & (here >= self.settled[queries, None])
        asked, column = np.nonzero(fresh)
        asked = queries[asked]
        self.rescored += len(asked)
        self.values[asked, column] = self.scorer(asked, self.rows[asked, column])
        rows, scores = best(self.rows[queries, :most], self.values[queries, :most], present, self.depth, self.places)
        kept = rows.shape[1]
        self.rows[queries, :kept], self.values[queries, :kept] = rows, scores
        self.counts[queries] = self.settled[queries] = np.minimum(self.counts[queries], kept)


def room_for(depth: int) -> int:
    """Candidates held of a query at most: what a bar lets through, and then some."""
    return max(4 * depth, 1024)


def best(
    rows: np.ndarray, scores: np.ndarray, present: np.ndarray, depth: int, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best `depth` of lists [q, m] of which some are `present`, in the total order; -1 and -inf where none is."""
    # One whole number tells score and place, so that one sort settles both: see the order of floats in `kernels.scan`.
    bits = np.ascontiguousarray(scores).view(np.int32).astype(np.int64)
    falling = (0x7FFFFFFF - (bits ^ ((bits >> 31) & 0x7FFFFFFF))).astype(np.uint64) << np.uint64(32)
    keys = np.where(present, falling | places[np.where(present, rows, 0)].astype(np.uint64), np.iinfo(np.uint64).max)
    order = np.argsort(keys, axis=1)[:, :depth]
    there = np.take_along_axis(present, order, 1)
    rows, scores = (np.take_along_axis(part, order, 1) for part in (rows, scores))
    return np.where(there, rows, -1).astype(np.int32), np.where(there, scores, -np.inf).astype(np.float32)
