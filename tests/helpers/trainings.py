"""Trainings in miniature: least squares on 16 inputs, and the log and checkpoints that a training leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retrobench.config.track import Optimisation
from retrobench.objective import Step
from retrobench.training.batches import Batches
from retrobench.training.loop import train

SETTINGS = Optimisation(
    steps=7, batch=8, learning_rate=1e-3, bucket=2, precision="fp32", checkpoint_every=2, log_every=1
)


class Interrupted(Exception):
    """Raised in the middle of training."""


def log(folder: Path) -> list[dict[str, float]]:
    """Return the lines of a training's log."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def logged(folder: Path, name: str) -> list[float]:
    """Return the values of `name` in a training's log."""
    return [line[name] for line in log(folder) if name in line]


def checkpoint_names(folder: Path) -> list[str]:
    """Return the names of the checkpoints in a folder, cut short or not."""
    return [path.name for path in sorted(folder.glob("step-*"))]


def unchanged(error: Tensor, progress: float) -> Tensor:
    """Return the error."""
    return error


class LeastSquares(nn.Module):
    """Least squares: the mean over a batch, so that two halves average to the whole."""

    def __init__(self, loss: Callable[[Tensor, float], Tensor] = unchanged) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        nn.init.constant_(self.linear.weight, 0.5)
        nn.init.constant_(self.linear.bias, 0.25)
        self.loss = loss
        self.progress: list[float] = []

    def forward(self, progress: float, inputs: Tensor) -> Step:
        self.progress.append(progress)
        targets = inputs[:, :2] * 2
        error = (self.linear(inputs) - targets).square().mean()
        return Step({"error": self.loss(error, progress)}, {})


INPUTS = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)


def fit(model: nn.Module, folder: Path, **changed: Any) -> dict[str, float]:
    """Train a model on the 16 inputs, 4 steps of 4 rows, and return the cost."""
    settings = replace(SETTINGS, **{"steps": 4, "bucket": 0, "batch": 4, **changed})
    folder.mkdir(exist_ok=True)
    batches = Batches(np.ones(16, np.int64), settings.batch, 0, seed=0, shards=settings.shards)

    def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        return {"inputs": torch.from_numpy(INPUTS[rows])}

    def names(rows: np.ndarray) -> Sequence[str]:
        return [f"doc {row}" for row in rows]

    return train(model, batches, collate, settings, folder, 0, names, "pretrain line")
