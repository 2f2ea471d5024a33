"""How a search is cut into blocks, and on which device it runs. None of this changes a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retrobench.retrieval.nearest.buffer import buffer_room
from retrobench.retrieval.nearest.vector_set import VectorSet

__all__ = ["AUTO", "SIZES", "Plan", "Sizes", "documents_together", "queries_together"]

_DOCUMENTS = (2**10, 2**16)  # of a block, at least and at most
_ALIGNMENT = 128  # documents: the torch buffer compares this many scores at once


@dataclass(frozen=True)
class Plan:
    """Performance knobs of a search. 0 and "auto" choose by measured defaults."""

    queries: int = 0  # of a block
    documents: int = 0  # of a block
    first: Literal["auto", "rounded", "fp32"] = "auto"  # dense vectors in the first pass: to int8 or bfloat16
    device: str = "auto"  # any other name is a device of torch, and the torch engine searches on it


AUTO = Plan()


@dataclass(frozen=True)
class Sizes:
    """Bounds on the memory that a search takes on one type of device."""

    queries: int  # of a block
    candidates: int  # bytes of the candidate buffers
    query_terms: int  # bytes of the queries' terms, written out over the vocabulary
    scores: int  # first scores of a block
    numbers: int  # numbers of documents that are scored canonically together
    extra: int = 0  # documents of a block beyond a multiple of 128


SIZES = {
    "cpu": Sizes(
        queries=2**12,
        candidates=2**27,
        query_terms=2**25,
        scores=2**22,
        numbers=2**22,
    ),
    "cuda": Sizes(queries=2**14, candidates=2**30, query_terms=2**30, scores=2**30, numbers=2**28),
}


def queries_together(documents: VectorSet, depth: int, sizes: Sizes) -> int:
    """Return the queries of a block: as many as memory allows, so that documents are read as few times as possible."""
    candidate_bytes = 8 * buffer_room(depth)
    most = min(sizes.queries, sizes.candidates // candidate_bytes)
    if documents.words:
        most = min(most, sizes.query_terms // (4 * documents.words))
    return max(1, most)


def documents_together(queries: int, sizes: Sizes) -> int:
    """Return the documents of a block whose first scores are computed together for a block of queries."""
    least, most = _DOCUMENTS
    documents = min(most, max(least, sizes.scores // queries))
    return documents // _ALIGNMENT * _ALIGNMENT + sizes.extra
