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
_SCORES = 2**26  # first scores whose largest are taken together
_TILES = 2**17  # read hit by hit together: where first scores are alike, every tile is


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
        shape, device = (queries, buffer_room(depth)), tie_ranks.device
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
        if scores.shape[1] % _TILE:
            scores = functional.pad(scores, (0, -scores.shape[1] % _TILE), value=-torch.inf)
        tiles = scores.view(len(scores), -1, _TILE)
        largest = tiles.amax(2).float()  # [q, tiles]
        reached = int((largest >= self._edges()[:, None]).sum())
        step = tiles.shape[1] if reached <= _TILES else max(1, _TILES // len(scores))
        for begin in range(0, tiles.shape[1], step):
            edges = self._edges()  # earlier tiles have raised them
            query, tile = (largest[:, begin : begin + step] >= edges[:, None]).nonzero(as_tuple=True)
            tile += begin
            values = tiles[query, tile].float()  # [m, _TILE]
            index, column = (values >= edges[query, None]).nonzero(as_tuple=True)
            query, rows = query[index], first_row + tile[index] * _TILE + column
            shifted = values[index, column].double() + self.bound.shifts[query]
            self._append(_Hits(query, rows.int(), shifted.float()))

    def _start_thresholds(self, scores: Tensor) -> None:
        """Raise the thresholds to those of the first block's k-th largest scores."""
        step = max(1, _SCORES // scores.shape[1])
        kth = []
        for some_scores in torch.split(scores, step):
            kth.append(some_scores.topk(self.depth, dim=1, sorted=True).values[:, -1])
        shifted = torch.cat(kth).double() + self.bound.shifts
        self.candidates.thresholds[:] = self.candidates.thresholds.clip(first_threshold(shifted, self.bound))

    def _edges(self) -> Tensor:
        """Return the thresholds as unshifted float32 scores, rounded down, above the padding of tiles."""
        edges = (self.candidates.thresholds - self.bound.shifts).float().clip(LOWEST)
        return torch.nextafter(edges, torch.full_like(edges, -torch.inf))

    def _append(self, hits: _Hits) -> None:
        """Append hits. Where a query has no room, compact or settle its candidates, then append its remaining hits."""
        while len(hits.queries):
            rows, values, counts, _, _ = self.candidates
            room, new = rows.shape[1], torch.bincount(hits.queries, minlength=len(rows))
            first_hits = new.cumsum(0) - new  # the position in `hits` at which each query begins
            order = torch.arange(len(hits.queries), device=rows.device) - first_hits[hits.queries]
            column = counts[hits.queries] + order
            fits = column < room
            rows[hits.queries[fits], column[fits]] = hits.rows[fits]
            values[hits.queries[fits], column[fits]] = hits.values[fits]
            counts[:] = (counts + new).clamp(max=room)
            if fits.all():
                return
            hits = hits.select(~fits)
            self._compact()
            crowded = (self.candidates.counts > room - room // 4).nonzero()[:, 0]
            if len(crowded):
                self._settle(crowded)
            hits = hits.select(hits.values >= self.candidates.thresholds[hits.queries])

    def _compact(self) -> None:
        rows, values, counts, settled, thresholds = self.candidates
        columns = torch.arange(rows.shape[1], device=rows.device)
        present = columns < counts[:, None]
        kth = torch.where(present, values, -torch.inf).topk(self.depth, dim=1).values[:, -1].double()
        raised = thresholds.clip(first_threshold(kth, self.bound))
        thresholds = torch.where(counts >= self.depth, raised, thresholds)
        remaining = present & (values >= thresholds[:, None])
        order = torch.sort((~remaining).to(torch.int8), dim=1, stable=True).indices
        self.candidates = CandidateArrays(
            rows=rows.gather(1, order),
            values=values.gather(1, order),
            counts=remaining.sum(1),
            settled=(remaining & (columns < settled[:, None])).sum(1),
            thresholds=thresholds,
        )

    def _to_numpy(self, array: Tensor) -> np.ndarray:
        return array.clone().cpu().numpy()

    def _all_queries(self) -> Tensor:
        return torch.arange(len(self.candidates.rows), device=self.candidates.rows.device)

    def _groups(self, queries: Tensor) -> Iterator[Tensor]:
        return iter(torch.split(queries, max(1, _PAIRS // self.candidates.rows.shape[1])))

    def _rescore(self, queries: Tensor) -> None:
        candidates = self.candidates
        counts = candidates.counts[queries]
        columns = torch.arange(int(counts.max()), device=queries.device)
        present = columns < counts[:, None]
        rows, values = candidates.rows[queries, : len(columns)], candidates.values[queries, : len(columns)]
        unsettled = present & (columns >= candidates.settled[queries, None])
        query, column = unsettled.nonzero(as_tuple=True)
        self.rescored += len(query)
        values[query, column] = self.scorer(queries[query], rows[query, column].long())
        ranks = self.tie_ranks[torch.where(present, rows, 0).long()].long()
        keys = torch.where(present, sort_keys(values.view(torch.int32).long(), ranks), ABSENT)
        order = keys.argsort(dim=1)[:, : self.depth]
        width = order.shape[1]
        candidates.rows[queries, :width] = rows.gather(1, order)
        candidates.values[queries, :width] = values.gather(1, order)
        candidates.counts[queries] = candidates.settled[queries] = counts.clamp(max=width)
