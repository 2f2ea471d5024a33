"""A process of `test_repeating`: a training that is interrupted after a checkpoint and resumed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from trainings import INPUTS, SETTINGS, Interrupted, LeastSquares

from retrobench.core import processes
from retrobench.objective import Step
from retrobench.training import Batches, train

LENGTHS = np.arange(1, 33)  # tokens of each text
SETTINGS_OF_PROCESSES = replace(SETTINGS, steps=5, batch=16, shards=4, checkpoint_every=2)


class MaskedLeastSquares(LeastSquares):
    """Least squares with a mask, which is only counted."""

    def forward(self, progress: float, inputs: Tensor, attention_mask: Tensor | None = None) -> Step:
        return super().forward(progress, inputs)


def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
    inputs = INPUTS[rows % len(INPUTS)]
    lengths = LENGTHS[rows, None]
    mask = np.arange(LENGTHS.max()) < lengths
    return {"inputs": torch.from_numpy(inputs), "attention_mask": torch.from_numpy(mask)}


class InterruptedCollate:
    """Collates batches, and raises at the first batch of the fourth step: after the checkpoint of the second."""

    def __init__(self) -> None:
        self.remaining = 3 * SETTINGS_OF_PROCESSES.shards // 2

    def __call__(self, rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        if self.remaining == 0:
            raise Interrupted
        self.remaining -= 1
        return collate(rows, generator)


def names(rows: np.ndarray) -> Sequence[str]:
    return [str(row) for row in rows]


def train_by(make: Callable[[np.ndarray, torch.Generator], Mapping[str, Tensor]], folder: Path) -> dict[str, float]:
    """Train on the batches of `make`, and return the cost."""
    batches = Batches(LENGTHS, SETTINGS_OF_PROCESSES.batch, 0, seed=5, shards=4)
    return train(MaskedLeastSquares(), batches, make, SETTINGS_OF_PROCESSES, folder, 5, names, "line")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with suppress(Interrupted):
        train_by(InterruptedCollate(), folder)
    processes.meet()
    cost = train_by(collate, folder)
    processes.meet()
    print(json.dumps(cost))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
