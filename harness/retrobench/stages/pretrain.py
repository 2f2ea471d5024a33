"""Further pre-training under the entrant's objective. Only these stages differ between entrants by design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retrobench.core import processes
from retrobench.data import TokenisedTexts
from retrobench.model import load_backbone, load_tokenizer
from retrobench.objective import Passage
from retrobench.stages.work import Work
from retrobench.store import Artifact, Source
from retrobench.training import (
    Batches,
    check_batch,
    check_module,
    check_step,
    discard,
    on_this_machine,
    seeded,
    train,
)

__all__ = ["pretrain"]


def pretrain(work: Work, section: str, start: Source, corpus: Sequence[Artifact]) -> Artifact:
    """Return the encoder with its head after the track's section `pretrain` or `adapt`, from the weights of `start`.

    `corpus` holds tokenised documents, read in their order. Each section initialises the objective's own modules again,
    as in the released recipes, which carry over only the encoder with its head.
    """
    experiment = work.experiment
    entrant = experiment.neural
    settings = on_this_machine(experiment.pretraining[section])
    objective = entrant.objective
    shape = None
    if section == "pretrain" and experiment.track.model.layers:
        shape = experiment.track.model
    label = f"{section} {entrant.name}"

    def make(folder: Path) -> dict[str, float]:
        texts = _Corpus([TokenisedTexts.open(source.path) for source in corpus])
        torch.manual_seed(seeded(experiment.seed))
        backbone, vocabulary = load_backbone(start.path, shape, trains=True)
        model = check_module(objective.name, objective.wrap(backbone), backbone)

        def check_output(model: nn.Module, arguments: tuple[Any, ...], output: object) -> None:
            check_step(objective.name, output)

        model.register_forward_hook(check_output)

        def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
            passages = [texts[row] for row in rows]
            batch = objective.collate(passages, vocabulary, settings.max_length, generator)
            return check_batch(objective.name, batch, settings.max_length)

        lengths = np.minimum(texts.lengths, settings.max_length)
        batches = Batches(lengths, settings.batch, settings.bucket, experiment.seed, settings.shards)
        cost = train(model, batches, collate, settings, folder, experiment.seed, texts.names, label)
        if processes.leads():
            backbone.lm.save_pretrained(folder)
            load_tokenizer(start.path).save_pretrained(folder)
            discard(folder)
        return cost

    recipe = {
        "objective": objective.name,
        "settings": entrant.settings,
        "model": asdict(shape) if shape else {},
        **asdict(settings),
        "corpus": [],  # the sources hold its texts, and its name does not matter
        "seed": experiment.seed,
        "processes": processes.size(),
    }
    return work.store.ensure(
        section,
        recipe,
        [start, *corpus],
        make,
        code=entrant.code,
        resumes=True,
        together=True,
        label=f"{label} seed {experiment.seed}",
    )


class _Corpus:
    """Several tokenised collections as one."""

    def __init__(self, collections: list[TokenisedTexts]) -> None:
        self.collections = collections
        self.lengths = np.concatenate([texts.lengths for texts in collections])
        sizes = [len(texts) for texts in collections]
        self.ends = np.cumsum(sizes)

    def _locate(self, row: int) -> tuple[TokenisedTexts, int]:
        """Return the collection of a row and the position in it."""
        number = int(np.searchsorted(self.ends, row, side="right"))
        texts = self.collections[number]
        first = int(self.ends[number]) - len(texts)
        return texts, row - first

    def __getitem__(self, row: int) -> Passage:
        texts, position = self._locate(row)
        return texts[position]

    def names(self, rows: np.ndarray) -> list[str]:
        names = []
        for row in rows:
            texts, position = self._locate(row)
            names.append(texts.ids[position])
        return names
