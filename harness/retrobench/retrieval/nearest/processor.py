"""Exact search on the processor: a first pass over blocks of documents, in bfloat16 where the processor has it."""

from __future__ import annotations

import numpy as np
import torch

from retrobench.core import computes_bf16, in_threads
from retrobench.retrieval.nearest import kernels
from retrobench.retrieval.nearest.bounds import UNIT, Asked, dense_slack, sparse_slack
from retrobench.retrieval.nearest.canonical import pair_scores
from retrobench.retrieval.nearest.documents import Documents
from retrobench.retrieval.nearest.kept import Kept

__all__ = ["FLOOD", "halves_pay", "search_block"]

FEW = 12  # queries for which reading the documents is all the time: rounding them first would be a second reading
FLOOD = 0.02  # share of all pairs scored again from which on the first pass is done in 32 bits instead
_SCORES = 2**22  # first scores held at a time: they stay in the cache
_ROWS = (2**10, 2**16)  # of a block, at least and at most


def search_block(
    queries: Documents, documents: Documents, depth: int, places: np.ndarray, scale: float, halves: bool, rows: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The best `depth` (at most N) rows of each query and their canonical scores [q, depth], in the total order.

    `halves` allows a first pass in bfloat16, `rows` are the documents looked at together; the result knows neither.
    """
    dense = queries.block(0, len(queries)) if documents.width else None
    words = queries.whole_terms(0, len(queries)) if documents.terms else None
    kept = Kept(
        len(queries), depth, places, lambda asked, found: pair_scores(dense, words, documents, scale, asked, found)
    )
    pass_ = _Halves(dense, documents) if halves and dense is not None and words is None else None
    whole = _Whole(dense, words, documents, scale)
    step = rows or int(np.clip(_SCORES // max(1, len(queries)), *_ROWS))
    limit, first = FLOOD * len(queries) * len(documents), pass_ or whole
    for begin in range(0, len(documents), step):
        kept.add(first.scores(begin, begin + step), begin, first.shifts, first.slacks, first.unit)
        if first is pass_ and kept.rescored > limit:
            kept.settle_all(first.shifts, first.slacks, first.unit)
            first = whole
    return kept.finish(first.shifts, first.slacks, first.unit)


def halves_pay(queries: int) -> bool:
    """Whether a first pass in bfloat16 is the faster one here."""
    return queries > FEW and computes_bf16()


class _Halves:
    """First scores of vectors rounded to bfloat16, [q, n] bfloat16 as int16."""

    unit = UNIT

    def __init__(self, dense: np.ndarray, documents: Documents) -> None:
        self.documents, self.centre = documents, documents.census.mean
        self.halves = torch.from_numpy(dense).bfloat16()
        self.asked = Asked(dense.astype(np.float64), self.halves.double().numpy(), self.centre.astype(np.float64))
        self.shifts, self.slacks = self.asked.shifts, np.zeros(len(dense))
        self.held = np.empty((0, documents.width), np.uint16)
        self.lost = self.longest = 0.0

    def scores(self, begin: int, end: int) -> np.ndarray:
        count = min(end, len(self.documents)) - begin
        if len(self.held) < count:
            self.held = np.empty((count, self.documents.width), np.uint16)
        held, norms = self.held[:count], []

        def work(first: int, last: int) -> None:
            block = self.documents.block(begin + first, begin + last)
            norms.append(kernels.halve(block, self.centre, held[first:last]))

        in_threads(work, count, 2048)
        self.lost = max(self.lost, *(norm[0] ** 0.5 for norm in norms))
        self.longest = max(self.longest, *(norm[1] ** 0.5 for norm in norms))
        self.slacks = dense_slack(self.asked, self.documents.width, self.lost, self.longest)
        right = torch.from_numpy(held.view(np.int16)).view(torch.bfloat16)
        return (self.halves @ right.T).view(torch.int16).numpy()


class _Whole:
    """First scores in 32 bits, [q, n], of dense vectors, sparse ones or both."""

    unit = 0.0

    def __init__(self, dense: np.ndarray | None, words: np.ndarray | None, documents: Documents, scale: float) -> None:
        self.dense, self.documents, self.scale, census = dense, documents, scale, documents.census
        count = len(dense) if dense is not None else len(words) if words is not None else 0
        self.shifts = self.slacks = np.zeros(count)
        if dense is not None:
            self.slacks = self.slacks + dense_slack(
                Asked(dense.astype(np.float64)), documents.width, 0.0, census.longest
            )
        if words is not None:
            norms = np.linalg.norm(words.astype(np.float64), axis=1)
            self.slacks = self.slacks + sparse_slack(norms, census.heaviest, census.entries, scale)
            self.words, self.some = np.ascontiguousarray(words.T), (words != 0).any(0)

    def scores(self, begin: int, end: int) -> np.ndarray:
        end = min(end, len(self.documents))
        out: np.ndarray
        if self.dense is not None:
            out = self.dense @ self.documents.block(begin, end).T
        else:
            out = np.zeros((len(self.shifts), end - begin), np.float32)
        terms = self.documents.terms
        if terms is not None:
            starts, scale = terms.indptr[begin : end + 1], np.float32(self.scale)
            rest = (terms.indices, terms.values, self.words, self.some, scale, out)
            in_threads(lambda a, b: kernels.sparse(starts, *rest, a, b), end - begin, 64)
        return out
