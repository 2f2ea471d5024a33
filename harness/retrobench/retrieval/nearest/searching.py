"""Exact search, a block of queries at a time, by the engine that fits the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from retrobench.retrieval.nearest.engine import Engine
from retrobench.retrieval.nearest.kernels import TopK
from retrobench.retrieval.nearest.numba_engine import NumbaEngine
from retrobench.retrieval.nearest.plan import AUTO, Plan, queries_together
from retrobench.retrieval.nearest.torch_engine import TorchEngine
from retrobench.retrieval.nearest.vector_set import VectorSet

__all__ = ["choose_engine", "search"]


def choose_engine(documents: VectorSet, tie_ranks: np.ndarray, scale: float = 1.0, plan: Plan = AUTO) -> Engine:
    """Return the torch engine on the device that `plan` names or else on a GPU, and the numba engine without a GPU."""
    if plan.device == "auto":
        if not torch.cuda.is_available():
            return NumbaEngine(documents, tie_ranks, scale, plan)
        plan = replace(plan, device="cuda")
    return TorchEngine(documents, tie_ranks, scale, plan)


def search(
    queries: VectorSet,
    documents: VectorSet,
    depth: int,
    tie_ranks: np.ndarray,
    scale: float = 1.0,
    plan: Plan = AUTO,
) -> Iterator[TopK]:
    """Yield the best min(depth, N) documents of each query, block by block, in the total order of `ranking`.

    `tie_ranks` [N] int32 orders documents with equal scores. Where both sides have terms, their product times `scale`
    is added to the score. UnsoundError is raised for a document that cannot be ranked; queries are not examined.
    """
    depth = min(depth, len(documents))
    if not len(queries) or not depth:
        return
    engine = choose_engine(documents, tie_ranks, scale, plan)
    step = plan.queries or queries_together(documents, depth, engine.sizes)
    for begin in range(0, len(queries), step):
        rows, scores = engine.search(queries.slice(begin, begin + step), depth)
        yield TopK(rows + np.int32(documents.first), scores)
