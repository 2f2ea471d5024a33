"""Further pre-training under the entrant's objective: the only stages in which entrants differ by design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from retrobench.core import processes
from retrobench.data import TokenisedTexts
from retrobench.model import load_backbone, load_tokenizer
from retrobench.objective import Passage
from retrobench.stages.work import Work
from retrobench.store import Artifact, Source
from retrobench.training import Batches, discard, on_this_machine, seeded, train

__all__ = ["pretrain"]


def pretrain(work: Work, section: str, start: Source, corpus: Sequence[Artifact]) -> Artifact:
    """Return the encoder with its head after the track's section `pretrain` or `adapt`, from the weights of `start`.

    `corpus` holds tokenised documents, read one after the other. The modules that an objective adds start anew in each
    section, as in the released recipes, which carry over the encoder with its head and no more.
    """
    experiment = work.experiment
    entrant, settings = experiment.neural, on_this_machine(experiment.pretraining[section])
    objective = entrant.objective
    shape = experiment.track.model if section == "pretrain" and experiment.track.model.layers else None
    label = f"{section} {entrant.name}"

    def make(folder: Path) -> dict[str, float]:
        texts = _Corpus([TokenisedTexts.open(source.path) for source in corpus])
        torch.manual_seed(seeded(experiment.seed))
        backbone, vocabulary = load_backbone(start.path, shape, trains=True)
        model = objective.wrap(backbone)

        def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
            return objective.collate([texts[row] for row in rows], vocabulary, settings.max_length, generator)

        lengths = np.minimum(texts.lengths, settings.max_length)
        batches = Batches(lengths, settings.batch, settings.bucket, experiment.seed)
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
        "corpus": [],  # its texts are sources; their names change nothing
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
    """Several tokenised collections, read one after the other."""

    def __init__(self, collections: list[TokenisedTexts]) -> None:
        self.collections = collections
        self.lengths = np.concatenate([texts.lengths for texts in collections])
        self.ends = np.cumsum([len(texts) for texts in collections])

    def _find(self, row: int) -> tuple[TokenisedTexts, int]:
        number = int(np.searchsorted(self.ends, row, side="right"))
        first = int(self.ends[number - 1]) if number else 0
        return self.collections[number], row - first

    def __getitem__(self, row: int) -> Passage:
        texts, position = self._find(row)
        return texts[position]

    def names(self, rows: np.ndarray) -> list[str]:
        return [texts.ids[position] for texts, position in map(self._find, rows)]
