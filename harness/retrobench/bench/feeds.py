"""
Batches of the released collators: made as the steps go on a CPU, by worker processes beside a GPU.

* Feed       endless batches of random passages, padded to the longest of the batch
* as_ours    a released batch as our step takes it
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from retrobench.bench.models import Workload
from retrobench.bench.peers.collators import Batch, Collator
from retrobench.bench.texts import VOCABULARY

__all__ = ["WORKERS", "Feed", "as_ours"]

WORKERS = 8  # of a loader, as in both projects' published settings


class Feed:
    """Batches of a released collator. Beside a GPU `WORKERS` processes make them, as the released runs had it."""

    def __init__(self, collator: Collator, work: Workload, convert: bool = False) -> None:
        """With `convert` the batches are `as_ours`, converted by the worker, so that no step waits for it."""
        self.endless = _Endless(collator, work, convert)
        self.workers = WORKERS if work.setting.cuda else 0
        self._batches: Iterator[Batch] | None = None
        self._lock = Lock()  # a loop that works ahead takes batches on a thread of its own

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        with self._lock:
            if self._batches is None:
                self._batches = self._loaded() if self.workers else iter(self.endless)
            return next(self._batches)

    def steady(self) -> None:
        """Use up the batches that workers made while no step ran."""
        for _ in range(2 * self.workers):
            next(self)

    def _loaded(self) -> Iterator[Batch]:
        loader: Any = DataLoader(
            self.endless,
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=1,
            pin_memory=torch.cuda.is_available(),
        )
        return cast("Iterator[Batch]", iter(loader))


class _Endless(IterableDataset[Batch]):
    """Each worker draws its own batches."""

    def __init__(self, collator: Collator, work: Workload, convert: bool) -> None:
        self.collator, self.work, self.convert = collator, work, convert

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        draw, sizes = random.Random(worker.id if worker else 0), self.work.sizes
        while True:
            batch = self.collator(draw.sample(self.work.texts, sizes.batch), VOCABULARY, sizes.length, draw)
            yield as_ours(batch) if self.convert else batch


def as_ours(released: Mapping[str, Tensor]) -> Batch:
    """Convert a released batch for our step: the same ids, labels, matrix of visible tokens or weights of words."""
    labels, real = released["encoder_labels"].flatten(), released["encoder_attention_mask"]
    batch = {
        "input_ids": released["encoder_input_ids"],
        "attention_mask": real,
        "masked_positions": (labels != -100).nonzero().flatten(),
        "masked_ids": labels[labels != -100],
    }
    if "decoder_attention_mask" in released:
        batch |= _enhanced(released)
    elif "decoder_input_ids" in released:
        batch |= _decoded(released)
    if "bow_weights" in released:
        weights = released["bow_weights"]
        most = int(weights.gt(0).sum(1).max())
        batch["bag_weights"], batch["bag"] = weights.topk(max(most, 1), dim=1)
    return batch


def _enhanced(released: Mapping[str, Tensor]) -> Batch:
    """Convert the decoder's side of RetroMAE."""
    real = released["encoder_attention_mask"]
    visible = released["decoder_attention_mask"].bool()
    visible[:, :, 0] |= ~real.bool()  # no loss reads padding's rows, but a softmax needs something to see
    return {
        "clean_ids": released["decoder_input_ids"],
        "words": torch.zeros_like(real),  # unread where masks are given
        "content_positions": (released["decoder_labels"].flatten() != -100).nonzero().flatten(),
        "visible": visible,
    }


def _decoded(released: Mapping[str, Tensor]) -> Batch:
    """Convert the decoder's side of a baseline."""
    real = released["encoder_attention_mask"].bool()
    ids, labels = released["decoder_input_ids"], released["decoder_labels"]
    if torch.equal(labels[real], ids[real]):  # every token is a label: each position predicts the next one
        labels = F.pad(labels[:, 1:], (0, 1), value=-100)
    return {
        "decoder_ids": ids,
        "decoder_positions": (labels.flatten() != -100).nonzero().flatten(),
        "decoder_targets": labels[labels != -100],
    }
