"""The vectors of one window, collected batch by batch and written at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrobench.retrieval.vectors import TermPieces, Writer

__all__ = ["Embedded", "Refuse", "WindowVectors"]

Refuse = Callable[[int, int], Exception]  # (first non-finite row, non-finite rows in its window) -> error to raise


class Embedded(NamedTuple):
    """The vectors of B texts: dense [B, d], and weights of words: [B, k] with their `columns`, or [B, V]."""

    dense: Tensor | None
    weights: Tensor | None = None
    columns: Tensor | None = None


class _Batch(NamedTuple):
    """The vectors of B texts in their stored types. With `counts`, weights and columns are entries of sparse rows."""

    dense: Tensor | None  # [B, d] float32
    weights: Tensor | None = None  # [B, k] or [entries] float32
    columns: Tensor | None = None  # int32, in the shape of the weights
    counts: Tensor | None = None  # [B] int64: entries of each text

    def is_on_gpu(self) -> bool:
        return any(tensor is not None and tensor.is_cuda for tensor in self)


class _SparseBatch(NamedTuple):
    """The entries of a batch of sparse rows, one row after the other."""

    rows: np.ndarray  # [B] row numbers within the window
    counts: np.ndarray  # [B] entries of each row
    weights: np.ndarray  # [entries] float32
    columns: np.ndarray  # [entries] int32


class WindowVectors:
    """The vectors of the `size` texts from row `first` on.

    Batches from a GPU are copied while it computes the next ones. Batches from a CPU go straight into arrays of the
    whole window: kept batch by batch, they would fragment memory, which then grows with every batch.
    """

    def __init__(self, first: int, size: int) -> None:
        self.first = first
        self.size = size
        self._copies: list[tuple[np.ndarray, _Batch]] = []  # rows of each batch, and its copy under way
        self._arrays: dict[str, np.ndarray] = {}  # [size, ...]
        self._sparse_batches: list[_SparseBatch] = []
        self._lock = Lock()
        self._computed: Any = None  # the GPU's event after the last batch

    def add(self, rows: np.ndarray, embedded: Embedded) -> None:
        """Add the vectors of a batch. `rows` are row numbers within the window."""
        batch = _to_stored_types(embedded)
        if batch.is_on_gpu():
            copies = [_start_copy(tensor) for tensor in batch]
            self._copies.append((rows, _Batch(*copies)))
        else:
            self._store(rows, batch)

    def _store(self, rows: np.ndarray, batch: _Batch) -> None:
        if batch.dense is not None:
            self._put("dense", rows, batch.dense.numpy())
        if batch.weights is None or batch.columns is None:
            return
        weights = batch.weights.numpy()
        columns = batch.columns.numpy()
        if batch.counts is None:
            self._put("weights", rows, weights)
            self._put("columns", rows, columns)
        else:
            self._sparse_batches.append(_SparseBatch(rows, batch.counts.numpy(), weights, columns))

    def _put(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        with self._lock:
            if name not in self._arrays:
                self._arrays[name] = np.empty((self.size, values.shape[1]), values.dtype)
        self._arrays[name][rows] = values

    def close(self) -> None:
        """Mark the end of the batches in the GPU's queue."""
        if torch.cuda.is_available():
            self._computed = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._computed.record()

    def write(self, writer: Writer, refuse: Refuse) -> None:
        """Wait for the last batch, check all numbers, and write the window. A non-finite vector raises `refuse`."""
        if self._computed:
            self._computed.synchronize()
        for rows, batch in self._copies:
            self._store(rows, batch)
        dense = self._arrays.get("dense")
        terms = self._terms()
        finite = self._finite_rows(dense, terms)
        if not finite.all():
            first_row = self.first + int(np.argmin(finite))
            count = int((~finite).sum())
            raise refuse(first_row, count)
        writer.put(self.first, dense, terms)

    def _finite_rows(self, dense: np.ndarray | None, terms: TermPieces | None) -> np.ndarray:
        """Return for each row [size] whether all its numbers are finite."""
        finite = np.ones(self.size, np.bool_)
        if dense is not None:
            finite = np.isfinite(dense).all(1)
        if terms is not None:
            _mark_non_finite(finite, terms)
        return finite

    def _terms(self) -> TermPieces | None:
        if self._sparse_batches:
            return _in_row_order(self._sparse_batches)
        if "weights" in self._arrays:
            return _without_zeros(self._arrays["weights"], self._arrays["columns"])
        return None


