"""
Our training loop at work on one side of a case.

* Steps                 steps of a loop, continued with every call
* pretraining_steps     the steps of pre-training a new model, as a run sets it up
* repeat_batches        batches collated beforehand, so that steps alone are timed
* FedSteps              pre-training fed in one of three ways; records its rates and its waits for data
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from retrobench.bench.feeds import Feed
from retrobench.bench.frame import Timed
from retrobench.bench.methods import Method
from retrobench.bench.models import BUCKET, Workload, make_pretraining
from retrobench.bench.texts import VOCABULARY, count_tokens
from retrobench.config import Optimisation
from retrobench.training import Batches, Loop, deterministic, trainable

__all__ = ["FedSteps", "Feeding", "Steps", "pretraining_steps", "repeat_batches"]

Batch = dict[str, Tensor]
Feeding = Literal["as released", "ours", "no wait"]


class Steps:
    """Steps of a loop, continued with every call."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.number = 0

    def take(self, count: int) -> None:
        """Take `count` optimizer steps by deterministic algorithms, as a run does."""
        with deterministic():
            for _ in range(count):
                self.loop.step(self.number)
                self.number += 1


def pretraining_steps(objective: Any, work: Workload, source: Iterator[Batch] | None = None) -> Steps:
    """Return the steps of pre-training a new model; batches come from the objective's collator, or from `source`."""

    def collate(rows: np.ndarray, generator: torch.Generator) -> Batch:
        if source is not None:
            return next(source)
        return _collate(objective, work, rows, generator)

    # The schedule of a long run, at a rate so small that random weights stay as good as random.
    settings = Optimisation(steps=1_000_000, batch=work.sizes.batch, learning_rate=1e-5)
    model = make_pretraining(objective, work.sizes, work.setting.device)
    couples = objective.couples_batch
    return Steps(Loop(trainable(objective, model), _batches(work), collate, settings, seed=0, couples=couples))


def repeat_batches(objective: Any, work: Workload) -> Iterator[Batch]:
    """Collate the batches of an epoch now; return them over and over."""
    rows_of_batches = _batches(work)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for number in range(len(work.texts) // work.sizes.batch):
        rows = rows_of_batches.rows(number)
        batches.append(_collate(objective, work, rows, generator))
    return cycle(batches)


def _batches(work: Workload) -> Batches:
    return Batches(count_tokens(work.texts), work.sizes.batch, BUCKET, seed=0)


def _collate(objective: Any, work: Workload, rows: np.ndarray, generator: torch.Generator) -> Batch:
    texts = [work.texts[row] for row in rows]
    batch: Batch = objective.collate(texts, VOCABULARY, work.sizes.length, generator)
    return batch


class FedSteps:
    """A side of pre-training steps; records the samples a second and the seconds waited a batch of every round."""

    def __init__(self, method: Method, feeding: Feeding, work: Workload, steps: int) -> None:
        """Batches are collated as released, by our objective, or beforehand; a round takes `steps` of them."""
        self.samples = steps * work.sizes.batch
        self.setting = work.setting
        self.steps = steps
        self.rates: list[float] = []
        self.waits: list[float] = []
        objective = method.objective()
        self.feed: Feed | None = None
        source: Iterator[Batch] | None = None
        if feeding == "as released":
            source = self.feed = Feed(method.collator, work, convert=True)
        elif feeding == "no wait":
            source = repeat_batches(objective, work)
        self.training = pretraining_steps(objective, work, source)

    def __call__(self) -> Timed:
        if self.feed is not None:
            self.feed.steady()
        loop = self.training.loop
        waited = loop.waited
        start = self.setting.start()
        self.training.take(self.steps)
        seconds = self.setting.seconds(start)
        self.rates.append(self.samples / seconds)
        self.waits.append((loop.waited - waited) / self.steps)
        return Timed(self.samples, seconds)

    def forget(self) -> None:
        """Drop the numbers of a warm-up."""
        self.rates.clear()
        self.waits.clear()
