"""
The candidate buffer in tensors, on any device of torch.

A block of first scores is read once for the maxima of its tiles. Only the few tiles whose maximum reaches the query's
threshold are read hit by hit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from retrobench.retrieval.nearest.bounds import first_threshold
from retrobench.retrieval.nearest.buffer import CandidateBuffer, Scorer, buffer_room
from retrobench.retrieval.nearest.ordering import ABSENT, sort_keys
from retrobench.retrieval.nearest.scanning import LOWEST, CandidateArrays

__all__ = ["TorchBuffer"]

_TILE = 128  # documents
_PAIRS = 2**22  # rescored together
_SCORES = 2**26  # first scores in one top-k
_TILES = 2**17  # read hit by hit together; equal first scores make every tile one of them


class _Hits(NamedTuple):
    """m documents that reached a threshold, in the order of their queries."""

    queries: Tensor  # [m] int64
    rows: Tensor  # [m] int32
    values: Tensor  # [m] float32: first scores, shifted

    def select(self, mask: Tensor) -> _Hits:
        return _Hits(self.queries[mask], self.rows[mask], self.values[mask])


class TorchBuffer(CandidateBuffer):
    """The candidates of q queries on the device of `tie_ranks`."""

    def __init__(self, queries: int, depth: int, tie_ranks: Tensor, scorer: Scorer) -> None:
        shape = (queries, buffer_room(depth))
        device = tie_ranks.device
        candidates = CandidateArrays(
            rows=torch.zeros(shape, dtype=torch.int32, device=device),
            values=torch.zeros(shape, device=device),
            counts=torch.zeros(queries, dtype=torch.int64, device=device),
            settled=torch.zeros(queries, dtype=torch.int64, device=device),
            thresholds=torch.full((queries,), -torch.inf, dtype=torch.float64, device=device),
        )
        super().__init__(candidates, depth, tie_ranks, scorer)

    def _collect(self, scores: Tensor, first_row: int) -> None:
        if first_row == 0 and scores.shape[1] >= self.depth:
            self._start_thresholds(scores)
        padding = -scores.shape[1] % _TILE
        if padding:
            scores = functional.pad(scores, (0, padding), value=-torch.inf)
        tiles = scores.view(len(scores), -1, _TILE)
        largest = tiles.amax(2).float()  # [q, tiles]
        edges = self._edges()
        reached = int((largest >= edges[:, None]).sum())
        step = tiles.shape[1]
        if reached > _TILES:
            step = max(1, _TILES // len(scores))
        for begin in range(0, tiles.shape[1], step):
            block = slice(begin, begin + step)
            block_row = first_row + begin * _TILE
            hits = self._hits(tiles[:, block], largest[:, block], block_row)
            self._append(hits)

    def _hits(self, tiles: Tensor, largest: Tensor, first_row: int) -> _Hits:
        """Return the hits in tiles [q, t, _TILE], whose maxima are `largest` [q, t]."""
        edges = self._edges()  # earlier tiles have raised them
        tile_reaches = largest >= edges[:, None]
        tile_query, tile = tile_reaches.nonzero(as_tuple=True)
        values = tiles[tile_query, tile].float()  # [m, _TILE]
        reaches = values >= edges[tile_query, None]
        index, column = reaches.nonzero(as_tuple=True)
        query = tile_query[index]
        tile_row = first_row + tile[index] * _TILE
        rows = tile_row + column
        scores = values[index, column].double()
        shifted = scores + self.bound.shifts[query]
        return _Hits(query, rows.int(), shifted.float())

    def _start_thresholds(self, scores: Tensor) -> None:
        """Raise the thresholds to those of the first block's k-th largest scores."""
        step = max(1, _SCORES // scores.shape[1])
        kth = []
        for block in torch.split(scores, step):
            largest = block.topk(self.depth, dim=1, sorted=True).values
            kth.append(largest[:, -1])
        shifted = torch.cat(kth).double() + self.bound.shifts
        thresholds = first_threshold(shifted, self.bound)
        raised = self.candidates.thresholds.clip(thresholds)
        self.candidates.thresholds[:] = raised

    def _edges(self) -> Tensor:
        """Return the thresholds as unshifted float32 scores, rounded down, above the padding of tiles."""
        unshifted = self.candidates.thresholds - self.bound.shifts
        edges = unshifted.float().clip(LOWEST)
        downwards = torch.full_like(edges, -torch.inf)
        return torch.nextafter(edges, downwards)

    def _append(self, hits: _Hits) -> None:
        """Append hits. Where a query has no room, compact or settle its candidates, then append its remaining hits."""
        while len(hits.queries):
            fits = self._append_while_room(hits)
            if fits.all():
                return
            hits = hits.select(~fits)
            self._make_room()
            thresholds = self.candidates.thresholds[hits.queries]
            hits = hits.select(hits.values >= thresholds)

    def _append_while_room(self, hits: _Hits) -> Tensor:
        """Append hits until their query has no room. Return which hits are appended, [m] bool."""
        rows, values, counts, _, _ = self.candidates
        room = rows.shape[1]
        new = torch.bincount(hits.queries, minlength=len(rows))
        first_hits = new.cumsum(0) - new  # the position in `hits` at which each query begins
        position = torch.arange(len(hits.queries), device=rows.device)
        order = position - first_hits[hits.queries]
        column = counts[hits.queries] + order
        fits: Tensor = column < room
        targets = (hits.queries[fits], column[fits])
        rows[targets] = hits.rows[fits]
        values[targets] = hits.values[fits]
        counts[:] = (counts + new).clamp(max=room)
        return fits

    def _make_room(self) -> None:
        """Compact all candidates, and settle the queries that then have less than a quarter of their room."""
        self._compact()
        room = self.candidates.rows.shape[1]
        is_crowded = self.candidates.counts > room - room // 4
        crowded = is_crowded.nonzero()[:, 0]
        if len(crowded):
            self._settle(crowded)

    def settle_all(self) -> None:
        self._compact()
        super().settle_all()

    def _compact(self) -> None:
        """Raise thresholds as far as the candidates allow, and drop the candidates below them."""
        rows, values, counts, settled, thresholds = self.candidates
        columns = torch.arange(rows.shape[1], device=rows.device)
        present = columns < counts[:, None]
        largest = torch.where(present, values, -torch.inf).topk(self.depth, dim=1).values
        kth = largest[:, -1].double()
        raised = thresholds.clip(first_threshold(kth, self.bound))
        thresholds = torch.where(counts >= self.depth, raised, thresholds)
        remaining = present & (values >= thresholds[:, None])
        still_settled = remaining & (columns < settled[:, None])
        order = torch.sort((~remaining).to(torch.int8), dim=1, stable=True).indices
        self.candidates = CandidateArrays(
            rows=rows.gather(1, order),
            values=values.gather(1, order),
            counts=remaining.sum(1),
            settled=still_settled.sum(1),
            thresholds=thresholds,
        )

    def _to_numpy(self, array: Tensor) -> np.ndarray:
        return array.clone().cpu().numpy()

    def _all_queries(self) -> Tensor:
        return torch.arange(len(self.candidates.rows), device=self.candidates.rows.device)

    def _groups(self, queries: Tensor) -> Iterator[Tensor]:
        size = max(1, _PAIRS // self.candidates.rows.shape[1])
        return iter(torch.split(queries, size))

    def _rescore(self, queries: Tensor) -> None:
        candidates = self.candidates
        counts = candidates.counts[queries]
        longest = int(counts.max())
        columns = torch.arange(longest, device=queries.device)
        present = columns < counts[:, None]
        rows = candidates.rows[queries, :longest]
        values = candidates.values[queries, :longest]
        unsettled = present & (columns >= candidates.settled[queries, None])
        index, column = unsettled.nonzero(as_tuple=True)
        self.rescored += len(index)
        documents = rows[index, column].long()
        values[index, column] = self.scorer(queries[index], documents)
        order = self._best(rows, values, present)
        width = order.shape[1]
        remaining = counts.clamp(max=width)
        candidates.rows[queries, :width] = rows.gather(1, order)
        candidates.values[queries, :width] = values.gather(1, order)
        candidates.counts[queries] = remaining
        candidates.settled[queries] = remaining

    def _best(self, rows: Tensor, values: Tensor, present: Tensor) -> Tensor:
        """Return the columns of the best `depth` candidates, in the total order."""
        present_rows = torch.where(present, rows, 0).long()
        ranks = self.tie_ranks[present_rows].long()
        bits = values.view(torch.int32).long()
        keys = torch.where(present, sort_keys(bits, ranks), ABSENT)
        return keys.argsort(dim=1)[:, : self.depth]
