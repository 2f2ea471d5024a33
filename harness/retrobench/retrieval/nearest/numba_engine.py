"""The exact-search engine of the processor: NumPy, compiled loops, and torch's bfloat16 product."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from retrobench.core import computes_bf16, in_threads
from retrobench.retrieval.nearest.bounds import UNIT, ErrorBound, QueryBounds, dense_error, sparse_error
from retrobench.retrieval.nearest.canonical import QueryVectors, pair_scores
from retrobench.retrieval.nearest.engine import Engine
from retrobench.retrieval.nearest.kernels import Pairs, SparseQueries, add_sparse_scores, round_to_bfloat16
from retrobench.retrieval.nearest.numba_buffer import NumbaBuffer
from retrobench.retrieval.nearest.plan import SIZES
from retrobench.retrieval.nearest.vector_set import VectorSet
from retrobench.retrieval.vectors import Terms

__all__ = ["NumbaEngine"]

_FEW = 12  # queries, for which reading the documents takes all the time; rounding them first reads them twice
_LEAST_ROUNDED = 2048  # documents for which a second thread pays
_LEAST_SPARSE = 64


class NumbaEngine(Engine):
    """Documents searched where they lie, in memory or mapped from disk."""

    sizes = SIZES["cpu"]

    def load(self, queries: VectorSet) -> _NumbaQueries:
        return _NumbaQueries(self, queries)

    def bfloat16_pays(self, queries: int) -> bool:
        return queries > _FEW and computes_bf16()


class _NumbaQueries:
    """A block of queries in arrays."""

    def __init__(self, engine: NumbaEngine, queries: VectorSet) -> None:
        self.engine = engine
        self.count = len(queries)
        self.vectors = QueryVectors.of(queries, engine.documents)

    def buffer(self, depth: int) -> NumbaBuffer:
        return NumbaBuffer(self.count, depth, self.engine.tie_ranks, self._canonical_scores)

    def bfloat16_pass(self) -> _Bfloat16Pass:
        assert self.vectors.dense is not None
        return _Bfloat16Pass(self.vectors.dense, self.engine.documents)

    def float32_pass(self) -> _Float32Pass:
        return _Float32Pass(self.vectors, self.engine.documents, self.engine.scale)

    def _canonical_scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        pairs = Pairs(queries, rows)
        return pair_scores(self.vectors, self.engine.documents, self.engine.scale, pairs)


class _Bfloat16Pass:
    """First scores of vectors rounded to bfloat16, [q, n] bfloat16 as int16."""

    def __init__(self, dense: np.ndarray, documents: VectorSet) -> None:
        self.documents = documents
        self.centre = documents.census.mean
        self.rounded_queries = torch.from_numpy(dense).bfloat16()
        rounded = self.rounded_queries.double().numpy()
        centre = self.centre.astype(np.float64)
        self.queries = QueryBounds(dense.astype(np.float64), rounded, centre)
        self.rounded = np.empty((0, documents.width), np.uint16)  # the block of documents
        self.lost = self.longest = 0.0  # norms: see `dense_error`

    def scores(self, begin: int, end: int) -> tuple[np.ndarray, ErrorBound]:
        rounded = self._round(begin, end)
        documents = torch.from_numpy(rounded.view(np.int16)).view(torch.bfloat16)
        scores = self.rounded_queries @ documents.T
        score_bits = scores.view(torch.int16).numpy()
        errors = dense_error(self.queries, self.documents.width, self.lost, self.longest)
        return score_bits, ErrorBound(self.queries.shifts, errors, UNIT)

    def _round(self, begin: int, end: int) -> np.ndarray:
        """Return a block of documents, less the centre, as bfloat16 [n, d] uint16; record its norms."""
        count = end - begin
        if len(self.rounded) < count:
            self.rounded = np.empty((count, self.documents.width), np.uint16)
        rounded = self.rounded[:count]
        norms: list[tuple[float, float]] = []

        def work(first: int, last: int) -> None:
            block = self.documents.block(begin + first, begin + last)
            norms.append(round_to_bfloat16(block, self.centre, rounded[first:last]))

        in_threads(work, count, _LEAST_ROUNDED)
        for lost, longest in norms:
            self.lost = max(self.lost, lost**0.5)
            self.longest = max(self.longest, longest**0.5)
        return rounded


class _Float32Pass:
    """First scores in 32 bits, [q, n], of dense vectors, terms or both."""

    def __init__(self, queries: QueryVectors, documents: VectorSet, scale: float) -> None:
        self.dense = queries.dense
        self.documents = documents
        census = documents.census
        errors: Any = 0.0
        if queries.dense is not None:
            bounds = QueryBounds(queries.dense.astype(np.float64))
            errors = errors + dense_error(bounds, documents.width, 0.0, census.longest)
        if queries.terms is not None:
            norms = np.linalg.norm(queries.terms.astype(np.float64), axis=1)
            errors = errors + sparse_error(norms, census.heaviest, census.entries, scale)
            self.terms = SparseQueries(
                weights=np.ascontiguousarray(queries.terms.T),
                used=(queries.terms != 0).any(0),
                scale=np.float32(scale),
            )
        self.bound = ErrorBound(np.zeros_like(errors), errors, 0.0)

    def scores(self, begin: int, end: int) -> tuple[np.ndarray, ErrorBound]:
        documents = self.documents.slice(begin, end)
        if self.dense is not None:
            block = documents.block(0, len(documents))
            scores = self.dense @ block.T
        else:
            shape = (len(self.bound.errors), len(documents))
            scores = np.zeros(shape, np.float32)
        terms = documents.terms
        if terms is not None:
            self._add_sparse(terms, scores)
        return scores, self.bound

    def _add_sparse(self, terms: Terms, scores: np.ndarray) -> None:
        def work(first: int, last: int) -> None:
            add_sparse_scores(terms, self.terms, scores, first, last)

        in_threads(work, scores.shape[1], _LEAST_SPARSE)