def _to_stored_types(embedded: Embedded) -> _Batch:
    dense = None
    if embedded.dense is not None:
        dense = embedded.dense.float()
    if embedded.weights is None:
        return _Batch(dense)
    if embedded.columns is not None:
        return _Batch(dense, embedded.weights.float(), embedded.columns.int())
    if embedded.weights.is_cuda:
        return _Batch(dense, *_nonzero_on_device(embedded.weights))
    return _Batch(dense, *_nonzero(embedded.weights.float().numpy()))


def _nonzero(weights: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights [B, V] that are not zero, row by row, their columns, and the number in each row.

    torch's `nonzero` makes 16 bytes of every entry, and takes five times as long where all weights are entries.
    """
    nonzero = weights != 0
    columns = np.broadcast_to(np.arange(weights.shape[1], dtype=np.int32), weights.shape)
    counts = nonzero.sum(1, dtype=np.int64)
    return torch.from_numpy(weights[nonzero]), torch.from_numpy(columns[nonzero]), torch.from_numpy(counts)


def _nonzero_on_device(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return as `_nonzero` does. Only the device knows the number of entries, so this waits for it."""
    texts, columns = weights.nonzero(as_tuple=True)
    counts = torch.bincount(texts, minlength=len(weights))
    return weights[texts, columns].float(), columns.int(), counts


def _start_copy(tensor: Tensor | None) -> Tensor | None:
    """Start copying a GPU's tensor to the CPU, without waiting. Return other tensors as they are."""
    if tensor is None or not tensor.is_cuda:
        return tensor
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copy.copy_(tensor, non_blocking=True)


def _mark_non_finite(finite: np.ndarray, terms: TermPieces) -> None:
    """Set `finite` [n] to False for each sparse row with a non-finite weight."""
    start = 0
    for piece in terms.values:
        sound = np.isfinite(piece)
        if not sound.all():
            entries = start + np.flatnonzero(~sound)
            rows = np.searchsorted(terms.indptr, entries, side="right") - 1
            finite[rows] = False
        start += len(piece)


def _without_zeros(weights: np.ndarray, columns: np.ndarray) -> TermPieces:
    """Return weights [n, k] of `columns` as sparse rows in the order of columns, without weights of zero."""
    by_column = np.argsort(columns, axis=1)
    weights = np.take_along_axis(weights, by_column, 1)
    columns = np.take_along_axis(columns, by_column, 1)
    nonzero = weights != 0  # true for a non-finite weight, which is refused later
    indptr = np.concatenate([[0], nonzero.sum(1).cumsum()])
    return TermPieces(indptr, [columns[nonzero]], [weights[nonzero]])


def _in_row_order(batches: Sequence[_SparseBatch]) -> TermPieces:
    """Return the rows of all batches as sparse rows in the order of their numbers, from 0.

    Each row is a view of its batch: a window of queries has tens of millions of entries, and no second copy is made.
    """
    size = sum(len(batch.rows) for batch in batches)
    counts = np.zeros(size, np.int64)
    columns = [np.empty(0, np.int32)] * size
    weights = [np.empty(0, np.float32)] * size
    for batch in batches:
        counts[batch.rows] = batch.counts
        edges = batch.counts.cumsum()[:-1]
        batch_columns = np.split(batch.columns, edges)
        batch_weights = np.split(batch.weights, edges)
        for index, row in enumerate(batch.rows.tolist()):
            columns[row] = batch_columns[index]
            weights[row] = batch_weights[index]
    indptr = np.concatenate([[0], counts.cumsum()])
    return TermPieces(indptr, columns, weights)
