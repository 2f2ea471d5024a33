"""Vectors as search reads them: by blocks or by row numbers, mapped from disk or in the caller's memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retrobench.core import in_threads
from retrobench.retrieval.nearest import kernels
from retrobench.retrieval.vectors import DTYPES, Terms, Vectors
from retrobench.retrieval.vectors.layout import widened

__all__ = ["Census", "UnsoundError", "VectorSet"]

_NUMBERS = 2**22  # examined together: 16 MB
_ENTRIES = 2**20  # of sparse rows, examined together: 24 MB in all, while a query may have an entry for every word


class UnsoundError(ValueError):
    """A vector holds a number that is not finite, or that is too large for scores in 32 bits."""

    def __init__(self, row: int, field: str) -> None:
        super().__init__(f"row {row} of {field} is not finite")
        self.row, self.field = row, field  # "dense" or "terms"


@dataclass(frozen=True)
class Census:
    """The facts about all rows that error bounds and the centre need."""

    mean: np.ndarray  # [d] float32
    longest: float  # largest norm of a dense vector
    heaviest: float  # largest norm of a sparse vector
    entries: int  # most entries of a sparse vector


class _DenseFacts(NamedTuple):
    """The facts about a block of dense rows."""

    unsound: int  # the first unsound row, else -1
    longest: float  # squared norm
    sums: np.ndarray  # [d] float64


def _mapped_terms(folder: Path) -> Terms:
    arrays = {}
    for field in Terms._fields:
        mapped = np.load(folder / f"terms.{field}.npy", "c")
        arrays[field] = mapped.view(np.ndarray)
    return Terms(**arrays)


@dataclass(frozen=True)
class VectorSet:
    """N vectors, dense [N, d] in their stored type, sparse over V words, or both. Nothing is copied.

    `stored` is the type of `dense`: float32, float16, or bfloat16 as uint16. `first` is the number of row 0 in the
    collection, which is not 0 for a `slice`.
    """

    dense: np.ndarray | None
    terms: Terms | None = None
    words: int = 0
    stored: str = "float32"
    first: int = 0

    @classmethod
    def of(cls, vectors: Vectors) -> VectorSet:
        """Map vectors on disk, copy on write: nothing is written, and the pages belong to the file's cache."""
        dense, terms = None, None
        if vectors.width and len(vectors):
            raw = vectors.raw
            mapped = np.memmap(raw.path, DTYPES[raw.dtype], "c", raw.offset, raw.shape)
            dense = mapped.view(np.ndarray)
        if vectors.words:
            terms = _mapped_terms(vectors.folder)
        return cls(dense, terms, vectors.words, vectors.dtype)

    def __len__(self) -> int:
        if self.dense is not None:
            return len(self.dense)
        if self.terms:
            return len(self.terms.indptr) - 1
        return 0

    @property
    def width(self) -> int:
        """d, or 0 without a dense part."""
        if self.dense is None:
            return 0
        return int(self.dense.shape[1])

    def slice(self, begin: int, end: int) -> VectorSet:
        """Return rows `begin` to `end`, which keep their numbers in the collection."""
        dense, terms = self.dense, self.terms
        if dense is not None:
            dense = dense[begin:end]
        if terms is not None:
            terms = terms._replace(indptr=terms.indptr[begin : end + 1])
        return replace(self, dense=dense, terms=terms, first=self.first + begin)

    def block(self, begin: int, end: int) -> np.ndarray:
        """Return dense rows [n, d] float32: a view where they are stored as float32."""
        assert self.dense is not None
        return np.ascontiguousarray(widened(self.dense[begin:end], self.stored))

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return dense rows [m, d] float32 by their numbers."""
        assert self.dense is not None
        return np.ascontiguousarray(widened(self.dense[rows], self.stored))

    def written_terms(self, begin: int, end: int) -> np.ndarray:
        """Return sparse rows written out over the vocabulary, [n, V] float32."""
        assert self.terms is not None
        edges = self.terms.indptr[begin : end + 1].tolist()
        matrix = np.zeros((end - begin, self.words), np.float32)
        for row, (first, last) in zip(matrix, itertools.pairwise(edges), strict=True):
            np.add.at(row, self.terms.indices[first:last], self.terms.values[first:last])
        return matrix

    @cached_property
    def census(self) -> Census:
        """Examine all rows once. UnsoundError for a number that is not finite or is from LARGEST on."""
        blocks: list[_DenseFacts] = []
        if self.width:

            def work(begin: int, end: int) -> None:
                blocks.append(self._examine(begin, end))

            in_threads(work, len(self), _NUMBERS // self.width)
        unsound_rows = [block.unsound for block in blocks if block.unsound >= 0]
        if unsound_rows:
            raise UnsoundError(self.first + min(unsound_rows), "dense")
        total = np.sum([block.sums for block in blocks], axis=0)
        mean = np.asarray(total / max(1, len(self)), np.float32)
        longest = max((block.longest for block in blocks), default=0.0) ** 0.5
        heaviest, entries = self._examine_terms()
        return Census(mean, longest, heaviest, entries)

    def _examine(self, begin: int, end: int) -> _DenseFacts:
        sums = np.zeros(self.width)
        longest = 0.0
        step = max(1, _NUMBERS // self.width)
        for first in range(begin, end, step):
            last = min(end, first + step)
            unsound, norm = kernels.examine(self.block(first, last), sums)
            if unsound >= 0:
                return _DenseFacts(first + unsound, longest, sums)
            longest = max(longest, norm)
        return _DenseFacts(-1, longest, sums)

    def _examine_terms(self) -> tuple[float, int]:
        """Return the largest norm and the most entries of a sparse row."""
        if self.terms is None or len(self) == 0:
            return 0.0, 0
        heaviest = 0.0
        indptr = self.terms.indptr
        begin = 0
        while begin < len(self):
            end = int(np.searchsorted(indptr, indptr[begin] + _ENTRIES, "right")) - 1
            end = max(begin + 1, end)  # a row is never divided
            starts = indptr[begin : end + 1]
            values = self.terms.values[starts[0] : starts[-1]]
            sound = np.abs(values) < np.float32(kernels.LARGEST)
            if not sound.all():
                entry = int(starts[0]) + int(np.argmin(sound))
                row = int(np.searchsorted(indptr, entry, "right")) - 1
                raise UnsoundError(self.first + row, "terms")
            rows = len(starts) - 1
            row_of_entry = np.repeat(np.arange(rows), np.diff(starts))
            squares = values.astype(np.float64) ** 2
            norms = np.bincount(row_of_entry, squares, rows)
            heaviest = max(heaviest, float(norms.max(initial=0.0)))
            begin = end
        return heaviest**0.5, int(np.diff(indptr).max())
