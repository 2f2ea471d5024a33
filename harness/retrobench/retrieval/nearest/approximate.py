"""
Approximate search with an index of faiss, named by its factory string: "IVF64,Flat", "HNSW32", "SQ8".

The index only proposes documents. They get canonical scores and the total order, so a list is ranked exactly. `recall`
measures the documents that the lists lack.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from retrobench.core import in_threads
from retrobench.errors import RetrobenchError
from retrobench.retrieval.nearest.canonical import QueryVectors, document_order, pair_scores
from retrobench.retrieval.nearest.kernels import Pairs, TopK
from retrobench.retrieval.nearest.ordering import select_best
from retrobench.retrieval.nearest.searching import search
from retrobench.retrieval.nearest.vector_set import VectorSet

__all__ = ["EXACT", "SAMPLE", "Approximate", "check_index"]

EXACT = "exact"
SAMPLE = 1000  # evenly spaced queries that `recall` also searches exactly
_TRAINING = 2**18  # documents that an index is trained on at most
_NUMBERS = 2**24  # numbers of documents added at a time
_QUERIES = 1024  # of a block
_LEAST_QUERIES = 32  # for which a second thread pays
_USUAL_WIDTH = 768
_MOST_SUBVECTORS = 2**12  # of a product quantiser, beyond which only the usual width is tried


def check_index(factory: str, width: int | None = None) -> None:
    """Raise RetrobenchError unless `factory` is "exact" or a factory string for vectors of `width`, or of any width."""
    if factory == EXACT:
        return
    if width is not None:
        _build_index(factory, width, f" of vectors of {width} numbers")
        return
    *first_widths, last_width = _likely_widths(factory)
    for likely_width in first_widths:
        try:
            _build_index(factory, likely_width)
        except RetrobenchError:
            continue
        return
    _build_index(factory, last_width)


def _likely_widths(factory: str) -> list[int]:
    """Return widths, one of which the string's product quantisers can divide, if they can divide any."""
    sizes = re.findall(r"(?:PQ|Lattice)(\d+)", factory)
    subvectors = math.lcm(*(int(size) for size in sizes))
    if 0 < subvectors < _MOST_SUBVECTORS:
        return [_USUAL_WIDTH, 8 * subvectors]
    return [_USUAL_WIDTH]


def _build_index(factory: str, width: int, purpose: str = "") -> Any:
    import faiss

    try:
        if re.search(r"(?<!\d)0+(?!\d)", factory):  # faiss would build an index that fails later, or end the process
            raise RuntimeError("a size in it is 0")
        return faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, AssertionError) as error:
        raise RetrobenchError(
            f"faiss makes no index {factory!r}{purpose}: {_reason(error)}. "
            'Give --index exact, or a factory string such as "IVF64,Flat", "HNSW32" or "SQ8".'
        ) from None


def _reason(error: Exception) -> str:
    """Return the message of faiss without its place in the source of faiss."""
    if not str(error):
        return type(error).__name__
    return str(error).rsplit(": ", 1)[-1].strip().splitlines()[0]


class Approximate:
    """Dense documents in an index. RetrobenchError for terms, and for an index that cannot be trained."""

    def __init__(self, documents: VectorSet, factory: str) -> None:
        if documents.terms is not None or documents.dense is None:
            raise RetrobenchError(
                f"--index {factory} is for dense vectors, and these have terms. Leave it out: search is exact then."
            )
        self.documents = documents
        self.factory = factory
        _ = documents.census  # raises UnsoundError, which an index would hide
        self.index = _build_index(factory, documents.width, f" of vectors of {documents.width} numbers")
        with self._user_errors("fill"):
            self._fill()

    @contextmanager
    def _user_errors(self, action: str) -> Iterator[None]:
        """Turn an error of faiss into a user's error about this index."""
        try:
            yield
        except RuntimeError as error:
            raise RetrobenchError(
                f"faiss cannot {action} an index {self.factory!r} of {len(self.documents):,} vectors: "
                f"{_reason(error)}. Take another."
            ) from None

    def _fill(self) -> None:
        documents = self.documents
        if not self.index.is_trained:
            step = -(-len(documents) // _TRAINING)
            sample = np.arange(0, len(documents), step)
            self.index.train(documents.rows(sample))
        step = max(1, _NUMBERS // documents.width)
        for begin in range(0, len(documents), step):
            self.index.add(documents.block(begin, begin + step))

    def search(self, queries: VectorSet, depth: int, tie_ranks: np.ndarray) -> Iterator[TopK]:
        """Yield blocks as `nearest.search` does, of the documents that the index proposes; a list may end early."""
        depth = min(depth, len(self.documents))
        for begin in range(0, len(queries), _QUERIES):
            vectors = QueryVectors(queries.block(begin, begin + _QUERIES), None)
            with self._user_errors("search"):
                _, rows = self.index.search(vectors.dense, depth)
            yield self._rank(vectors, rows, tie_ranks)

    def _rank(self, queries: QueryVectors, rows: np.ndarray, tie_ranks: np.ndarray) -> TopK:
        """Return the proposed rows [q, k] in the total order; -1 is no document."""
        depth = rows.shape[1]
        best = TopK(np.empty(rows.shape, np.int32), np.empty(rows.shape, np.float32))

        def work(begin: int, end: int) -> None:
            proposed = rows[begin:end]
            present = proposed >= 0
            documents, cells = document_order(proposed, np.flatnonzero(present))
            pairs = Pairs(begin + cells // depth, documents)
            scores = np.full(proposed.shape, -np.inf, np.float32)
            scores.ravel()[cells] = pair_scores(queries, self.documents, 1.0, pairs)
            best.rows[begin:end], best.scores[begin:end] = select_best(proposed, scores, present, depth, tie_ranks)

        in_threads(work, len(rows), _LEAST_QUERIES)
        return best

    def recall(self, queries: VectorSet, depth: int, tie_ranks: np.ndarray) -> dict[str, float]:
        """Return the share of the exact best k that the index finds, by name, for k = 10 and `depth`.

        At most SAMPLE queries are searched.
        """
        step = -(-len(queries) // SAMPLE)
        sample = VectorSet(queries.rows(np.arange(0, len(queries), step)))
        proposed = _joined_rows(self.search(sample, depth, tie_ranks))
        exact = _joined_rows(search(sample, self.documents, depth, tie_ranks))
        recalls = {}
        for cutoff in sorted({min(10, depth), depth}):
            recalls[f"recall of the index@{cutoff}"] = _mean_overlap(proposed[:, :cutoff], exact[:, :cutoff])
        return recalls


def _joined_rows(blocks: Iterable[TopK]) -> np.ndarray:
    return np.concatenate([block.rows for block in blocks])


def _mean_overlap(proposed: np.ndarray, exact: np.ndarray) -> float:
    """Return the mean share of each query's exact rows that are among its proposed rows."""
    shares = []
    for proposed_rows, exact_rows in zip(proposed, exact, strict=True):
        shares.append(np.isin(exact_rows, proposed_rows).mean())
    return float(np.mean(shares))
