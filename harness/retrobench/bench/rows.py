"""
The lines of the BoW paper's table of speed, and steps that keep count of their rate and of their wait for data.

* Row, ROWS      an objective by the paper's name for it, with both collators
* Side           our steps on batches collated one way
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from retrobench.bench.baselines import AutoEncoding, AutoRegression
from retrobench.bench.feeds import Feed
from retrobench.bench.frame import Setting, Timed
from retrobench.bench.models import Scale, objective, pretraining
from retrobench.bench.peers import collators
from retrobench.bench.peers.collators import Collator
from retrobench.bench.pretraining import as_ours, settings
from retrobench.bench.texts import VOCABULARY
from retrobench.objective import Passage
from retrobench.training import Batches, Loop, deterministic

__all__ = ["BOW", "ENHANCED", "LOSSES", "MLM", "ROWS", "Fed", "Row", "Side"]

Fed = Literal["as released", "ours", "no wait"]


@dataclass(frozen=True)
class Row:
    """A line of the table, by the paper's name for it."""

    name: str
    collator: Collator
    ours: Callable[[], Any]
    plugin: str = ""  # where the step can be compared with a released one


ROWS = (
    Row("Pure MLM", collators.mlm, partial(objective, "mlm"), "mlm"),
    Row("Auto-Encoding", collators.ae, AutoEncoding),
    Row("Auto-Regression", collators.ar, AutoRegression),
    Row("Enhanced Decoding", collators.retromae, partial(objective, "retromae"), "retromae"),
    Row("BoW", collators.bow, partial(objective, "bow-mae"), "bow-mae"),
)
LOSSES = {"mlm": "mlm", "retromae": "retromae", "bow-mae": "bow"}
MLM, ENHANCED, BOW = ROWS[0], ROWS[3], ROWS[4]


class Side:
    """Steps on batches from one source; keeps the rate and the seconds waited a batch of each round."""

    def __init__(self, row: Row, fed: Fed, sizes: Scale, texts: list[Passage], setting: Setting) -> None:
        self.sizes, self.setting, self.number = sizes, setting, 0
        self.steps = 8 if setting.cuda and not setting.smoke else 2
        self.rates: list[float] = []
        self.waits: list[float] = []
        of = row.ours()
        released = fed == "as released"
        self.feed = Feed(row.collator, texts, sizes.batch, sizes.length, setting, as_ours) if released else None
        kept = _collated(of, texts[: sizes.batch], sizes.length) if fed == "no wait" else {}

        def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
            if self.feed:
                return next(self.feed)
            made: dict[str, Tensor] = kept or of.collate(
                [texts[at] for at in rows], VOCABULARY, sizes.length, generator
            )
            return made

        batches = Batches(np.full(len(texts), sizes.length), sizes.batch, 0, seed=0)
        model = pretraining(of, sizes, setting.device)
        self.loop = Loop(model, batches, collate, settings(sizes.batch), seed=0)

    def __call__(self) -> Timed:
        if self.feed:
            self.feed.steady()
        waited, began = self.loop.waited, time.perf_counter()
        with deterministic():
            for _ in range(self.steps):
                self.loop.step(self.number)
                self.number += 1
        if self.setting.cuda:
            torch.cuda.synchronize()
        done = Timed(self.steps * self.sizes.batch, time.perf_counter() - began)
        self.rates.append(done.units / done.seconds)
        self.waits.append((self.loop.waited - waited) / self.steps)
        return done

    def forget(self) -> None:
        """What a warm-up left."""
        self.rates.clear()
        self.waits.clear()


def _collated(of: Any, texts: list[Passage], length: int) -> dict[str, Tensor]:
    made: dict[str, Tensor] = of.collate(texts, VOCABULARY, length, torch.Generator().manual_seed(0))
    return made
