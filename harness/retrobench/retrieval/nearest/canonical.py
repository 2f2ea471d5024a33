"""
The canonical score of a query and a document: a function of these two vectors alone, in every engine and block size.

It is the sum, in 64 bits, of the products of their float32 numbers, which are exact in 64 bits, rounded to float32.
The order of the sum is fixed: number i of a vector goes to partial sum i mod LANES, one block of LANES numbers after
the other; then the second half of the partial sums is added to the first until one is left. Zeros past the end of a
vector change nothing. The sparse part is summed over the document's entries in their stored order; a word that the
query lacks counts zero. It is multiplied by `scale` and added, in 64 bits, before the rounding. -0.0 becomes 0.0.

* pair_scores   compiled, on the processor
* torch_sums    the same sums, bit for bit, on any device

The tests write the same sum as a plain loop (`fold`) and rank all documents by it (`oracle` and `expected`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrobench.core import in_threads
from retrobench.retrieval.nearest.kernels import LANES, Pairs, score_dense, score_terms
from retrobench.retrieval.nearest.plan import SIZES
from retrobench.retrieval.nearest.vector_set import VectorSet

__all__ = ["QueryVectors", "pair_scores", "torch_sums"]

_LEAST_PAIRS = 4096  # for which a second thread pays


class QueryVectors(NamedTuple):
    """A block of queries, written out. `dense` or `terms` is None if the documents lack it."""

    dense: np.ndarray | None  # [q, d] float32
    terms: np.ndarray | None  # [q, V] float32

    @classmethod
    def of(cls, queries: VectorSet, documents: VectorSet) -> QueryVectors:
        """Write out the dense vectors and the terms of queries, as far as the documents have them."""
        dense, terms = None, None
        if documents.dense is not None:
            dense = queries.block(0, len(queries))
        if documents.terms is not None:
            terms = queries.written_terms(0, len(queries))
        return cls(dense, terms)


def pair_scores(queries: QueryVectors, documents: VectorSet, scale: float, pairs: Pairs) -> np.ndarray:
    """Return the canonical scores [m] float32 of pairs."""
    # In the order of the documents: each is read once, and a disk is read forwards.
    count = len(pairs.documents)
    half = np.uint64(32)
    keys = np.sort((pairs.documents.astype(np.uint64) << half) | np.arange(count, dtype=np.uint64))
    order = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    documents_in_order = (keys >> half).astype(np.int64)
    ordered = Pairs(pairs.queries[order], documents_in_order)
    sums = np.zeros(count)
    if queries.dense is not None:
        _sum_dense(queries.dense, documents, ordered, sums)
    if queries.terms is not None:
        sums += scale * _term_sums(queries.terms, documents, ordered)
    scores = np.empty(count, np.float32)
    scores[order] = sums
    scores += np.float32(0)  # a score that rounds to -0.0 is tied with 0.0
    return scores


def _sum_dense(queries: np.ndarray, documents: VectorSet, pairs: Pairs, sums: np.ndarray) -> None:
    """Write the sums of pairs in the order of their documents."""
    vectors = documents.dense
    if documents.stored == "float32" and vectors is not None and vectors.flags.c_contiguous:

        def work(begin: int, end: int) -> None:
            score_dense(queries, vectors, pairs, sums, begin, end)

        in_threads(work, len(sums), _LEAST_PAIRS)
        return
    step = max(1, SIZES["cpu"].numbers // documents.width)
    for begin in range(0, len(sums), step):
        block = slice(begin, begin + step)
        rows, positions = np.unique(pairs.documents[block], return_inverse=True)
        block_pairs = Pairs(pairs.queries[block], positions)
        score_dense(queries, documents.rows(rows), block_pairs, sums[block], 0, len(positions))


def _term_sums(queries: np.ndarray, documents: VectorSet, pairs: Pairs) -> np.ndarray:
    sums = np.empty(len(pairs.documents))
    terms = documents.terms

    def work(begin: int, end: int) -> None:
        score_terms(queries, terms, pairs, sums, begin, end)

    in_threads(work, len(sums), _LEAST_PAIRS)
    return sums


def torch_sums(query_rows: Tensor, document_rows: Tensor) -> Tensor:
    """Return the 64-bit sums [m] of the products of rows [m, n], in the order above."""
    missing = -query_rows.shape[1] % LANES
    if not query_rows.shape[1]:
        missing = LANES
    products = query_rows.double() * document_rows.double()
    products = torch.nn.functional.pad(products, (0, missing)).view(len(products), -1, LANES)
    sums = torch.zeros_like(products[:, 0])
    for block in products.unbind(1):
        sums = sums + block
    length = LANES // 2
    while length:
        sums = sums[:, :length] + sums[:, length : 2 * length]
        length //= 2
    return sums[:, 0] + 0.0
