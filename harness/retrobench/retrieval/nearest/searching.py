"""Which engine searches, and how many queries at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from retrobench.retrieval.nearest import device, processor
from retrobench.retrieval.nearest.documents import Documents
from retrobench.retrieval.nearest.kept import room_for

__all__ = ["AUTO", "Plan", "search", "together"]

_KEPT = {"cpu": 2**27, "cuda": 2**30}  # bytes of candidates at a time
_WORDS = {"cpu": 2**25, "cuda": 2**30}  # bytes of queries' words written out at a time
_MOST = {"cpu": 2**12, "cuda": 2**14}  # queries at a time


@dataclass(frozen=True)
class Plan:
    """How to search, which is how fast: none of it changes a result. 0 and "auto" leave it to what was measured."""

    queries: int = 0  # at a time
    documents: int = 0  # at a time
    first: Literal["auto", "bf16", "fp32"] = "auto"  # precision of the first pass
    device: str = "auto"


AUTO = Plan()


def search(
    queries: Documents, documents: Documents, depth: int, places: np.ndarray, scale: float = 1.0, plan: Plan = AUTO
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The best `depth` documents of each query: rows int32 and scores float32, both [q, min(depth, N)], block by block.

    In the total order of `ranking`, of which `places` [N] int32 is the second half. Where both sides have terms, their
    product weighed by `scale` is added. UnsoundError for a document that cannot be ranked; queries are not looked at.
    """
    depth = min(depth, len(documents))
    if not len(queries) or not depth:
        return
    where = _device(plan)
    step = plan.queries or together(documents, depth, where.type)
    engine = None if where.type == "cpu" and plan.device == "auto" else device.Engine(documents, where, places, scale)
    for begin in range(0, len(queries), step):
        some = queries.part(begin, begin + step)
        if engine:
            rows, scores = engine.search(some, depth, plan.documents)
        else:
            halves = plan.first == "bf16" or (plan.first == "auto" and processor.halves_pay(len(some)))
            rows, scores = processor.search_block(some, documents, depth, places, scale, halves, plan.documents)
        yield rows + np.int32(documents.first), scores


def together(documents: Documents, depth: int, where: str) -> int:
    """Queries at a time, for which memory is bounded and a block of documents still worth reading."""
    most = min(_MOST[where], _KEPT[where] // (8 * room_for(depth)))
    return max(1, min(most, _WORDS[where] // (4 * documents.words)) if documents.words else most)


def _device(plan: Plan) -> torch.device:
    if plan.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(plan.device)
