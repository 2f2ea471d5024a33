"""
Approximate search by an index of faiss, by its factory string: "IVF64,Flat", "HNSW32", "SQ8".

The index only proposes documents. Their order and scores are the canonical ones, so what a list holds is exactly
ranked; what it lacks is told by `recall`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from retrobench.errors import RetrobenchError
from retrobench.retrieval.nearest.canonical import pair_scores
from retrobench.retrieval.nearest.documents import Documents
from retrobench.retrieval.nearest.kept import best
from retrobench.retrieval.nearest.searching import search

__all__ = ["EXACT", "SAMPLE", "Approximate", "check_index"]

EXACT = "exact"
SAMPLE = 1000  # queries, evenly spaced, that are also searched for exactly
_TRAINED = 2**18  # documents that an index learns from at most
_BLOCK = 2**24  # numbers added at a time
_QUERIES = 1024  # at a time


def check_index(factory: str, width: int | None = None) -> None:
    """RetrobenchError for what is neither "exact" nor a factory string, of vectors of `width` or else of any width."""
    if factory == EXACT:
        return
    *others, last = _widths(factory) if width is None else [width]
    for other in others:
        try:
            _made(factory, other)
        except RetrobenchError:
            continue
        return
    _made(factory, last, f" of vectors of {width} numbers" if width else "")


def _widths(factory: str) -> list[int]:
    """Widths of which one can be cut into as many parts as the string asks for, if any can."""
    parts = math.lcm(*(int(number) for number in re.findall(r"(?:PQ|Lattice)(\d+)", factory)))
    return [768, 8 * parts] if 0 < parts < 2**12 else [768]


def _made(factory: str, width: int, what: str = "") -> Any:
    import faiss

    try:
        if re.search(r"(?<!\d)0+(?!\d)", factory):  # of which faiss makes an index that fails later, or dies at once
            raise RuntimeError("a size in it is 0")
        return faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, AssertionError) as error:
        raise RetrobenchError(
            f"faiss makes no index {factory!r}{what}: {_reason(error)}. "
            'Give --index exact, or a factory string such as "IVF64,Flat", "HNSW32" or "SQ8".'
        ) from None


def _reason(error: Exception) -> str:
    """What faiss says, without where in its source it says so."""
    return str(error).rsplit(": ", 1)[-1].strip().splitlines()[0] if str(error) else type(error).__name__


class Approximate:
    """Dense documents in an index. RetrobenchError where there are terms, and for an index that cannot be trained."""

    def __init__(self, documents: Documents, factory: str) -> None:
        if documents.terms is not None or documents.dense is None:
            raise RetrobenchError(
                f"--index {factory} is for dense vectors, and these have terms. Leave it out: search is exact then."
            )
        self.documents, self.factory = documents, factory
        _ = documents.census  # what is no number has to be told of before an index hides it
        self.index = _made(factory, documents.width, f" of vectors of {documents.width} numbers")
        with self._told("fill"):
            self._fill()

    @contextmanager
    def _told(self, does: str) -> Iterator[None]:
        """A user's error of what faiss cannot do with this index."""
        try:
            yield
        except RuntimeError as error:
            raise RetrobenchError(
                f"faiss cannot {does} an index {self.factory!r} of {len(self.documents):,} vectors: {_reason(error)}. "
                "Take another."
            ) from None

    def _fill(self) -> None:
        documents = self.documents
        if not self.index.is_trained:
            step = -(-len(documents) // _TRAINED)
            self.index.train(documents.rows(np.arange(0, len(documents), step)))
        step = max(1, _BLOCK // documents.width)
        for begin in range(0, len(documents), step):
            self.index.add(documents.block(begin, begin + step))

    def search(self, queries: Documents, depth: int, places: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As `nearest.search`, of what the index finds; -1 and -inf end a list that it did not fill."""
        depth = min(depth, len(self.documents))
        for begin in range(0, len(queries), _QUERIES):
            asked = queries.block(begin, begin + _QUERIES)
            with self._told("search"):
                _, rows = self.index.search(asked, depth)
            present = rows >= 0
            query, column = np.nonzero(present)
            scores = np.full(rows.shape, -np.inf, np.float32)
            scores[query, column] = pair_scores(asked, None, self.documents, 1.0, query, rows[query, column])
            yield best(rows, scores, present, depth, places)

    def recall(self, queries: Documents, depth: int, places: np.ndarray) -> dict[str, float]:
        """The share of the exact best k that the index finds, by name, for k = 10 and `depth`, over at most SAMPLE
        queries."""
        step = -(-len(queries) // SAMPLE)
        some = Documents(queries.rows(np.arange(0, len(queries), step)))
        ours = np.concatenate([rows for rows, _ in self.search(some, depth, places)])
        exact = np.concatenate([rows for rows, _ in search(some, self.documents, depth, places)])
        return {f"recall of the index@{k}": _shared(ours[:, :k], exact[:, :k]) for k in sorted({min(10, depth), depth})}


def _shared(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.mean([np.isin(of, own).mean() for own, of in zip(ours, exact, strict=True)]))
