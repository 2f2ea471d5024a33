"""
The score of a query and a document: a function of these two vectors alone, whatever found them.

As float32 the sum, in 64 bits, of the products of their float32 numbers, which are exact in 64 bits. The sum is taken
in one order everywhere: LANES partial sums, number i of a vector going to sum i mod LANES, one after the other; then
the second half of the sums is added to the first until one is left. Numbers that a longer vector would have, being
zero, change nothing. The sparse part is summed over the document's entries as they are stored, a word that the query
lacks counting zero; it is weighed by `scale` and added, in 64 bits, before the rounding. There is one zero.

* pair_scores   compiled, on the processor
* torch_sums    the same sums, bit for bit, on any device
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrobench.core import in_threads
from retrobench.retrieval.nearest import kernels
from retrobench.retrieval.nearest.documents import Documents
from retrobench.retrieval.nearest.kernels import LANES

__all__ = ["pair_scores", "torch_sums"]

_TAKEN = 2**22  # numbers of documents read together
_ALONE = 4096  # so few pairs are not worth a second thread


def pair_scores(
    queries: np.ndarray | None,
    words: np.ndarray | None,
    documents: Documents,
    scale: float,
    asked: np.ndarray,
    found: np.ndarray,
) -> np.ndarray:
    """Scores [m] float32 of the pairs of rows `asked` of the queries (dense [Q, d], words [Q, V]) and `found` [m]."""
    # In the order of the documents: each is read once, and a disk is read forwards.
    keys = np.sort((found.astype(np.uint64) << np.uint64(32)) | np.arange(len(found), dtype=np.uint64))
    order, found = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64), (keys >> np.uint64(32)).astype(np.int64)
    asked, sums = asked[order], np.zeros(len(order))
    if queries is not None:
        _dense(queries, documents, asked, found, sums)
    if words is not None and documents.terms is not None:
        parts = np.empty(len(order))
        work: Any = partial(kernels.score_terms, words, *documents.terms, asked, found, parts)
        in_threads(work, len(order), _ALONE)
        sums += scale * parts
    out = np.empty(len(order), np.float32)
    out[order] = sums
    out += np.float32(0)  # what rounds to -0.0 is tied with 0.0
    return out


def _dense(queries: np.ndarray, documents: Documents, asked: np.ndarray, found: np.ndarray, out: np.ndarray) -> None:
    if documents.stored == "float32" and documents.dense is not None and documents.dense.flags.c_contiguous:
        in_threads(lambda a, b: kernels.score(queries, documents.dense, asked, found, out, a, b), len(out), _ALONE)
        return
    step, begin = max(1, _TAKEN // documents.width), 0
    while begin < len(found):
        rows, places = np.unique(found[begin : begin + step], return_inverse=True)
        kernels.score(queries, documents.rows(rows), asked[begin : begin + step], places, out[begin:], 0, len(places))
        begin += step


def torch_sums(left: Tensor, right: Tensor) -> Tensor:
    """The 64-bit sums [m] of the products of rows [m, n], in the order above."""
    missing = -left.shape[1] % LANES if left.shape[1] else LANES
    products = left.double() * right.double()
    products = torch.nn.functional.pad(products, (0, missing)).view(len(products), -1, LANES)
    sums = torch.zeros_like(products[:, 0])
    for block in products.unbind(1):
        sums = sums + block
    length = LANES // 2
    while length:
        sums = sums[:, :length] + sums[:, length : 2 * length]
        length //= 2
    return sums[:, 0] + 0.0
