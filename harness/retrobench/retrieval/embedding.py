"""
Texts to vectors on disk: windows sorted by length, batches by tokens, no waiting for the device within a window.

* Window         the texts of a window: which go together, and a batch of them
* Embedded       what a model makes of a batch
* fill           the windows of a `vectors.Writer`, one after the other
* place, budget  the device of this process, and how many tokens it takes at once

Which texts are embedded together depends on the window alone, and a batch is one thread's, so that vectors do not
depend on how many processes and threads there are or where one was interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from retrobench.core import processes
from retrobench.retrieval.vectors import Terms, Writer

__all__ = ["REVISION", "WINDOW", "Embedded", "Window", "budget", "fill", "place"]

REVISION = 2  # one more where the same model and texts come to give other bits
WINDOW = 8192  # texts sorted by length together, and held in memory at a time
TOKENS = {"cpu": 2048, "cuda": 32768}  # per batch, padding included: what stays in a CPU's cache, what fills a GPU


class Window(Protocol):
    """Some texts, in the order of their rows. `parallel` where batches may be embedded at the same time."""

    @property
    def parallel(self) -> bool: ...

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
    device: torch.device,
    halved: bool = False,
) -> None:
    """Embed and write every window that is left to this process; the first of a team waits for the others.

    `load(first, last)` gives a window's texts; with `halved` they are embedded under autocast to bfloat16. `advance(n)`
    is told of n rows done, in the first of a team of the others' too, at the end. A vector that is not finite raises
    `refuse(row, rows like it in the window)`. While a GPU computes a window, the one before it is written.
    """
    pending: _Flight | None = None
    told = writer.done
    processes.meet()  # before anyone is done, for a folder that is finished may be looked at by nobody
    with _threads(device) as in_threads:
        for first, last in writer.windows(wait=processes.leads()):
            window, flight = load(first, last), _Flight(first, last - first)
            with closing(_Shared(window.batches(budget(device)), advance)) as shared:
                work = _work(window, shared, embed, flight, device, halved)
                in_threads(work) if window.parallel else work()
            flight.leave()
            told += last - first
            if pending:
                pending.land(writer, refuse)
            pending = flight
            if not torch.cuda.is_available():  # nothing runs ahead
                pending.land(writer, refuse)
                pending = None
    if pending:
        pending.land(writer, refuse)
    if processes.leads() and (others := writer.done - told):
        advance(others)


def _work(
    window: Window,
    shared: _Shared,
    embed: Callable[[Any], Embedded],
    flight: _Flight,
    device: torch.device,
    halved: bool,
) -> Callable[[], None]:
    def work() -> None:
        # Around all batches, so that weights are halved once.
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=halved):
            for rows in shared:
                flight.take(rows, embed(window.batch(rows)))

    return work


class _Shared:
    """Batches for as many threads as ask; when a thread asks for the next one, `advance` is told of its last."""

    def __init__(self, batches: Iterator[np.ndarray], advance: Callable[[int], None]) -> None:
        self._batches, self._advance, self._lock = batches, advance, Lock()

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            with self._lock:
                rows = next(self._batches, None)
            if rows is None:
                return
            yield rows
            with self._lock:
                self._advance(len(rows))

    def close(self) -> None:
        """There are no more: after an error or Ctrl-C the threads finish what they have at hand."""
        with self._lock:
            self._batches = iter(())


@contextmanager
def _threads(device: torch.device) -> Iterator[Callable[[Callable[[], None]], None]]:
    """`run(work)`, which on a processor does the work in as many threads as torch has, each computing by itself.

    Two batches at once are done sooner than two one after the other by both cores, which wait for each other.
    """
    count = torch.get_num_threads() if device.type == "cpu" else 1
    if count == 1:
        yield lambda work: work()
        return
    with ThreadPoolExecutor(count, "embed", torch.set_num_threads, (1,)) as pool:

        def run(work: Callable[[], None]) -> None:
            done, _ = wait([pool.submit(work) for _ in range(count)], return_when=FIRST_EXCEPTION)
            for each in done:
                each.result()

        try:
            yield run
        finally:
            torch.set_num_threads(count)  # it was set for threads that are yet to start, too


class _Flight:
    """What a window's batches gave: in arrays of the window where it is computed here, else on its way from the device.

    Were each batch's kept by itself, no hole between them would be as large as what the next batch frees and takes
    again, and memory would grow with every batch.
    """

    def __init__(self, first: int, size: int) -> None:
        self.first, self.size = first, size
        self._away: list[tuple[np.ndarray, list[Tensor | None]]] = []
        self._whole: dict[str, np.ndarray] = {}  # [size, ...]
        self._entries: list[tuple[np.ndarray, np.ndarray, _Entries]] = []  # rows, entries of each, and what they are
        self._lock = Lock()
        self._event: Any = None

    def take(self, rows: np.ndarray, found: Embedded) -> None:
        dense = None if found.dense is None else found.dense.float()
        weights, columns, counts = found.weights, found.columns, None
        if weights is not None and columns is None:
            # Their number is only known to the device, which is asked here; queries alone keep all their words.
            which, columns = weights.nonzero(as_tuple=True)
            counts = torch.bincount(which, minlength=len(rows))
            weights = weights[which, columns]
        parts = [
            dense,
            None if weights is None else weights.float(),
            None if columns is None else columns.int(),
            counts,
        ]
        if any(part is not None and part.is_cuda for part in parts):
            self._away.append((rows, [None if part is None else _sent(part) for part in parts]))
        else:
            self._place(rows, parts)

    def _place(self, rows: np.ndarray, parts: Sequence[Tensor | None]) -> None:
        dense, weights, columns, counts = (None if part is None else part.numpy() for part in parts)
        if dense is not None:
            self._put("dense", rows, dense)
        if weights is not None and columns is not None and counts is not None:
            self._entries.append((rows, counts, (weights, columns)))
        elif weights is not None and columns is not None:
            self._put("weights", rows, weights)
            self._put("columns", rows, columns)

    def _put(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        with self._lock:
            if name not in self._whole:
                self._whole[name] = np.empty((self.size, values.shape[1]), values.dtype)
        self._whole[name][rows] = values

    def leave(self) -> None:
        """No batch is to follow."""
        if torch.cuda.is_available():
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def land(self, writer: Writer, refuse: Callable[[int, int], Exception]) -> None:
        """Wait for the last batch, look at the numbers, write them."""
        if self._event:
            self._event.synchronize()
        for rows, parts in self._away:
            self._place(rows, parts)
        dense, terms = self._whole.get("dense"), self._terms()
        sound = np.ones(self.size, np.bool_) if dense is None else np.isfinite(dense).all(1)
        if terms is not None:
            bad = np.flatnonzero(~np.isfinite(terms.values))
            sound[np.searchsorted(terms.indptr, bad, side="right") - 1] = False
        if not sound.all():
            raise refuse(self.first + int(np.argmin(sound)), int((~sound).sum()))
        writer.put(self.first, dense, terms)

    def _terms(self) -> Terms | None:
        if self._entries:
            rows, counts, parts = zip(*self._entries, strict=True)
            return _in_order(rows, counts, parts)
        return _without_zeros(self._whole["weights"], self._whole["columns"]) if "weights" in self._whole else None


def _sent(tensor: Tensor) -> Tensor:
    """On its way to the CPU, there once the device has come so far."""
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


_Entries = tuple[np.ndarray, np.ndarray]  # weights, and the columns they stand in


def _without_zeros(weights: np.ndarray, columns: np.ndarray) -> Terms:
    """Weights [n, k] of `columns` as sparse rows, each by column, without what weighs nothing."""
    by_column = np.argsort(columns, axis=1)
    weights, columns = np.take_along_axis(weights, by_column, 1), np.take_along_axis(columns, by_column, 1)
    kept = weights != 0  # what is not finite is kept, to be refused
    return Terms(np.concatenate([[0], kept.sum(1).cumsum()]), columns[kept], weights[kept])


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
