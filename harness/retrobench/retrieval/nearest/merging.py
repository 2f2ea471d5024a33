"""Rankings of shards merged into one, which does not depend on the shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist

from retrobench.core import in_threads
from retrobench.retrieval.nearest import kernels
from retrobench.retrieval.nearest.kernels import TopK
from retrobench.retrieval.nearest.plan import AUTO, SIZES, Plan, queries_together
from retrobench.retrieval.nearest.searching import search
from retrobench.retrieval.nearest.vector_set import VectorSet

__all__ = ["merge", "shared"]

_LEAST_QUERIES = 64  # for which a second thread pays


def merge(rankings: Sequence[tuple[np.ndarray, np.ndarray]], tie_ranks: np.ndarray, depth: int) -> TopK:
    """Return the best `depth` hits of rankings (rows and scores) of the same queries, each of its own documents.

    `tie_ranks` [N] int32 orders all documents with equal scores.
    """
    merged = TopK(*rankings[0])
    for rows, scores in rankings[1:]:
        merged = _merge_two(merged, TopK(rows, scores), tie_ranks, depth)
    return TopK(merged.rows[:, :depth], merged.scores[:, :depth])


def _merge_two(first: TopK, second: TopK, tie_ranks: np.ndarray, depth: int) -> TopK:
    queries = len(first.rows)
    candidates = first.rows.shape[1] + second.rows.shape[1]
    shape = (queries, min(depth, candidates))
    out = TopK(np.empty(shape, np.int32), np.empty(shape, np.float32))

    def work(begin: int, end: int) -> None:
        kernels.merge(first, second, tie_ranks, out, begin, end)

    in_threads(work, queries, _LEAST_QUERIES)
    return out


def shared(
    queries: VectorSet,
    documents: VectorSet,
    depth: int,
    tie_ranks: np.ndarray,
    scale: float = 1.0,
    plan: Plan = AUTO,
) -> Iterator[TopK]:
    """Yield the blocks of `search`. Each process of `torch.distributed` searches a shard of the documents.

    All processes must call it with equal arguments, and every process gets the whole result. Without a process group,
    or with one process, it is `search`.
    """
    world_size = _world_size()
    if world_size == 1:
        yield from search(queries, documents, depth, tie_ranks, scale, plan)
        return
    if not len(documents):
        return
    rank = dist.get_rank()
    begin = len(documents) * rank // world_size
    end = len(documents) * (rank + 1) // world_size
    largest_shard = -(-len(documents) // world_size)
    width = min(depth, largest_shard)
    # The same blocks on all devices, because the processes gather every block together.
    step = plan.queries or queries_together(documents, depth, SIZES["cpu"])
    block_plan = replace(plan, queries=step)
    shard = documents.slice(begin, end)
    blocks = search(queries, shard, depth, tie_ranks[begin:end], scale, block_plan)
    for first_query in range(0, len(queries), step):
        count = min(step, len(queries) - first_query)
        empty = TopK(np.empty((count, 0), np.int32), np.empty((count, 0), np.float32))
        own = next(blocks, empty)
        rankings = _gathered(own, width, world_size)
        yield merge(rankings, tie_ranks, min(depth, len(documents)))


def _world_size() -> int:
    if dist.is_available() and dist.is_initialized():
        return int(dist.get_world_size())
    return 1


def _gathered(own: TopK, width: int, world_size: int) -> list[TopK]:
    """Return every process's ranking, padded to one width: a collective moves tensors of one shape."""
    missing = width - own.rows.shape[1]
    padding = ((0, 0), (0, missing))
    own_rows = np.pad(own.rows, padding, constant_values=-1)
    own_scores = np.pad(own.scores, padding, constant_values=-np.inf)
    rows = _gathered_array(own_rows, world_size)
    scores = _gathered_array(own_scores, world_size)
    return list(map(TopK, rows, scores))


def _gathered_array(own: np.ndarray, world_size: int) -> list[np.ndarray]:
    device = "cpu"
    if dist.get_backend() == "nccl":
        device = "cuda"
    contiguous = np.ascontiguousarray(own)
    tensor = torch.from_numpy(contiguous).to(device)
    gathered = [torch.empty_like(tensor) for _ in range(world_size)]
    dist.all_gather(gathered, tensor)
    return [array.cpu().numpy() for array in gathered]
