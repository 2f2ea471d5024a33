"""
Texts to vectors on disk: windows sorted by length, batches by tokens, no waiting for the device within a window.

* Window         the texts of a window: which go together, and a batch of them
* Embedded       what a model makes of a batch
* fill           the windows of a `vectors.Writer`, one after the other
* place, budget  the device of this process, and how many tokens it takes at once

Which texts are embedded together depends on the window alone, so that vectors do not depend on how many processes there
are or where one was interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from retrobench import team
from retrobench.vectors import Terms, Writer

__all__ = ["WINDOW", "Embedded", "Window", "batches", "budget", "fill", "place"]

WINDOW = 8192  # texts sorted by length together, and held in memory at a time
TOKENS = {"cpu": 2048, "cuda": 32768}  # per batch, padding included: what stays in a CPU's cache, what fills a GPU


class Window(Protocol):
    """Some texts, in the order of their rows."""

    def batches(self, tokens: int) -> Iterator[np.ndarray]:
        """The rows of each batch, of at most so many tokens."""

    def batch(self, rows: np.ndarray) -> Any:
        """The texts of these rows, as `embed` takes them."""


class Embedded(NamedTuple):
    """Of B texts: dense [B, d], and weights of words [B, k] with their `columns`, or [B, V] of all words."""

    dense: Tensor | None
    weights: Tensor | None = None
    columns: Tensor | None = None


def place() -> torch.device:
    """Where this process runs its models: its own GPU, the first one where it is alone, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK") or 0) % torch.cuda.device_count())


def budget(device: torch.device) -> int:
    """Tokens per batch there, padding included."""
    return TOKENS["cuda" if device.type == "cuda" else "cpu"]


def fill(
    writer: Writer,
    load: Callable[[int, int], Window],
    embed: Callable[[Any], Embedded],
    refuse: Callable[[int, int], Exception],
    advance: Callable[[int], None],
    tokens: int,
) -> None:
    """Embed and write every window that is left to this process; the first of a team waits for the others.

    `load(first, last)` gives a window's texts. `advance(n)` is told of n rows done. A vector that is not finite raises
    `refuse(row, rows like it in the window)`. While a GPU computes a window, the one before it is written.
    """
    pending: _Flight | None = None
    team.meet()  # before anyone is done, for a folder that is finished may be looked at by nobody
    for first, last in writer.windows(wait=team.leads()):
        window = load(first, last)
        flight = _Flight(first, last - first)
        for rows in window.batches(tokens):
            flight.take(rows, embed(window.batch(rows)))
            advance(len(rows))
        flight.leave()
        if pending:
            pending.land(writer, refuse)
        pending = flight
        if not torch.cuda.is_available():  # nothing runs ahead
            pending.land(writer, refuse)
            pending = None
    if pending:
        pending.land(writer, refuse)


def batches(lengths: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Rows of batches of at most so many tokens each, padding included, the longest texts first."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, tokens // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


@dataclass
class _Flight:
    """What a window's batches gave, on its way from the device."""

    first: int
    size: int
    rows: list[np.ndarray] = field(default_factory=list)
    parts: list[Embedded] = field(default_factory=list)
    counts: list[Tensor] = field(default_factory=list)
    _event: Any = None

    def take(self, rows: np.ndarray, found: Embedded) -> None:
        dense = None if found.dense is None else found.dense.float()
        weights, columns = found.weights, found.columns
        if weights is not None and columns is None:
            # Their number is only known to the device, which is asked here; queries alone keep all their words.
            which, columns = weights.nonzero(as_tuple=True)
            self.counts.append(_sent(torch.bincount(which, minlength=len(rows))))
            weights, columns = weights[which, columns], columns.int()
        self.rows.append(rows)
        self.parts.append(Embedded(*(None if part is None else _sent(part) for part in (dense, weights, columns))))

    def leave(self) -> None:
        """No batch is to follow."""
        if torch.cuda.is_available():
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def land(self, writer: Writer, refuse: Callable[[int, int], Exception]) -> None:
        """Wait for the last batch, look at the numbers, write them."""
        if self._event:
            self._event.synchronize()
        dense, terms = self._dense(), self._terms()
        sound = np.ones(self.size, np.bool_) if dense is None else np.isfinite(dense).all(1)
        if terms is not None:
            bad = np.flatnonzero(~np.isfinite(terms.values))
            sound[np.searchsorted(terms.indptr, bad, side="right") - 1] = False
        if not sound.all():
            raise refuse(self.first + int(np.argmin(sound)), int((~sound).sum()))
        writer.put(self.first, dense, terms)

    def _dense(self) -> np.ndarray | None:
        whole: np.ndarray | None = None
        for rows, part in zip(self.rows, self.parts, strict=True):
            if part.dense is not None:
                whole = np.empty((self.size, part.dense.shape[1]), np.float32) if whole is None else whole
                whole[rows] = part.dense.numpy()
        return whole

    def _terms(self) -> Terms | None:
        if self.parts[0].weights is None:
            return None
        parts = [_arrays(part) for part in self.parts]
        if self.counts:
            return _in_order(self.rows, [counts.numpy() for counts in self.counts], parts)
        kept = [_without_zeros(*part) for part in parts]
        return _in_order(self.rows, [counts for counts, _ in kept], [part for _, part in kept])


def _sent(tensor: Tensor) -> Tensor:
    """On its way to the CPU, there once the device has come so far."""
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


_Entries = tuple[np.ndarray, np.ndarray]  # weights, and the columns they stand in


def _arrays(part: Embedded) -> _Entries:
    assert part.weights is not None and part.columns is not None
    return part.weights.float().numpy(), part.columns.numpy()


def _without_zeros(weights: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, _Entries]:
    """Counts [B], then weights and columns of [B, k] in a row, each text's by column, without what weighs nothing."""
    by_column = np.argsort(columns, axis=1)
    weights, columns = np.take_along_axis(weights, by_column, 1), np.take_along_axis(columns, by_column, 1)
    kept = weights != 0  # what is not finite is kept, to be refused
    return kept.sum(1), (weights[kept], columns[kept])


def _in_order(rows: Sequence[np.ndarray], counts: Sequence[np.ndarray], parts: Sequence[_Entries]) -> Terms:
    """Sparse rows of all batches, each of `counts` entries, in the order of the row numbers `rows`, from 0.

    Batch by batch: a window of queries has tens of millions of entries, of which no third copy is made.
    """
    sizes = np.zeros(sum(map(len, rows)), np.int64)
    for some, count in zip(rows, counts, strict=True):
        sizes[some] = count
    indptr = np.concatenate([[0], sizes.cumsum()])
    columns, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    for some, count, (weights, of) in zip(rows, counts, parts, strict=True):
        places = np.repeat(indptr[some] - (count.cumsum() - count), count) + np.arange(len(weights))
        columns[places], values[places] = of, weights
    return Terms(indptr, columns, values)
