"""Further pre-training under the entrant's objective: the only stage in which entrants differ by design."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from retrobench import checkpoints
from retrobench.experiment import Experiment
from retrobench.objective import Passage
from retrobench.stages.start import load_backbone, load_tokenizer, start
from retrobench.stages.tokenise import tokenise
from retrobench.store import Artifact, Store
from retrobench.tokens import TokenisedTexts
from retrobench.training import Batches, resolve_precision, seeded, train

__all__ = ["pretrain"]


def pretrain(x: Experiment, store: Store) -> Artifact:
    """The encoder with its head after `pretrain.steps` steps; the start itself if the entrant does not pre-train."""
    beginning = start(x)
    if not x.entrant.pretrains:
        return beginning
    settings = replace(x.track.pretrain, precision=resolve_precision(x.track.pretrain.precision))
    objective = x.entrant.objective
    sources = [tokenise(store, beginning, name, "documents", settings.titles) for name in settings.corpus]

    def make(folder: Path) -> dict[str, float]:
        corpus = _Corpus([TokenisedTexts.open(source.path) for source in sources])
        torch.manual_seed(seeded(x.seed))
        backbone, vocabulary = load_backbone(beginning.path, x.track.model, trains=True)
        model = objective.wrap(backbone)

        def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
            batch: dict[str, Tensor] = objective.collate(
                [corpus[row] for row in rows], vocabulary, settings.max_length, generator
            )
            return batch

        lengths = np.minimum(corpus.lengths, settings.max_length)
        batches = Batches(lengths, settings.batch, settings.bucket, x.seed)
        cost = train(model, batches, collate, settings, folder, x.seed, corpus.names, f"pretrain {x.entrant.name}")
        backbone.lm.save_pretrained(folder)
        load_tokenizer(beginning.path).save_pretrained(folder)
        checkpoints.discard(folder)
        return cost

    recipe = {
        "objective": objective.name,
        "settings": x.entrant.settings,
        "model": asdict(x.track.model) if x.track.model.layers else {},
        **asdict(settings),
        "corpus": [],  # its texts are the sources; what they are called changes nothing
        "seed": x.seed,
    }
    label = f"pretrain {x.entrant.name} seed {x.seed}"
    return store.ensure("pretrain", recipe, [beginning, *sources], make, code=x.entrant.code, resumes=True, label=label)


class _Corpus:
    """Several tokenised collections, read one after the other."""

    def __init__(self, parts: list[TokenisedTexts]) -> None:
        self.parts = parts
        self.lengths = np.concatenate([part.lengths for part in parts])
        self.ends = np.cumsum([len(part) for part in parts])

    def _find(self, row: int) -> tuple[TokenisedTexts, int]:
        part = int(np.searchsorted(self.ends, row, side="right"))
        return self.parts[part], row - (int(self.ends[part - 1]) if part else 0)

    def __getitem__(self, row: int) -> Passage:
        texts, at = self._find(row)
        return texts[at]

    def names(self, rows: np.ndarray) -> list[str]:
        return [texts.ids[at] for texts, at in map(self._find, rows)]
