"""The candidate buffer in NumPy arrays and compiled loops."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from retrobench.core import in_threads
from retrobench.retrieval.nearest.buffer import CandidateBuffer, Scorer, buffer_room
from retrobench.retrieval.nearest.ordering import select_best
from retrobench.retrieval.nearest.scanning import CandidateArrays, ScoreBlock, compact, scan

__all__ = ["NumbaBuffer"]

_PAIRS = 2**20  # rescored together
_LEAST_QUERIES = 256  # for which a second thread pays


class NumbaBuffer(CandidateBuffer):
    """The candidates of q queries on the processor."""

    def __init__(self, queries: int, depth: int, tie_ranks: np.ndarray, scorer: Scorer) -> None:
        shape = (queries, buffer_room(depth))
        candidates = CandidateArrays(
            rows=np.empty(shape, np.int32),
            values=np.empty(shape, np.float32),
            counts=np.zeros(queries, np.int64),
            settled=np.zeros(queries, np.int64),
            thresholds=np.full(queries, -np.inf),
        )
        super().__init__(candidates, depth, tie_ranks, scorer)

    def _collect(self, scores: np.ndarray, first_row: int) -> None:
        positions = np.zeros(len(scores), np.int64)
        if scores.dtype == np.float32:
            scores = scores.view(np.int32)
        block = ScoreBlock(scores, first_row, positions)

        def work(begin: int, end: int) -> None:
            scan(block, self.candidates, self.depth, self.bound, begin, end)

        while True:
            in_threads(work, len(scores), _LEAST_QUERIES)
            crowded = np.flatnonzero(positions < scores.shape[1])
            if not len(crowded):
                return
            self._settle(crowded)

    def _compact(self) -> None:
        def work(begin: int, end: int) -> None:
            compact(self.candidates, self.depth, self.bound, begin, end)

        in_threads(work, len(self.candidates.rows), _LEAST_QUERIES)

    def _to_numpy(self, array: np.ndarray) -> np.ndarray:
        return array.copy()

    def _all_queries(self) -> np.ndarray:
        return np.arange(len(self.candidates.rows))

    def _groups(self, queries: np.ndarray) -> Iterator[np.ndarray]:
        unsettled = self.candidates.counts[queries] - self.candidates.settled[queries]
        ends = np.cumsum(unsettled)
        full_groups = np.arange(_PAIRS, unsettled.sum(), _PAIRS)
        edges = np.searchsorted(ends, full_groups, "right")
        for group in np.split(queries, np.unique(edges)):
            if len(group):
                yield group

    def _rescore(self, queries: np.ndarray) -> None:
        rows, values, counts, settled, _ = self.candidates
        longest = int(counts[queries].max())
        columns = np.arange(longest)
        present = columns < counts[queries, None]
        unsettled = present & (columns >= settled[queries, None])
        index, column = np.nonzero(unsettled)
        query = queries[index]
        self.rescored += len(query)
        values[query, column] = self.scorer(query, rows[query, column])
        query_rows = rows[queries, :longest]
        query_values = values[queries, :longest]
        best = select_best(query_rows, query_values, present, self.depth, self.tie_ranks)
        width = best.rows.shape[1]
        rows[queries, :width] = best.rows
        values[queries, :width] = best.scores
        remaining = np.minimum(counts[queries], width)
        counts[queries] = remaining
        settled[queries] = remaining
