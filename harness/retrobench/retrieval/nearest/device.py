"""
Exact search by torch, on a GPU or any device it knows.

A block of first scores [q, n] is read once more, for the maxima of its tiles; the few tiles that reach their query's
bar are looked at hit by hit. Vectors lie on the device if they leave it room, else they are sent block by block.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from retrobench.retrieval.nearest.bounds import UNIT, Asked, dense_slack, sparse_slack
from retrobench.retrieval.nearest.canonical import torch_sums
from retrobench.retrieval.nearest.documents import Documents
from retrobench.retrieval.nearest.held import TILE, Held
from retrobench.retrieval.nearest.kernels import LARGEST
from retrobench.retrieval.nearest.processor import FLOOD

__all__ = ["Engine"]

_ROWS = 2**16  # documents at a time
_SCORES = {"cuda": 2**30, "cpu": 2**22}  # first scores at a time
_NUMBERS = {"cuda": 2**28, "cpu": 2**22}  # of documents scored canonically together
_RESIDENT = 0.6  # share of a device's free memory that vectors may take
TRUNCATED = 4  # units of 2^-24 that a tensor core's addition may be off, which does not round but cut


class Engine:
    """Documents made ready on a device. UnsoundError for one that cannot be ranked."""

    def __init__(self, documents: Documents, where: torch.device, places: np.ndarray, scale: float) -> None:
        self.documents, self.where, self.scale = documents, where, scale
        self.home = where if _fits(documents, where) else torch.device("cpu")
        self.places = torch.from_numpy(places).to(where)
        self.stored = None if documents.dense is None else _tensor(documents).to(self.home)
        self.terms = (
            None if documents.terms is None else [torch.from_numpy(part).to(self.home) for part in documents.terms]
        )
        self.centre, self.longest = self._census()

    def search(self, queries: Documents, depth: int, rows: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The best `depth` (at most N) rows of each query and their canonical scores, `rows` documents at a time."""
        count = len(queries)
        asked = _Asked(self, queries)
        held = Held(count, depth, self.places, asked.scores_of)
        whole = asked.words is not None
        step = rows or max(TILE, min(_ROWS, _SCORES[self.where.type] // count // TILE * TILE))
        begin = 0
        with _plain_products():
            while begin < len(self.documents):
                # The first block sets the bars, for which it needs as many documents as are asked for.
                end = min(len(self.documents), begin + (step if begin else max(step, depth)))
                scores, slacks = asked.whole(begin, end) if whole else asked.halves(begin, end)
                shifts, unit = (torch.zeros_like(slacks), 0.0) if whole else (asked.shifts, UNIT)
                held.add(scores, begin, shifts, slacks, unit)
                if not whole and held.rescored > FLOOD * count * len(self.documents):
                    held.settle_all(shifts, slacks, unit)
                    whole = True
                begin = end
            found, kept = held.finish(shifts, slacks, unit)
        return found.cpu().numpy(), kept.cpu().numpy()

    def dense(self, begin: int, end: int) -> Tensor:
        """Rows [n, d] float32, on the device."""
        assert self.stored is not None
        return self.stored[begin:end].to(self.where).float()

    def _census(self) -> tuple[Tensor, Tensor]:
        """The mean of all rows, [d], and the norm of the longest; the rest of the census is the documents' own."""
        if self.where.type == "cpu" or self.stored is None:
            census = self.documents.census
            return torch.from_numpy(census.mean), torch.tensor(census.longest, dtype=torch.float64)
        sums = torch.zeros(self.documents.width, dtype=torch.float64, device=self.where)
        longest, sound = sums.new_zeros(()), torch.ones((), dtype=torch.bool, device=self.where)
        for begin in range(0, len(self.documents), _ROWS):
            block = self.dense(begin, begin + _ROWS)
            sound &= (block.abs() < LARGEST).all()
            sums += block.double().sum(0)
            longest = torch.maximum(longest, torch.linalg.vector_norm(block, dim=1).amax().double())
        if not sound:
            _ = self.documents.census  # which names the row
        return (sums / len(self.documents)).float(), longest


class _Asked:
    """A block of queries on the device, and first scores of blocks of documents."""

    def __init__(self, engine: Engine, queries: Documents) -> None:
        self.engine, documents, where = engine, engine.documents, engine.where
        self.dense = torch.from_numpy(queries.block(0, len(queries))).to(where) if documents.width else None
        self.words = None
        self.count = len(queries)
        self.slacks = torch.zeros(self.count, dtype=torch.float64, device=where)  # of first scores in 32 bits
        if self.dense is not None:
            self.rounded = self.dense.bfloat16()
            given = (part.double() for part in (self.dense, self.rounded, engine.centre))
            self.bounds, plain = Asked(*given), Asked(self.dense.double())
            self.shifts = self.bounds.shifts
            self.lost = self.kept = torch.zeros((), dtype=torch.float64, device=where)
            self.slacks += dense_slack(plain, documents.width, 0.0, engine.longest, TRUNCATED)
        if documents.terms is not None:
            self.words = torch.from_numpy(queries.whole_terms(0, len(queries))).to(where)
            census, norms = documents.census, torch.linalg.vector_norm(self.words.double(), dim=1)
            self.slacks += sparse_slack(norms, census.heaviest, census.entries, engine.scale)

    def halves(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """First scores [q, n] in bfloat16 of rounded vectors, and how far off those of any document so far may be."""
        block = self.engine.dense(begin, end) - self.engine.centre
        rounded = block.bfloat16()
        again = rounded.float()
        self.lost = torch.maximum(self.lost, torch.linalg.vector_norm(block - again, dim=1).amax().double())
        self.kept = torch.maximum(self.kept, torch.linalg.vector_norm(again, dim=1).amax().double())
        slacks = dense_slack(self.bounds, self.engine.documents.width, self.lost, self.kept, TRUNCATED)
        return self.rounded @ rounded.T, slacks

    def whole(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """First scores in 32 bits, of dense vectors, sparse ones or both."""
        engine, documents = self.engine, self.engine.documents
        scores = torch.zeros(self.count, end - begin, device=engine.where)
        if self.dense is not None:
            scores += self.dense @ engine.dense(begin, end).T
        if self.words is not None:
            scores += engine.scale * (_sparse(engine, begin, end, documents.words) @ self.words.T).T
        return scores, self.slacks

    def scores_of(self, asked: Tensor, rows: Tensor) -> Tensor:
        """Canonical scores [m] float32 of pairs of queries and documents."""
        engine, out = self.engine, torch.empty(len(rows), device=self.engine.where)
        census = engine.documents.census if engine.terms is not None else None
        width = max(engine.documents.width, census.entries if census else 0, 1)
        step = max(1, _NUMBERS[engine.where.type] // width)
        for at in range(0, len(rows), step):
            some, found = asked[at : at + step], rows[at : at + step]
            sums = torch.zeros(len(found), dtype=torch.float64, device=engine.where)
            if self.dense is not None and engine.stored is not None:
                vectors = engine.stored[found.to(engine.home)].to(engine.where).float()
                sums = torch_sums(self.dense[some], vectors)
            if self.words is not None:
                words, weights = _entries(engine, found)
                sums = sums + torch_sums(self.words[some[:, None], words], weights) * engine.scale
            out[at : at + step] = sums.float() + 0.0  # what rounds to -0.0 is tied with 0.0
        return out


def _entries(engine: Engine, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Words and weights of sparse rows, [m, entries], filled up with zeros of word 0."""
    assert engine.terms is not None
    indptr, indices, values = engine.terms
    rows = rows.to(engine.home)
    starts, ends = indptr[rows], indptr[rows + 1]
    places = starts[:, None] + torch.arange(int((ends - starts).max()), device=engine.home)
    there = places < ends[:, None]
    places = places.clamp(max=max(0, len(indices) - 1))
    if not len(indices):
        return torch.zeros_like(places).to(engine.where), torch.zeros(places.shape, device=engine.where)
    words, weights = indices[places].long() * there, torch.where(there, values[places], 0.0)
    return words.to(engine.where), weights.to(engine.where)


def _sparse(engine: Engine, begin: int, end: int, words: int) -> Tensor:
    assert engine.terms is not None
    indptr, indices, values = engine.terms
    starts = indptr[begin : end + 1]
    here = slice(int(starts[0]), int(starts[-1]))
    parts = ((starts - starts[0]).int(), indices[here], values[here])
    with warnings.catch_warnings():
        # torch calls the layout a beta once in each process; a product of it is held against a dense one by test.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        rows, columns, weights = (part.to(engine.where) for part in parts)
        return torch.sparse_csr_tensor(rows, columns, weights, (end - begin, words), check_invariants=False)


def _tensor(documents: Documents) -> Tensor:
    assert documents.dense is not None
    if documents.stored == "bfloat16":
        return torch.from_numpy(documents.dense.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(documents.dense)


def _fits(documents: Documents, where: torch.device) -> bool:
    if where.type != "cuda":
        return True
    parts = [documents.dense, *(documents.terms or ())]
    free, _ = torch.cuda.mem_get_info(where)
    return bool(sum(part.nbytes for part in parts if part is not None) < _RESIDENT * free)


@contextmanager
def _plain_products() -> Iterator[None]:
    """Products as the bounds assume them: 32 bits are 32 bits, and sums of bfloat16 products are kept in 32."""
    before, cuda = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul
    reduced = cuda.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    cuda.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        cuda.allow_bf16_reduced_precision_reduction = reduced
