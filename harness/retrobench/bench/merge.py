"""Rankings of shards made one, beside the heap of beir's exact search and one argsort over all of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from retrobench.bench.frame import Case, Setting, UnequalError
from retrobench.bench.peers.heap import heap_merge
from retrobench.retrieval import merge

__all__ = ["cases"]

SHARDS = 8
COMPARED, TIMED = 50, 500  # queries
Found = tuple[np.ndarray, np.ndarray]


def cases(setting: Setting) -> Iterator[Case]:
    """8 shards x 6,980 queries x 1,000 hits, the same on any device: rankings are merged where they are written."""
    queries, depth = (64, 100) if setting.smoke else (6_980, 1_000)
    parts, documents = _parts(queries, depth), SHARDS * depth * 10
    places, names = np.arange(documents, dtype=np.int32), [str(row) for row in range(documents)]
    name = f"{SHARDS} shards x {queries:,} x {depth:,}"

    def ours() -> float:
        return float(len(merge(parts, places, depth)[0]))

    def heap() -> float:
        # Its time grows with the queries alone, and all of them take half a minute.
        some = [(rows[:TIMED], scores[:TIMED]) for rows, scores in parts]
        return float(len(heap_merge(some, names, depth)))

    def sort() -> float:
        return float(len(_sorted(parts, depth)[0]))

    def as_heap() -> str:
        some = [(rows[:COMPARED], scores[:COMPARED]) for rows, scores in parts]
        rows, scores = merge(some, places, depth)
        found = [
            {names[row]: score for row, score in zip(*pair, strict=True)}
            for pair in zip(rows.tolist(), scores.tolist(), strict=True)
        ]
        if found != heap_merge(some, names, depth):
            raise UnequalError("The heap keeps other hits. Nothing was timed.")
        return f"the same hits for {len(found)} queries"

    def as_sort() -> str:
        first, second = merge(parts, places, depth), _sorted(parts, depth)
        if not all(np.array_equal(*pair) for pair in zip(first, second, strict=True)):
            raise UnequalError("The argsort ranks otherwise. Nothing was timed.")
        return f"the same rankings for all {queries:,} queries"

    yield Case(
        name=name,
        unit="queries/s",
        ours=ours,
        check=as_heap,
        peer=heap,
        peer_name="beir's heap",
        rounds=3,
        memory=False,
        note=f"the heap timed on {min(TIMED, queries)} queries",
    )
    yield Case(
        name=f"{name}, beside one argsort",
        unit="queries/s",
        ours=ours,
        check=as_sort,
        peer=sort,
        peer_name="argsort",
        rounds=3,
    )


def _parts(queries: int, depth: int) -> list[Found]:
    """Rankings of each shard's own documents, no two scores of a query alike."""
    draw, parts = np.random.default_rng(0), []
    ranks = np.arange(depth, dtype=np.int32)
    for shard in range(SHARDS):
        # Steps of whole numbers, each shard's in a class of its own: sums stay exact in 32 bits.
        falls = draw.integers(1, 100, (queries, depth), dtype=np.int32).cumsum(1, dtype=np.int32)
        scores = (-(falls * SHARDS + shard)).astype(np.float32)
        firsts = draw.integers(0, 9 * depth, (queries, 1), dtype=np.int32)
        parts.append((shard * 10 * depth + firsts + ranks, scores))
    return parts


def _sorted(parts: list[Found], depth: int) -> Found:
    rows, scores = (np.concatenate(part, 1) for part in zip(*parts, strict=True))
    order = torch.from_numpy(scores).argsort(dim=1, descending=True)[:, :depth].numpy()
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
