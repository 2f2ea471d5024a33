"""Rankings of shards made one, the same whatever the shards were."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from retrobench.core import in_threads
from retrobench.retrieval.nearest import kernels
from retrobench.retrieval.nearest.documents import Documents
from retrobench.retrieval.nearest.searching import AUTO, Plan, search, together

__all__ = ["merge", "shared"]

_ALONE = 64  # so few queries are not worth a second thread

Found = tuple[np.ndarray, np.ndarray]  # rows int32 and scores float32, both [Q, k], in the total order; -1 ends a list


def merge(parts: Sequence[Found], places: np.ndarray, depth: int) -> Found:
    """The best `depth` of several rankings of the same queries, each of documents of its own; `places` [N] int32."""
    rows, scores = parts[0]
    for more_rows, more_scores in parts[1:]:
        shape = (len(rows), min(depth, rows.shape[1] + more_rows.shape[1]))
        out = np.empty(shape, np.int32), np.empty(shape, np.float32)
        work: Any = partial(kernels.merge, rows, scores, more_rows, more_scores, places, *out)
        in_threads(work, shape[0], _ALONE)
        rows, scores = out
    return rows[:, :depth], scores[:, :depth]


def shared(
    queries: Documents, documents: Documents, depth: int, places: np.ndarray, scale: float = 1.0, plan: Plan = AUTO
) -> Iterator[Found]:
    """`search` by all processes of `torch.distributed`, each among rows of its own; every one gets the whole result.

    Without a process group, or with one process, it is `search`. All processes have to call it alike.
    """
    count = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if count == 1:
        yield from search(queries, documents, depth, places, scale, plan)
        return
    edges = [len(documents) * rank // count for rank in range(count + 1)]
    begin, end = edges[dist.get_rank() :][:2]
    width = min(depth, max(b - a for a, b in itertools.pairwise(edges)))
    step = plan.queries or together(documents, depth, "cpu")  # the same for all, whose collectives have to meet
    own = documents.part(begin, end)
    mine = search(queries, own, depth, places[begin:end], scale, replace(plan, queries=step))
    for at in range(0, len(queries) if len(documents) else 0, step):
        asked = min(step, len(queries) - at)
        found = next(mine, (np.empty((asked, 0), np.int32), np.empty((asked, 0), np.float32)))
        yield merge(_gathered(found, width, count), places, min(depth, len(documents)))


def _gathered(found: Found, width: int, count: int) -> list[Found]:
    """Every process's ranking, all filled up to one width: a collective moves tensors of one shape."""
    rows, scores = found
    gap = ((0, 0), (0, width - rows.shape[1]))
    own = np.pad(rows, gap, constant_values=-1), np.pad(scores, gap, constant_values=-np.inf)
    where = "cuda" if dist.get_backend() == "nccl" else "cpu"
    arrays = []
    for part in own:
        tensor = torch.from_numpy(np.ascontiguousarray(part)).to(where)
        others = [torch.empty_like(tensor) for _ in range(count)]
        dist.all_gather(others, tensor)
        arrays.append([other.cpu().numpy() for other in others])
    return list(zip(*arrays, strict=True))
