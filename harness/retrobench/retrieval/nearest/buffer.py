"""The interface of the candidate buffers, and the steps that do not depend on NumPy or torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from retrobench.retrieval.nearest.bounds import ErrorBound, canonical_threshold, loosened
from retrobench.retrieval.nearest.kernels import TopK
from retrobench.retrieval.nearest.scanning import CandidateArrays

__all__ = ["CandidateBuffer", "Scorer", "buffer_room"]

# Rows [m] of queries and of documents -> canonical scores [m] float32 of these pairs.
Scorer = Callable[[Any, Any], Any]


def buffer_room(depth: int) -> int:
    """Return the most candidates of a query: the best `depth`, and room for the first scores close to them."""
    return max(5 * depth, 1536)


class CandidateBuffer(ABC):
    """A bounded candidate buffer for each query of a block.

    It keeps the documents that may be among the best `depth`, by the thresholds of `bounds`. Settling gives candidates
    their canonical scores and keeps the best `depth` of them. It happens at the end, and earlier for a query whose
    threshold cannot keep its candidates few.
    """

    def __init__(self, candidates: CandidateArrays, depth: int, tie_ranks: Any, scorer: Scorer) -> None:
        self.candidates = candidates
        self.queries = len(candidates.rows)
        self.depth = depth
        self.tie_ranks = tie_ranks
        self.scorer = scorer
        nothing = 0 * candidates.counts
        self.bound = ErrorBound(nothing, nothing, 0.0)  # of the documents added so far
        self.rescored = 0  # pairs given to the scorer

    def add(self, scores: Any, first_row: int, bound: ErrorBound) -> None:
        """Collect candidates from first scores [q, n], float32 or bfloat16, of the documents from `first_row` on.

        `bound` holds for these documents and all earlier ones.
        """
        self.candidates.thresholds[:] = loosened(self.candidates.thresholds, self.bound, bound)
        self.bound = bound
        self._collect(scores, first_row)

    def settle_all(self) -> None:
        """Settle all queries. Afterwards first scores of another kind may be added."""
        self._settle(self._all_queries())

    def finish(self) -> TopK:
        """Return the best `depth` documents of each query; at least as many must have been added."""
        self.settle_all()
        rows = self.candidates.rows[:, : self.depth]
        values = self.candidates.values[:, : self.depth]
        return TopK(self._to_numpy(rows), self._to_numpy(values))

    def _settle(self, queries: Any) -> None:
        for group in self._groups(queries):
            self._rescore(group)
        candidates = self.candidates
        full = queries[candidates.counts[queries] >= self.depth]
        kth = candidates.values[full, self.depth - 1]
        raised = canonical_threshold(kth, self.bound.select(full))
        candidates.thresholds[full] = candidates.thresholds[full].clip(raised)

    @abstractmethod
    def _collect(self, scores: Any, first_row: int) -> None:
        """Append the documents that reach their query's threshold; make room where there is none."""

    @abstractmethod
    def _to_numpy(self, array: Any) -> np.ndarray:
        """Return a copy that does not hold the memory of the buffer."""

    @abstractmethod
    def _all_queries(self) -> Any:
        """Return the rows of all queries."""

    @abstractmethod
    def _groups(self, queries: Any) -> Iterator[Any]:
        """Return the queries in groups that are settled together, which bounds the memory of it."""

    @abstractmethod
    def _rescore(self, queries: Any) -> None:
        """Give all candidates of these queries their canonical scores, and keep the best `depth` in the total order."""
