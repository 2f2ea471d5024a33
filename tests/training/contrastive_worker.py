"""A process of `test_contrastive`: a contrastive step over its half of the queries, by `training.Loop`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from test_contrastive import ROWS, batch_of, gradients_of, without_dropout

from retrobench.config.track import Finetune
from retrobench.core.processes import rank
from retrobench.data import TokenisedTexts, load
from retrobench.training import Batches, Loop
from retrobench.training.examples import ContrastiveBatch, Examples


def main(base: Path, queries: Path, documents: Path, dataset_id: str, out: Path) -> None:
    torch.set_num_threads(1)
    examples = Examples(TokenisedTexts.open(queries), TokenisedTexts.open(documents), load(dataset_id))
    model = without_dropout(base, "cls")
    half = len(ROWS) // 2
    first = half * rank()
    rows_of_rank = ROWS[first : first + half]

    def collate(rows: np.ndarray, generator: torch.Generator) -> ContrastiveBatch:
        return batch_of(examples, 160, rows_of_rank)

    settings = Finetune(steps=1, batch=len(ROWS), shards=2, learning_rate=0.0, clip=0.0, precision="fp32")
    batches = Batches(np.ones(len(ROWS), np.int64), len(ROWS), 0, seed=0, shards=2)
    loop = Loop(model, batches, collate, settings, seed=0, couples=True)
    assert loop.accelerator.num_processes == 2
    loop.adam.zero_grad = lambda **options: None  # the test reads the gradients
    outputs, _ = loop.step(0)
    ((output, _),) = outputs
    loss = output.losses["contrastive"].item()
    record = {"gradients": gradients_of(model), "loss": loss, "negatives": model.negatives}
    torch.save(record, out / f"{rank()}.pt")


if __name__ == "__main__":
    base, queries, documents, dataset_id, out = sys.argv[1:]
    main(Path(base), Path(queries), Path(documents), dataset_id, Path(out))
