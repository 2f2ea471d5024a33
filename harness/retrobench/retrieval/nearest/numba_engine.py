"""
The exact-search engine of the processor: NumPy, compiled loops, and torch's int8 product.

The torch engine runs on a processor too, several times slower for many queries: `retrobench bench search` shows both.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from retrobench.core import in_threads
from retrobench.model import has_int8_product, int8_product
from retrobench.retrieval.nearest.bounds import ErrorBound, QueryBounds, dense_error, sparse_error
from retrobench.retrieval.nearest.canonical import QueryVectors, pair_scores
from retrobench.retrieval.nearest.engine import Engine
from retrobench.retrieval.nearest.kernels import (
    Pairs,
    Rounded,
    SparseQueries,
    TopK,
    add_sparse_scores,
    round_to_int8,
)
from retrobench.retrieval.nearest.numba_buffer import NumbaBuffer
from retrobench.retrieval.nearest.plan import SIZES
from retrobench.retrieval.nearest.scanning import FirstScores
from retrobench.retrieval.nearest.vector_set import VectorSet
from retrobench.retrieval.vectors import Terms

__all__ = ["NumbaEngine"]

_FEW = 12  # queries, for which reading the documents takes all the time; rounding them first reads them twice
_WIDEST = 2**17  # numbers of a vector whose int8 products add up in 32 bits
_LEAST_ROUNDED = 1024  # documents for which a second thread pays
_LEAST_SPARSE = 64
_SAMPLE = 4096  # documents
# A sample pays from these numbers of documents and of queries on.
_MANY_DOCUMENTS = 2**15
_MANY_QUERIES = 64


class NumbaEngine(Engine):
    """Documents searched where they lie, in memory or mapped from disk."""

    # The scores of a block stay in the cache. With 16 more documents, those of one document lie in all parts of it.
    sizes = replace(SIZES["cpu"], scores=2**20, extra=16)

    def search(self, queries: VectorSet, depth: int) -> TopK:
        """Return the best `depth` (at most N) documents of each query, as one block of queries.

        The best of a sample of the documents tell a score that all results probably reach, so that few candidates are
        collected. Where a result does not reach it, the search is repeated without it.
        """
        guesses = self._guess(queries, depth)
        if guesses is not None:
            block = self.load(queries)
            buffer = block.buffer(depth)
            buffer.leave_out_below(guesses)
            self._fill(buffer, block)
            best = buffer.finish()
            if (best.scores[:, -1] >= guesses).all():
                return best
        return super().search(queries, depth)

    def _guess(self, queries: VectorSet, depth: int) -> np.ndarray | None:
        """Return canonical scores [q] that `depth` documents probably reach, or None where a sample does not pay."""
        rank = _sampled_rank(depth, len(self.documents))
        if len(queries) < _MANY_QUERIES or rank > _SAMPLE // 2 or not self._starts_rounded(len(queries)):
            return None
        if self._sample is None:
            return None
        return self._sample.search(queries, rank).scores[:, -1]

    @cached_property
    def _sample(self) -> NumbaEngine | None:
        """Return an engine of randomly drawn documents, or None if there are few documents."""
        if len(self.documents) < _MANY_DOCUMENTS:
            return None
        draw = np.random.default_rng(0)
        drawn = draw.choice(len(self.documents), _SAMPLE, replace=False, shuffle=False)
        rows = np.sort(drawn)
        return NumbaEngine(VectorSet(self.documents.rows(rows)), self.tie_ranks[rows], self.scale, self.plan)

    def load(self, queries: VectorSet) -> _NumbaQueries:
        return _NumbaQueries(self, queries)

    def rounding_pays(self, queries: int) -> bool:
        width = self.documents.width
        return queries > _FEW and width < _WIDEST and has_int8_product(width)


def _sampled_rank(depth: int, documents: int) -> int:
    """Return a rank in the sample whose document is not among the best `depth` of all, but once in a million cases.

    The best documents in the sample are nearly a Poisson number.
    """
    mean = depth * _SAMPLE / documents
    return int(mean + 5 * mean**0.5 + 4)


class _NumbaQueries:
    """A block of queries in arrays."""

    def __init__(self, engine: NumbaEngine, queries: VectorSet) -> None:
        self.engine = engine
        self.count = len(queries)
        self.vectors = QueryVectors.of(queries, engine.documents)

    def buffer(self, depth: int) -> NumbaBuffer:
        return NumbaBuffer(self.count, depth, self.engine.tie_ranks, self._canonical_scores)

    def rounded_pass(self) -> _Int8Pass:
        assert self.vectors.dense is not None
        return _Int8Pass(self.vectors.dense, self.engine.documents)

    def float32_pass(self) -> _Float32Pass:
        return _Float32Pass(self.vectors, self.engine.documents, self.engine.scale)

    def _canonical_scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        pairs = Pairs(queries, rows)
        return pair_scores(self.vectors, self.engine.documents, self.engine.scale, pairs)


class _Int8Pass:
    """First scores of vectors rounded to int8, each in a unit of its own, with the penalties of `bounds`."""

    def __init__(self, dense: np.ndarray, documents: VectorSet) -> None:
        self.documents = documents
        self.centre = documents.census.mean
        rounded = Rounded.empty(*dense.shape)
        round_to_int8(dense, np.zeros(documents.width, np.float32), rounded, 0)
        self.rounded_queries = torch.from_numpy(rounded.numbers)
        widened = rounded.numbers * rounded.units[:, None].astype(np.float64)
        self.queries = QueryBounds(dense.astype(np.float64), widened, self.centre.astype(np.float64))
        is_rounded = rounded.units > 0
        self.units = np.where(is_rounded, rounded.units, np.float32(1))
        self.weights = (self.queries.norms / self.units).astype(np.float32)
        # The rounding error of a query is at least this share of the query.
        shares = self.queries.lost[is_rounded] / self.queries.norms[is_rounded]
        self.share = float(shares.min(initial=1.0))
        self.rounded = Rounded.empty(0, documents.width)  # the block of documents
        self.products = torch.empty(0, dtype=torch.int32)
        self.lost = self.longest = 0.0  # norms: see `dense_error`

    def scores(self, begin: int, end: int) -> tuple[FirstScores, ErrorBound]:
        rounded = self._round(begin, end)
        products = self._multiply(rounded)
        self.lost = max(self.lost, float(rounded.lost.max()))
        self.longest = max(self.longest, float(rounded.lengths.max()))
        errors = dense_error(self.queries, self.documents.width, self.lost, self.longest)
        penalties = (self.lost - rounded.lost) + self.share * (self.longest - rounded.lengths)
        scores = FirstScores(products, rounded.units, penalties, self.units, self.weights)
        return scores, ErrorBound(self.queries.shifts, errors, 0.0)

    def _round(self, begin: int, end: int) -> Rounded:
        """Return a block of documents, less the centre."""
        count = end - begin
        if len(self.rounded.units) < count:
            self.rounded = Rounded.empty(count, self.documents.width)
        rounded = self.rounded.head(count)

        def work(first: int, last: int) -> None:
            block = self.documents.block(begin + first, begin + last)
            round_to_int8(block, self.centre, rounded, first)

        in_threads(work, count, _LEAST_ROUNDED)
        return rounded

    def _multiply(self, documents: Rounded) -> np.ndarray:
        """Return the products [q, n] int32 of the queries and a block of documents."""
        shape = (len(self.units), len(documents.units))
        count = shape[0] * shape[1]
        if len(self.products) < count:
            self.products = torch.empty(count, dtype=torch.int32)
        products = self.products[:count].view(shape)
        int8_product(self.rounded_queries, torch.from_numpy(documents.numbers), products)
        return products.numpy()


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

    def scores(self, begin: int, end: int) -> tuple[FirstScores, ErrorBound]:
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
        return FirstScores.plain(scores), self.bound

    def _add_sparse(self, terms: Terms, scores: np.ndarray) -> None:
        def work(first: int, last: int) -> None:
            add_sparse_scores(terms, self.terms, scores, first, last)

        in_threads(work, scores.shape[1], _LEAST_SPARSE)
