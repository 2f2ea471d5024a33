"""Merge the rankings of shards: ours beside the heap of beir's exact search, and beside a single argsort."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from retrobench.bench.frame import Case, UnequalError
from retrobench.bench.peers.heap import heap_merge
from retrobench.bench.setting import Setting
from retrobench.retrieval import merge

__all__ = ["cases"]

SHARDS = 8
COMPARED = 50  # queries that ours and the heap are compared on
TIMED = 500  # queries that the heap is timed on: its time grows with them alone, and all of them take half a minute
Hits = tuple[np.ndarray, np.ndarray]  # rows and scores [Q, k]


def cases(setting: Setting) -> Iterator[Case]:
    """Yield 8 shards x 6,980 queries x 1,000 hits, on any device: rankings are merged where they are written."""
    queries, depth = 6_980, 1_000
    if setting.smoke:
        queries, depth = 64, 100
    rankings = _Rankings(queries, depth)
    name = f"{SHARDS} shards x {queries:,} x {depth:,}"
    yield Case(
        name=name,
        unit="queries/s",
        ours=rankings.merge_ours,
        check=rankings.compare_heap,
        peer=rankings.merge_by_heap,
        peer_name="beir's heap",
        rounds=3,
        memory=False,
        note=f"the heap timed on {min(TIMED, queries)} queries",
    )
    yield Case(
        name=f"{name}, beside one argsort",
        unit="queries/s",
        ours=rankings.merge_ours,
        check=rankings.compare_argsort,
        peer=rankings.merge_by_argsort,
        peer_name="argsort",
        rounds=3,
    )


class _Rankings:
    """Rankings of shards, merged in three ways."""

    def __init__(self, queries: int, depth: int) -> None:
        self.queries = queries
        self.depth = depth
        self.shards = _draw_shards(queries, depth)
        documents = SHARDS * depth * 10
        self.tie_ranks = np.arange(documents, dtype=np.int32)
        self.names = list(map(str, range(documents)))

    def merge_ours(self) -> float:
        rows, _ = merge(self.shards, self.tie_ranks, self.depth)
        return float(len(rows))

    def merge_by_heap(self) -> float:
        merged = heap_merge(_first(self.shards, TIMED), self.names, self.depth)
        return float(len(merged))

    def merge_by_argsort(self) -> float:
        rows, _ = _merge_by_argsort(self.shards, self.depth)
        return float(len(rows))

    def compare_heap(self) -> str:
        shards = _first(self.shards, COMPARED)
        rows, scores = merge(shards, self.tie_ranks, self.depth)
        ours = []
        for query_rows, query_scores in zip(rows.tolist(), scores.tolist(), strict=True):
            hits = {}
            for row, score in zip(query_rows, query_scores, strict=True):
                hits[self.names[row]] = score
            ours.append(hits)
        if ours != heap_merge(shards, self.names, self.depth):
            raise UnequalError("The heap keeps other hits. Nothing was timed.")
        return f"the same hits for {len(ours)} queries"

    def compare_argsort(self) -> str:
        rows, scores = merge(self.shards, self.tie_ranks, self.depth)
        sorted_rows, sorted_scores = _merge_by_argsort(self.shards, self.depth)
        same_rows = np.array_equal(rows, sorted_rows)
        same_scores = np.array_equal(scores, sorted_scores)
        if not (same_rows and same_scores):
            raise UnequalError("The argsort ranks otherwise. Nothing was timed.")
        return f"the same rankings for all {self.queries:,} queries"


def _draw_shards(queries: int, depth: int) -> list[Hits]:
    """Draw rankings of each shard's own documents, no two scores of a query alike."""
    draw = np.random.default_rng(0)
    ranks = np.arange(depth, dtype=np.int32)
    shards = []
    for shard in range(SHARDS):
        # Scores fall by whole numbers, in a residue class for each shard: sums stay exact in 32 bits.
        falls = draw.integers(1, 100, (queries, depth), dtype=np.int32)
        totals = falls.cumsum(1, dtype=np.int32)
        scores = -(totals * SHARDS + shard)
        shard_start = shard * 10 * depth
        first_ranks = draw.integers(0, 9 * depth, (queries, 1), dtype=np.int32)
        rows = shard_start + first_ranks + ranks
        shards.append((rows, scores.astype(np.float32)))
    return shards


def _first(shards: Sequence[Hits], queries: int) -> list[Hits]:
    """Return the rankings of the first queries."""
    return [(rows[:queries], scores[:queries]) for rows, scores in shards]


def _merge_by_argsort(shards: Sequence[Hits], depth: int) -> Hits:
    shard_rows, shard_scores = zip(*shards, strict=True)
    rows = np.concatenate(shard_rows, 1)
    scores = np.concatenate(shard_scores, 1)
    order = torch.from_numpy(scores).argsort(dim=1, descending=True)
    best = order[:, :depth].numpy()
    best_rows = np.take_along_axis(rows, best, 1)
    best_scores = np.take_along_axis(scores, best, 1)
    return best_rows, best_scores
