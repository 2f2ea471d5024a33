"""
Where the released steps get their batches: collated as they go on a CPU, by worker processes beside a GPU.

* Feed       endless batches of random passages, padded to the longest of the batch
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Lock
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from retrobench.bench.frame import Setting
from retrobench.bench.peers.collators import Collator
from retrobench.bench.texts import VOCABULARY
from retrobench.objective import Passage

__all__ = ["WORKERS", "Feed"]

Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]

WORKERS = 8  # of a loader, as in both projects' published settings


class Feed:
    """Batches of a released collator. Beside a GPU `WORKERS` processes make them, as the released runs had it."""

    def __init__(
        self,
        collator: Collator,
        texts: Sequence[Passage],
        batch: int,
        length: int,
        setting: Setting,
        convert: Convert = dict,
    ) -> None:
        """`convert` is done where batches are made, which a step does not wait for where workers make them."""
        self.endless = _Endless(partial(_made, collator, texts, batch, length, convert))
        self.workers = WORKERS if setting.cuda else 0
        self._batches: Iterator[dict[str, Tensor]] | None = None
        self._lock = Lock()  # a loop that works ahead takes batches on a thread of its own

    def __next__(self) -> dict[str, Tensor]:
        with self._lock:
            if self._batches is None:
                self._batches = self._loaded() if self.workers else iter(self.endless)
            return next(self._batches)

    def steady(self) -> None:
        """Use up what workers made while nobody took anything."""
        for _ in range(2 * self.workers):
            next(self)

    def _loaded(self) -> Iterator[dict[str, Tensor]]:
        loader: Any = DataLoader(
            self.endless,
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=1,
            pin_memory=torch.cuda.is_available(),
        )
        return cast("Iterator[dict[str, Tensor]]", iter(loader))


class _Endless(IterableDataset[dict[str, Tensor]]):
    """Each worker draws its own batches."""

    def __init__(self, make: Callable[[random.Random], dict[str, Tensor]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        drawn = random.Random(worker.id if worker else 0)
        while True:
            yield self.make(drawn)


def _made(
    collator: Collator, texts: Sequence[Passage], batch: int, length: int, convert: Convert, drawn: random.Random
) -> dict[str, Tensor]:
    return convert(collator(drawn.sample(texts, batch), VOCABULARY, length, drawn))
