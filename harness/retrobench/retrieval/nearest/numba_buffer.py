"""The candidate buffer in NumPy arrays and compiled loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from retrobench.core import in_threads
from retrobench.retrieval.nearest.buffer import CandidateBuffer, Scorer, buffer_room
from retrobench.retrieval.nearest.canonical import document_order
from retrobench.retrieval.nearest.ordering import select_best
from retrobench.retrieval.nearest.scanning import CandidateArrays, FirstScores, discard, promote, scan

__all__ = ["NumbaBuffer"]

_PAIRS = 2**20  # rescored together
_SLACK = 0.7  # of a query's error: of two small numbers of pairs, the first is nearly all that must be rescored
_LEAST_QUERIES = 32  # for which a second thread pays


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

    def leave_out_below(self, scores: np.ndarray) -> None:
        """Leave out documents whose canonical score is below `scores` [q], before documents are added.

        The result of a query is complete if its last score reaches this one. Other results may end early.
        """
        self.candidates.thresholds[:] = scores

    def _collect(self, scores: FirstScores, first_row: int) -> None:
        queries, documents = scores.numbers.shape
        positions = np.zeros(queries, np.int64)

        def work(begin: int, end: int) -> None:
            scan(scores, first_row, positions, self.candidates, self.depth, self.bound, begin, end)

        while True:
            in_threads(work, queries, _LEAST_QUERIES)
            crowded = np.flatnonzero(positions < documents)
            if not len(crowded):
                return
            self._relieve(crowded)

    def _relieve(self, queries: np.ndarray) -> None:
        """Make room for queries: canonical scores of their best candidates raise the thresholds."""
        for group in self._groups(queries):
            self._in_threads(self._score_few, group)
        room = self.candidates.rows.shape[1]
        crowded = queries[self.candidates.counts[queries] > room - room // 4]
        if len(crowded):
            self._settle(crowded)

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
        self._in_threads(self._score_all, queries)

    def _in_threads(self, score: Callable[[np.ndarray], int], queries: np.ndarray) -> None:
        """Call `score`, which returns the pairs that it scored, with shares of the queries."""
        pairs: list[int] = []

        def work(begin: int, end: int) -> None:
            pairs.append(score(queries[begin:end]))

        in_threads(work, len(queries), _LEAST_QUERIES)
        self.rescored += sum(pairs)

    def _score_few(self, queries: np.ndarray) -> int:
        """Score the best candidates, the fewest that raise the threshold."""
        no_slack = np.zeros(self.queries)
        return self._score_best(queries, no_slack)

    def _score_all(self, queries: np.ndarray) -> int:
        # Canonical scores are nearly first scores, so few candidates are left to score after these.
        first_pairs = self._score_best(queries, _SLACK * self.bound.errors)
        further_pairs = self._score(queries, self.candidates.counts[queries])
        self._sort(queries)
        return first_pairs + further_pairs

    def _score_best(self, queries: np.ndarray, slack: np.ndarray) -> int:
        """Score the candidates whose value is at most `slack` [q] below the k-th largest one."""
        ends = np.empty(len(queries), np.int64)
        promote(self.candidates, self.depth, slack, queries, ends)
        return self._score(queries, ends)

    def _score(self, queries: np.ndarray, ends: np.ndarray) -> int:
        """Give the candidates before `ends` [q] of queries [q] canonical scores, and drop those that can go then."""
        rows, values, _, settled, _ = self.candidates
        starts = settled[queries]
        lengths = ends - starts
        firsts = np.cumsum(lengths) - lengths  # the position of each query's first pair
        pairs = int(lengths.sum())
        room = rows.shape[1]
        first_cells = queries * room + starts
        cells = np.arange(pairs) + np.repeat(first_cells - firsts, lengths)
        documents, cells = document_order(rows, cells)
        values.ravel()[cells] = self.scorer(cells // room, documents)
        settled[queries] = ends
        discard(self.candidates, self.depth, self.bound, queries)
        return pairs

    def _sort(self, queries: np.ndarray) -> None:
        """Sort the candidates of queries, and keep the best `depth`."""
        rows, values, counts, settled, _ = self.candidates
        longest = max(self.depth, int(counts[queries].max()))
        present = np.arange(longest) < counts[queries, None]
        best = select_best(rows[queries, :longest], values[queries, :longest], present, self.depth, self.tie_ranks)
        rows[queries, : self.depth] = best.rows
        values[queries, : self.depth] = best.scores
        counts[queries] = np.minimum(counts[queries], self.depth)
        settled[queries] = counts[queries]
