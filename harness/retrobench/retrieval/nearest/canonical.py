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

from retrobench.retrieval.nearest.kernels import LANES, Pairs, score_dense, score_terms
from retrobench.retrieval.nearest.plan import SIZES
from retrobench.retrieval.nearest.vector_set import VectorSet

__all__ = ["QueryVectors", "document_order", "pair_scores", "torch_sums"]


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
    """Return the canonical scores [m] float32 of pairs, which are in `document_order`, in the calling thread."""
    sums = np.zeros(len(pairs.documents))
    if queries.dense is not None:
        _sum_dense(queries.dense, documents, pairs, sums)
    if queries.terms is not None:
        term_sums = np.empty(len(sums))
        score_terms(queries.terms, documents.terms, pairs, term_sums)
        sums += scale * term_sums
    scores = sums.astype(np.float32)
    scores += np.float32(0)  # a score that rounds to -0.0 is tied with 0.0
    return scores


def document_order(rows: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of documents in cells [m] of an array, and the cells, both in the order of the rows.

    In this order each document is read once, and a disk is read forwards.
    """
    documents = rows.ravel()[cells].astype(np.int64)
    keys = (documents << 32) | cells
    keys.sort()
    return keys >> 32, keys & 0xFFFFFFFF


def _sum_dense(queries: np.ndarray, documents: VectorSet, pairs: Pairs, sums: np.ndarray) -> None:
    vectors = documents.dense
    if documents.stored == "float32" and vectors is not None and vectors.flags.c_contiguous:
        score_dense(queries, vectors, pairs, sums)
        return
    step = max(1, SIZES["cpu"].numbers // documents.width)
    for begin in range(0, len(sums), step):
        block = slice(begin, begin + step)
        rows, positions = np.unique(pairs.documents[block], return_inverse=True)
        block_pairs = Pairs(pairs.queries[block], positions)
        score_dense(queries, documents.rows(rows), block_pairs, sums[block])


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
