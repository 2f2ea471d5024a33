"""The interface of the exact-search engines, and the search that both share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np

from retrobench.retrieval.nearest.bounds import ErrorBound
from retrobench.retrieval.nearest.buffer import CandidateBuffer
from retrobench.retrieval.nearest.kernels import TopK
from retrobench.retrieval.nearest.plan import Plan, Sizes, documents_together
from retrobench.retrieval.nearest.vector_set import VectorSet

__all__ = ["Engine", "FirstPass", "QueryBlock"]

FLOOD = 0.02  # share of all pairs that are rescored, above which a first pass in 32 bits is faster


class FirstPass(Protocol):
    """First scores of one block of queries, in one precision."""

    def scores(self, begin: int, end: int) -> tuple[Any, ErrorBound]:
        """Return first scores [q, n] of documents `begin` to `end`, and a bound for these and all earlier ones."""


class QueryBlock(Protocol):
    """A block of queries, made ready on an engine's device."""

    def buffer(self, depth: int) -> CandidateBuffer:
        """Return an empty buffer, whose scorer computes canonical scores."""

    def rounded_pass(self) -> FirstPass:
        """Return the first pass over rounded dense vectors."""

    def float32_pass(self) -> FirstPass:
        """Return the first pass over dense vectors, terms or both."""


class Engine(ABC):
    """Documents made ready for exact search on one device.

    `tie_ranks` [N] int32 is the precedence of documents with equal scores, lowest first. `scale` is the weight of the
    product of terms. UnsoundError is raised for a document that cannot be ranked, at the latest by the first search.
    """

    sizes: Sizes

    def __init__(self, documents: VectorSet, tie_ranks: np.ndarray, scale: float, plan: Plan) -> None:
        self.documents = documents
        self.tie_ranks = tie_ranks
        self.scale = scale
        self.plan = plan

    @abstractmethod
    def load(self, queries: VectorSet) -> QueryBlock:
        """Make a block of queries ready."""

    @abstractmethod
    def rounding_pays(self, queries: int) -> bool:
        """Return whether a first pass over rounded vectors is faster than one in 32 bits for this many queries."""

    def search(self, queries: VectorSet, depth: int) -> TopK:
        """Return the best `depth` (at most N) documents of each query, as one block of queries."""
        block = self.load(queries)
        buffer = block.buffer(depth)
        self._fill(buffer, block)
        return buffer.finish()

    def _fill(self, buffer: CandidateBuffer, block: QueryBlock) -> None:
        """Add the first scores of all documents to a buffer of a block of queries."""
        queries = buffer.queries
        documents = len(self.documents)
        rounded = self._starts_rounded(queries)
        first_pass = block.rounded_pass() if rounded else block.float32_pass()
        step = self.plan.documents or documents_together(queries, self.sizes)
        flood = queries * (FLOOD * documents + 4 * buffer.depth)
        for begin in range(0, documents, step):
            scores, bound = first_pass.scores(begin, min(begin + step, documents))
            buffer.add(scores, begin, bound)
            if rounded and buffer.rescored > flood:
                buffer.settle_all()
                first_pass = block.float32_pass()
                rounded = False

    def _starts_rounded(self, queries: int) -> bool:
        if self.documents.terms is not None or self.plan.first == "fp32":
            return False
        return self.plan.first == "rounded" or self.rounding_pays(queries)
