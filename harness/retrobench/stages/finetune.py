"""Contrastive fine-tuning, equal for all entrants: in-batch and hard negatives, and a teacher in a last round."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import torch

from retrobench.core import processes
from retrobench.model import Encoder, load_backbone, load_tokenizer
from retrobench.stages.training_texts import TrainingTexts
from retrobench.stages.work import Work
from retrobench.store import Artifact, Source
from retrobench.training import (
    Batches,
    Candidates,
    Contrastive,
    ContrastiveBatches,
    discard,
    on_this_machine,
    seeded,
    train,
)

__all__ = ["RoundName", "finetune"]

REVISION = 2  # increased when equal settings begin to give different weights

RoundName = Literal["in-batch", "mined", "distilled"]


def finetune(
    work: Work, start: Source, texts: TrainingTexts, round_name: RoundName, negatives: Artifact | None = None
) -> Artifact:
    """Return the encoder of one round, fine-tuned from the weights of `start`.

    `negatives` are hard negatives from the dataset, the miner or the teacher. In-batch negatives are always used.
    """
    experiment = work.experiment
    seed = experiment.seed
    tokenizer = work.tokenizer
    track = experiment.track
    entrant = experiment.neural
    settings = on_this_machine(track.finetune)
    distil = track.distil if round_name == "distilled" else None

    def make(folder: Path) -> dict[str, float]:
        torch.manual_seed(seeded(seed, 1))
        backbone, vocabulary = load_backbone(start.path, trains=True)
        encoder = Encoder(backbone, entrant.representation, track.representation)
        candidates = Candidates.open(negatives.path) if negatives else None
        batch_maker = ContrastiveBatches(
            texts.examples(settings.examples),
            vocabulary,
            settings.reading,
            candidates=candidates,
            negatives=distil.negatives if distil else settings.negatives,
            lacking=settings.lacking,
            gradient_cache=settings.performance.gradient_cache,
        )
        # Batches are sorted by the positive's length, because passages waste more padding than queries.
        batches = Batches(batch_maker.lengths, settings.batch, settings.bucket, seed, settings.shards)
        model = Contrastive(encoder, settings.temperature, distil, settings.performance.gradient_cache)
        label = f"finetune {entrant.name}"
        cost = train(
            model, batches, batch_maker.collate, settings, folder, seed, batch_maker.names, label, couples=True
        )
        if processes.leads():
            encoder.save(folder, load_tokenizer(tokenizer.path), settings.reading.passage_length)
            discard(folder)
        return {**cost, "negatives": model.negatives}

    recipe = {
        "revision": REVISION,
        "round": round_name,
        "representation": entrant.representation,
        **asdict(replace(track.representation, stored="float32")),  # vectors are stored only after fine-tuning
        **asdict(settings),
        "judgements": texts.collection.qrels_hash,
        "seed": seed,
        "processes": processes.size(),
        "distil": {**asdict(distil), "teacher": "", "scores": ""} if distil else None,  # the sources hold their content
    }
    sources = [start, texts.documents, texts.queries, tokenizer]
    if negatives is not None:
        sources.append(negatives)
    label = f"finetune {entrant.name} seed {seed} ({round_name} negatives)"
    return work.store.ensure(
        "finetune", recipe, sources, make, detail=round_name, resumes=True, together=True, label=label
    )
