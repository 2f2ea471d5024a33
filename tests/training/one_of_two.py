"""One of the processes of `test_contrastive`: a contrastive step over its half of the queries, by `training.Loop`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from test_contrastive import ROWS, batch_of, without_dropout

from retrobench.config.track import Finetune
from retrobench.core.processes import rank
from retrobench.data import TokenisedTexts, load
from retrobench.training import Batches, Loop
from retrobench.training.examples import ContrastiveBatch, Examples


def main(base: Path, queries: Path, documents: Path, dataset: str, out: Path) -> None:
    torch.set_num_threads(1)
    texts = TokenisedTexts.open(queries), TokenisedTexts.open(documents)
    examples, model = Examples(*texts, load(dataset)), without_dropout(base, "cls")
    half = len(ROWS) // 2

    def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, ContrastiveBatch]:
        return batch_of(examples, 160, ROWS[half * rank() :][:half])

    settings = Finetune(steps=1, batch=half, learning_rate=0.0, clip=0.0, precision="fp32")
    loop = Loop(model, Batches(np.ones(len(ROWS), np.int64), half, 0, seed=0), collate, settings, seed=0)
    assert loop.accelerator.num_processes == 2
    loop.adam.zero_grad = lambda **_: None  # what is to be looked at
    ((step, _),), _ = loop.step(0)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    losses = {name: value.item() for name, value in step.losses.items()}
    torch.save({"gradients": gradients, "losses": losses, "negatives": model.negatives}, out / f"{rank()}.pt")


if __name__ == "__main__":
    base, queries, documents, dataset, out = sys.argv[1:]
    main(Path(base), Path(queries), Path(documents), dataset, Path(out))
