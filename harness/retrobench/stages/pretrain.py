"""Further pre-training under the entrant's objective: the only stages in which entrants differ by design."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from retrobench.config import Experiment, Pretrain, counted
from retrobench.core import processes
from retrobench.data import TokenisedTexts
from retrobench.model import load_backbone, load_tokenizer
from retrobench.objective import Passage
from retrobench.stages.start import start
from retrobench.stages.tokenise import tokenise
from retrobench.store import Artifact, Store
from retrobench.training import Batches, compiles, discard, resolve_precision, seeded, train

__all__ = ["adapt", "pretrain"]


def pretrain(x: Experiment, store: Store) -> Artifact:
    """The encoder with its head after `[pretrain]`; the start itself if the entrant does not pre-train."""
    beginning = start(x)
    return _further(x, store, "pretrain", x.track.pretrain, beginning) if x.entrant.pretrains else beginning


def adapt(x: Experiment, store: Store, pretrained: Artifact) -> Artifact:
    """The same again after `[adapt]`, on the target corpus. What the objective adds starts anew, as in the released
    recipes, which carry over the encoder with its head and no more. `pretrained` itself where there is no such section.
    """
    settings = x.track.adapt
    return _further(x, store, "adapt", settings, pretrained) if settings and x.entrant.pretrains else pretrained


def _further(x: Experiment, store: Store, stage: str, settings: Pretrain, beginning: Artifact) -> Artifact:
    settings = replace(settings, precision=resolve_precision(settings.precision), compile=compiles(settings))
    objective, shape = x.entrant.objective, x.track.model if stage == "pretrain" else None
    texts = [tokenise(store, start(x), name, "documents", settings.titles) for name in settings.corpus]
    label = f"{stage} {x.entrant.name}"

    def make(folder: Path) -> dict[str, float]:
        corpus = _Corpus([TokenisedTexts.open(source.path) for source in texts])
        torch.manual_seed(seeded(x.seed))
        backbone, vocabulary = load_backbone(beginning.path, shape, trains=True)
        model = objective.wrap(backbone)

        def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
            batch: dict[str, Tensor] = objective.collate(
                [corpus[row] for row in rows], vocabulary, settings.max_length, generator
            )
            return batch

        lengths = np.minimum(corpus.lengths, settings.max_length)
        batches = Batches(lengths, settings.batch, settings.bucket, x.seed)
        cost = train(model, batches, collate, settings, folder, x.seed, corpus.names, label)
        if processes.leads():
            backbone.lm.save_pretrained(folder)
            load_tokenizer(beginning.path).save_pretrained(folder)
            discard(folder)
        return cost

    recipe = {
        "objective": objective.name,
        "settings": x.entrant.settings,
        "model": asdict(shape) if shape and shape.layers else {},
        **counted(settings),
        "corpus": [],  # its texts are sources; what they are called changes nothing
        "seed": x.seed,
    }
    told = f"{label} seed {x.seed}"
    recipe |= {"processes": processes.size()} if processes.size() > 1 else {}
    sources, code = [beginning, *texts], x.entrant.code
    return store.ensure(stage, recipe, sources, make, code=code, resumes=True, together=True, label=told)


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
