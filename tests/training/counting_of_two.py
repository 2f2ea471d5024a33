"""One of the processes of `test_repeating`: a training that is cut short after a checkpoint and taken up again."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from test_training import DRAWN, SETTINGS, Interrupted, Line
from torch import Tensor

from retrobench.core import processes
from retrobench.objective import Step
from retrobench.training import Batches, train

LENGTHS = np.arange(1, 33)  # tokens of each text
STEPS = replace(SETTINGS, steps=5, batch=4, accumulation=2, checkpoint_every=2)


class Texts(Line):
    """The same line, beside a mask that only counts."""

    def forward(self, progress: float, x: Tensor, attention_mask: Tensor | None = None) -> Step:
        return super().forward(progress, x)


def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
    mask = np.arange(LENGTHS.max()) < LENGTHS[rows, None]
    return {"x": torch.from_numpy(DRAWN[rows % len(DRAWN)]), "attention_mask": torch.from_numpy(mask)}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    left = 3 * STEPS.accumulation  # the third step is made, after the checkpoint of the second

    def cut_short(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        nonlocal left
        left -= 1
        if left < 0:
            raise Interrupted
        return collate(rows, generator)

    for make in (cut_short, collate):
        with suppress(Interrupted):
            batches = Batches(LENGTHS, STEPS.batch, 0, seed=5)
            cost = train(Texts(), batches, make, STEPS, folder, 5, lambda rows: [str(row) for row in rows], "line")
        processes.meet()
    print(json.dumps(cost))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
