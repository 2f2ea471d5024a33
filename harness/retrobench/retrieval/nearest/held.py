"""`kept` in torch: what is held of the documents seen so far, for each query of a block, on any device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from retrobench.retrieval.nearest.bounds import lowered
from retrobench.retrieval.nearest.kept import room_for

__all__ = ["TILE", "Held"]

TILE = 128
_PAIRS = 2**22  # scored again together
_TOPPED = 2**26  # first scores of which the best are taken together
_LOOKED = 2**17  # tiles looked at hit by hit together: where first scores are alike, all of them

Scorer = Callable[[Tensor, Tensor], Tensor]  # queries and rows of pairs -> their canonical scores


class Held:
    """Candidates of q queries, as `Kept` has them."""

    def __init__(self, queries: int, depth: int, places: Tensor, scorer: Scorer) -> None:
        self.depth, self.room, self.places, self.scorer, self.rescored = depth, room_for(depth), places, scorer, 0
        where = places.device
        self.rows = torch.zeros(queries, self.room, dtype=torch.int32, device=where)
        self.values = torch.zeros(queries, self.room, device=where)
        self.counts, self.settled = (torch.zeros(queries, dtype=torch.int64, device=where) for _ in range(2))
        self.bars = torch.full((queries,), -torch.inf, dtype=torch.float64, device=where)
        self.slacks = torch.zeros(queries, dtype=torch.float64, device=where)

    def add(self, scores: Tensor, first: int, shifts: Tensor, slacks: Tensor, unit: float) -> None:
        """Look at first scores [q, n] of the documents from `first` on; the first block holds `depth` at least."""
        self.bars, self.slacks = lowered(self.bars, self.slacks, slacks, unit), slacks
        if first == 0:
            step = max(1, _TOPPED // scores.shape[1])
            last = [part.topk(self.depth, dim=1, sorted=True).values[:, -1] for part in torch.split(scores, step)]
            self.bars = _raised(self.bars, torch.cat(last).double() + shifts, shifts, slacks, unit)
        if scores.shape[1] % TILE:
            scores = functional.pad(scores, (0, -scores.shape[1] % TILE), value=-torch.inf)
        tiled = scores.view(len(scores), -1, TILE)
        best, edges = tiled.amax(2).float(), self._edges(shifts)
        few = int((best >= edges[:, None]).sum()) <= _LOOKED
        step = tiled.shape[1] if few else max(1, _LOOKED // len(scores))
        for begin in range(0, tiled.shape[1], step):
            edges = self._edges(shifts)  # which the tiles before have raised
            query, tile = (best[:, begin : begin + step] >= edges[:, None]).nonzero(as_tuple=True)
            tile += begin
            values = tiled[query, tile].float()  # [tiles, TILE]
            at, column = (values >= edges[query, None]).nonzero(as_tuple=True)
            query, rows = query[at], first + tile[at] * TILE + column
            self._append(query, rows.int(), (values[at, column].double() + shifts[query]).float(), shifts, slacks, unit)

    def _edges(self, shifts: Tensor) -> Tensor:
        """The bars as first scores in 32 bits, a little lower."""
        edges = (self.bars - shifts).float()
        return torch.nextafter(edges, torch.full_like(edges, -torch.inf))

    def finish(self, shifts: Tensor, slacks: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        """The best rows and their scores [q, depth] in the total order; documents there must be as many."""
        self.settle_all(shifts, slacks, unit)
        return self.rows[:, : self.depth], self.values[:, : self.depth]

    def settle_all(self, shifts: Tensor, slacks: Tensor, unit: float) -> None:
        """Canonical scores for all there is, after which first scores of another kind may come."""
        self._compact(shifts, slacks, unit)
        self._settle(torch.arange(len(self.rows), device=self.rows.device), shifts, slacks, unit)

    def _append(self, query: Tensor, rows: Tensor, values: Tensor, shifts: Tensor, slacks: Tensor, unit: float) -> None:
        """Hits in the order of their queries, those a query has no room for after it made some."""
        while len(query):
            new = torch.bincount(query, minlength=len(self.rows))
            place = self.counts[query] + torch.arange(len(query), device=query.device) - (new.cumsum(0) - new)[query]
            fits = place < self.room
            self.rows[query[fits], place[fits]] = rows[fits]
            self.values[query[fits], place[fits]] = values[fits]
            self.counts = (self.counts + new).clamp(max=self.room)
            if fits.all():
                return
            query, rows, values = query[~fits], rows[~fits], values[~fits]
            self._compact(shifts, slacks, unit)
            flooded = (self.counts > self.room - self.room // 4).nonzero()[:, 0]
            if len(flooded):
                self._settle(flooded, shifts, slacks, unit)
            still = values >= self.bars[query]
            query, rows, values = query[still], rows[still], values[still]

    def _compact(self, shifts: Tensor, slacks: Tensor, unit: float) -> None:
        """Raise bars as far as what is held allows, and let go of what is below them."""
        here = torch.arange(self.room, device=self.rows.device)
        present = here < self.counts[:, None]
        best = torch.where(present, self.values, -torch.inf).topk(self.depth, dim=1).values[:, -1].double()
        raised = _raised(self.bars, best, shifts, slacks, unit)
        self.bars = torch.where(self.counts >= self.depth, raised, self.bars)
        keep = present & (self.values >= self.bars[:, None])
        order = torch.sort((~keep).to(torch.int8), dim=1, stable=True).indices
        self.rows, self.values = self.rows.gather(1, order), self.values.gather(1, order)
        self.settled = (keep & (here < self.settled[:, None])).sum(1)
        self.counts = keep.sum(1)

    def _settle(self, queries: Tensor, shifts: Tensor, slacks: Tensor, unit: float) -> None:
        """Canonical scores for all candidates of some queries, which are then cut to the best."""
        step = max(1, _PAIRS // self.room)
        for some in torch.split(queries, step):
            self._settle_some(some)
        full = queries[self.counts[queries] >= self.depth]
        lower = self.values[full, self.depth - 1].double() - shifts[full] - slacks[full]
        self.bars[full] = torch.maximum(self.bars[full], _edge(lower, unit) + shifts[full])

    def _settle_some(self, queries: Tensor) -> None:
        most = int(self.counts[queries].max())
        here = torch.arange(most, device=queries.device)
        present = here < self.counts[queries, None]
        rows, values = self.rows[queries, :most], self.values[queries, :most]
        asked, column = (present & (here >= self.settled[queries, None])).nonzero(as_tuple=True)
        self.rescored += len(asked)
        values[asked, column] = self.scorer(queries[asked], rows[asked, column].long())
        # One whole number tells score and place: see `kept.best`.
        bits = values.view(torch.int32).long()
        falling = 0x7FFFFFFF - (bits ^ ((bits >> 31) & 0x7FFFFFFF))
        keys = (falling << 31) | self.places[torch.where(present, rows, 0).long()].long()
        keys = torch.where(present, keys, torch.iinfo(torch.int64).max)
        order = keys.argsort(dim=1)[:, : self.depth]
        kept = order.shape[1]
        self.rows[queries, :kept], self.values[queries, :kept] = rows.gather(1, order), values.gather(1, order)
        self.counts[queries] = self.counts[queries].clamp(max=kept)
        self.settled[queries] = self.counts[queries]


def _raised(bars: Tensor, best: Tensor, shifts: Tensor, slacks: Tensor, unit: float) -> Tensor:
    """Bars where `best` is the value of the last document that counts: see `bounds`."""
    best = best - shifts
    return torch.maximum(bars, _edge(best - unit * best.abs() - 2 * slacks, unit) + shifts)


def _edge(lower: Tensor, unit: float) -> Tensor:
    """The least first score that may stand for one of `lower`."""
    return torch.where(lower > 0, lower / (1 + unit), lower / (1 - unit))
