"""
Batches of the released collators: made as the steps go on a CPU, by worker processes beside a GPU.

* Feed            endless batches of random passages, padded to the longest of the batch
* convert_batch   a released batch as our step takes it
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
from retrobench.bench.peers.collators import UNLABELLED, Batch, Collator
from retrobench.bench.texts import VOCABULARY

__all__ = ["WORKERS", "Feed", "convert_batch"]

WORKERS = 8  # of a loader, as in both projects' published settings


class Feed:
    """Batches of a released collator. Beside a GPU `WORKERS` processes make them, as in the released runs."""

    def __init__(self, collator: Collator, work: Workload, convert: bool = False) -> None:
        """With `convert` the worker converts each batch by `convert_batch`, so that no step waits for it."""
        self.batches = _EndlessBatches(collator, work, convert)
        self.workers = WORKERS if work.setting.cuda else 0
        self._iterator: Iterator[Batch] | None = None
        self._lock = Lock()  # a loop that works ahead takes batches on a thread of its own

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        with self._lock:
            if self._iterator is None:
                self._iterator = self._start()
            return next(self._iterator)

    def steady(self) -> None:
        """Use up the batches that workers made while no step ran."""
        for _ in range(2 * self.workers):
            next(self)

    def _start(self) -> Iterator[Batch]:
        if not self.workers:
            return iter(self.batches)
        loader: Any = DataLoader(
            self.batches,
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=1,
            pin_memory=torch.cuda.is_available(),
        )
        return cast("Iterator[Batch]", iter(loader))


class _EndlessBatches(IterableDataset[Batch]):
    """Each worker draws its own batches."""

    def __init__(self, collator: Collator, work: Workload, convert: bool) -> None:
        self.collator = collator
        self.work = work
        self.convert = convert

    def __iter__(self) -> Iterator[Batch]:
        sizes = self.work.sizes
        worker = get_worker_info()
        seed = worker.id if worker else 0
        draw = random.Random(seed)
        while True:
            texts = draw.sample(self.work.texts, sizes.batch)
            batch = self.collator(texts, VOCABULARY, sizes.length, draw)
            if self.convert:
                batch = convert_batch(batch)
            yield batch


def convert_batch(released: Mapping[str, Tensor]) -> Batch:
    """Convert a released batch for our step: ids, labels, and the matrix of visible tokens or the weights of words."""
    labels = released["encoder_labels"].flatten()
    labelled = labels != UNLABELLED
    batch = {
        "input_ids": released["encoder_input_ids"],
        "attention_mask": released["encoder_attention_mask"],
        "masked_positions": labelled.nonzero().flatten(),
        "masked_ids": labels[labelled],
    }
    if "decoder_attention_mask" in released:
        batch |= _convert_enhanced_decoder(released)
    elif "decoder_input_ids" in released:
        batch |= _convert_sentence_decoder(released)
    if "bow_weights" in released:
        weights = released["bow_weights"]
        bag_sizes = weights.gt(0).sum(1)
        largest_bag = max(int(bag_sizes.max()), 1)
        batch["bag_weights"], batch["bag"] = weights.topk(largest_bag, dim=1)
    return batch


def _convert_enhanced_decoder(released: Mapping[str, Tensor]) -> Batch:
    """Convert the decoder's side of RetroMAE."""
    real = released["encoder_attention_mask"]
    labels = released["decoder_labels"].flatten()
    visible = released["decoder_attention_mask"].bool()
    visible[:, :, 0] |= ~real.bool()  # no loss reads padding's rows, but each softmax needs a visible token
    return {
        "clean_ids": released["decoder_input_ids"],
        "words": torch.zeros_like(real),  # unread where masks are given
        "content_positions": (labels != UNLABELLED).nonzero().flatten(),
        "visible": visible,
    }


def _convert_sentence_decoder(released: Mapping[str, Tensor]) -> Batch:
    """Convert the decoder's side of a baseline."""
    real = released["encoder_attention_mask"].bool()
    ids = released["decoder_input_ids"]
    labels = released["decoder_labels"]
    if torch.equal(labels[real], ids[real]):  # every token is a label: each position predicts the next token
        labels = F.pad(labels[:, 1:], (0, 1), value=UNLABELLED)
    labelled = labels != UNLABELLED
    return {
        "decoder_ids": ids,
        "decoder_positions": labelled.flatten().nonzero().flatten(),
        "decoder_targets": labels[labelled],
    }
