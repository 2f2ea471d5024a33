"""Vectors as search reads them: a block or some rows at a time, mapped from disk or held by the caller."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from retrobench.core import in_threads
from retrobench.retrieval.nearest import kernels
from retrobench.retrieval.vectors import DTYPES, Terms, Vectors
from retrobench.retrieval.vectors.layout import widened

__all__ = ["Census", "Documents", "UnsoundError"]

_BLOCK = 2**22  # numbers looked at together: 16 MB


class UnsoundError(ValueError):
    """A vector holds what is no number, or one too large to be ranked by."""

    def __init__(self, row: int, part: str) -> None:
        super().__init__(f"row {row} of {part} is not finite")
        self.row, self.part = row, part  # "dense" or "terms"


@dataclass(frozen=True)
class Census:
    """What the bounds and the centre need to know of all rows."""

    mean: np.ndarray  # [d] float32
    longest: float  # norm of a dense vector
    heaviest: float  # norm of a sparse one
    entries: int  # of a sparse one, at most


@dataclass(frozen=True)
class Documents:
    """N vectors, dense [N, d] as they are stored, sparse over V words, or both; nothing is copied or held.

    `stored` names the numbers of `dense`: float32, float16, or bfloat16 as uint16. `first` is the number of row 0 in
    the collection, for a part of one (`part`).
    """

    dense: np.ndarray | None
    terms: Terms | None = None
    words: int = 0
    stored: str = "float32"
    first: int = 0

    @classmethod
    def of(cls, found: Vectors) -> Documents:
        """Mapped, copy on write: nothing is written, and the pages are the file's, not this process's."""
        raw, terms, dense = found.raw, None, None
        if found.width and len(found):
            dense = np.memmap(raw.path, DTYPES[raw.dtype], "c", raw.offset, raw.shape).view(np.ndarray)
        if found.words:
            parts: Any = (np.load(found.folder / f"terms.{part}.npy", "c") for part in Terms._fields)
            terms = Terms(*(part.view(np.ndarray) for part in parts))
        return cls(dense, terms, found.words, found.dtype)

    def __len__(self) -> int:
        if self.dense is not None:
            return len(self.dense)
        return len(self.terms.indptr) - 1 if self.terms else 0

    @property
    def width(self) -> int:
        """d, 0 where there is no dense part."""
        return 0 if self.dense is None else self.dense.shape[1]

    def part(self, begin: int, end: int) -> Documents:
        """Rows `begin` to `end` as documents of their own, which keep their numbers."""
        dense = None if self.dense is None else self.dense[begin:end]
        terms = self.terms and Terms(self.terms.indptr[begin : end + 1], self.terms.indices, self.terms.values)
        return replace(self, dense=dense, terms=terms, first=self.first + begin)

    def block(self, begin: int, end: int) -> np.ndarray:
        """Dense rows [n, d] float32; a view where they are stored so."""
        assert self.dense is not None
        return np.ascontiguousarray(widened(self.dense[begin:end], self.stored))

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Some dense rows [m, d] float32."""
        assert self.dense is not None
        return np.ascontiguousarray(widened(self.dense[rows], self.stored))

    def whole_terms(self, begin: int, end: int) -> np.ndarray:
        """Sparse rows written out, [n, V] float32."""
        assert self.terms is not None
        starts = self.terms.indptr[begin : end + 1]
        here = slice(int(starts[0]), int(starts[-1]))
        out = np.zeros((end - begin, self.words), np.float32)
        lines = np.repeat(np.arange(end - begin), np.diff(starts))
        np.add.at(out, (lines, self.terms.indices[here]), self.terms.values[here])
        return out

    @cached_property
    def census(self) -> Census:
        """One pass over everything. UnsoundError for a vector that is not finite, or holds a number from 1e15 on."""
        parts: list[tuple[int, float, np.ndarray]] = []
        if self.width:
            in_threads(lambda begin, end: parts.append(self._examined(begin, end)), len(self), _BLOCK // self.width)
        unsound = min((row for row, _, _ in parts if row >= 0), default=-1)
        if unsound >= 0:
            raise UnsoundError(self.first + unsound, "dense")
        mean = np.sum([sums for _, _, sums in parts], axis=0) / max(1, len(self))
        longest = max((norm for _, norm, _ in parts), default=0.0) ** 0.5
        return Census(np.asarray(mean, np.float32), longest, *self._census_of_terms())

    def _examined(self, begin: int, end: int) -> tuple[int, float, np.ndarray]:
        """The first row that is not sound, else -1; the largest squared norm, the sum of all rows."""
        sums, largest = np.zeros(self.width), 0.0
        step = max(1, _BLOCK // self.width)
        for at in range(begin, end, step):
            unsound, norm = kernels.examine(self.block(at, min(end, at + step)), sums)
            if unsound >= 0:
                return at + unsound, largest, sums
            largest = max(largest, norm)
        return -1, largest, sums

    def _census_of_terms(self) -> tuple[float, int]:
        if self.terms is None or len(self) == 0:
            return 0.0, 0
        heaviest, starts = 0.0, self.terms.indptr
        for begin in range(0, len(self), 2**14):
            here = starts[begin : begin + 2**14 + 1]
            values = self.terms.values[here[0] : here[-1]]
            sound = np.abs(values) < np.float32(kernels.LARGEST)
            if not sound.all():
                place = int(here[0]) + int(np.argmin(sound))
                raise UnsoundError(self.first + int(np.searchsorted(starts, place, "right")) - 1, "terms")
            lines = np.repeat(np.arange(len(here) - 1), np.diff(here))
            norms = np.bincount(lines, values.astype(np.float64) ** 2, len(here) - 1)
            heaviest = max(heaviest, float(norms.max(initial=0.0)))
        return heaviest**0.5, int(np.diff(starts).max())
