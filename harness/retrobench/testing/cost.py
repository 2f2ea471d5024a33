"""The time of an objective's training step beside masked language modelling's, measured on a small model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from retrobench.objective import Context, Objective
from retrobench.testing.families import make_bert
from retrobench.testing.texts import make_passage, make_vocabulary
from retrobench.training import forward

__all__ = ["MODEL", "Cost", "measure_cost"]

# A sixth of BERT-base's width and words, with all of its layers: so a layer that an objective adds, and a product with
# the word matrix, weigh as they do there.
LAYERS, WIDTH, WORDS = 12, 128, 5120
TEXTS, LENGTH = 4, 64
WARM_UP, ROUNDS = 2, 7
MODEL = (
    f"one thread, {TEXTS} texts of {LENGTH} tokens, a BERT of {LAYERS} layers and width {WIDTH} with {WORDS:,} words"
)

Work = Callable[[], None]


class Cost(NamedTuple):
    """Median seconds of a forward and a backward pass, of an objective and of masked language modelling."""

    seconds: float
    mlm_seconds: float
    rounds: int = ROUNDS

    @property
    def ratio(self) -> float:
        """Return how many times masked language modelling's cost the objective costs."""
        return self.seconds / self.mlm_seconds


def measure_cost(objective: Objective, mlm: Objective) -> Cost:
    """Time both objectives by turns on equal passages and equal models, on one thread. Batches are made before."""
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(0)
        step, mlm_step = _step(objective), _step(mlm)
        seconds, mlm_seconds = [], []
        for _ in range(WARM_UP + ROUNDS):
            seconds.append(_time(step))
            mlm_seconds.append(_time(mlm_step))
    return Cost(median(seconds[WARM_UP:]), median(mlm_seconds[WARM_UP:]))


def _step(objective: Objective) -> Work:
    """Return the forward and the backward pass of an objective over one batch."""
    backbone = make_bert(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=LENGTH,
    )
    vocabulary = make_vocabulary(backbone.config)
    draw = np.random.default_rng(0)
    texts = [make_passage(vocabulary, LENGTH - 2, draw) for _ in range(TEXTS)]
    batch = objective.collate(texts, vocabulary, LENGTH, torch.Generator().manual_seed(0))
    context = Context(vocabulary, LENGTH, load=lambda name: deepcopy(backbone.lm))
    model = objective.wrap(backbone, context).train()

    def step() -> None:
        model.zero_grad()
        losses = forward(objective, model, 0.5, batch).losses.values()
        torch.stack([loss.float() for loss in losses]).sum().backward()  # type: ignore[no-untyped-call]

    return step


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: several wait for each other on a busy machine, and no longer compare."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _time(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
