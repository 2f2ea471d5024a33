"""A process of `test_contriever`: a training that can end before its last step."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from bases import MAX_LENGTH, make
from contexts import wrapped
from torch import Tensor
from trainings import Interrupted

from retrobench.config.track import Optimisation
from retrobench.data import TokenisedTexts
from retrobench.model import load_backbone
from retrobench.training import Batches, Coupled, train
from retrobench_contriever import Contriever

STEPS = 6
SETTINGS = Optimisation(
    STEPS, batch=6, shards=2, learning_rate=1e-2, bucket=0, precision="fp32", checkpoint_every=2, log_every=1
)


def write_start(folder: Path) -> Path:
    """Write texts and a base; other processes would train another tokenizer."""
    base = make("bert", folder)
    base.lm.save_pretrained(folder / "base")
    base.tokenizer.save_pretrained(folder / "base")
    return folder


def train_until(end: int, start: Path, folder: Path) -> dict[str, Tensor]:
    """Train, or go on training, and return the state after the last step. Raises Interrupted behind `end` shards."""
    objective = Contriever(queue=10, momentum=0.5)
    texts = TokenisedTexts.open(start)
    torch.manual_seed(0)
    backbone, vocabulary = load_backbone(start / "base", None, trains=True)
    model = wrapped(objective, backbone, vocabulary)
    made = 0

    def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        nonlocal made
        if made == end:
            raise Interrupted
        made += 1
        passages = [texts[row] for row in rows]
        return objective.collate(passages, vocabulary, MAX_LENGTH, generator)

    def names(rows: np.ndarray) -> list[str]:
        return [texts.ids[row] for row in rows]

    folder.mkdir(exist_ok=True)
    batches = Batches(texts.lengths, SETTINGS.batch, SETTINGS.bucket, seed=0, shards=SETTINGS.shards)
    coupled = Coupled(objective.name, model)
    train(coupled, batches, collate, SETTINGS, folder, 0, names, "contriever", couples=True)
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}


def main(start: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    train_until(2 * STEPS, start, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
