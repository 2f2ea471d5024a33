"""Contrastive fine-tuning, the same for every entrant: in-batch negatives, hard ones, and in a last round a teacher."""

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

REVISION = 2  # one more where the same settings come to give other weights

RoundName = Literal["in-batch", "mined", "distilled"]


def finetune(
    work: Work,
    start: Source,
    texts: TrainingTexts,
    round_name: RoundName,
    negatives: Artifact | None = None,
) -> Artifact:
    """Return the encoder of one round, fine-tuned from the weights of `start`.

    `negatives` are hard negatives, from the dataset, the miner or the teacher, beside those of the batch.
    """
    experiment, tokenizer = work.experiment, work.tokenizer
    track, entrant = experiment.track, experiment.neural
    settings = on_this_machine(track.finetune)
    distil = track.distil if round_name == "distilled" else None

    def make(folder: Path) -> dict[str, float]:
        torch.manual_seed(seeded(experiment.seed, 1))
        backbone, vocabulary = load_backbone(start.path, trains=True)
        encoder = Encoder(backbone, entrant.representation, track.representation)
        batch_maker = ContrastiveBatches(
            texts.examples(settings.examples),
            vocabulary,
            settings.reading,
            candidates=Candidates.open(negatives.path) if negatives else None,
            negatives=distil.negatives if distil else settings.negatives,
            lacking=settings.lacking,
            gradient_cache=settings.performance.gradient_cache,
        )
        # Batches are sorted by the positive's length, whose padding is the larger waste.
        batches = Batches(batch_maker.lengths, settings.batch, settings.bucket, experiment.seed)
        model = Contrastive(encoder, settings.temperature, distil, settings.performance.gradient_cache)
        label = f"finetune {entrant.name}"
        cost = train(model, batches, batch_maker.collate, settings, folder, experiment.seed, batch_maker.names, label)
        if processes.leads():
            encoder.save(folder, load_tokenizer(tokenizer.path), settings.reading.passage_length)
            discard(folder)
        return {**cost, "negatives": model.negatives}

    recipe = {
        "revision": REVISION,
        "round": round_name,
        "representation": entrant.representation,
        **asdict(replace(track.representation, stored="float32")),  # how vectors are stored comes afterwards
        **asdict(settings),
        "judgements": texts.collection.qrels_hash,
        "seed": experiment.seed,
        "processes": processes.size(),
        "distil": {**asdict(distil), "teacher": "", "scores": ""} if distil else None,  # a source stands for these
    }
    sources = [start, texts.documents, texts.queries, tokenizer]
    if negatives is not None:
        sources.append(negatives)
    label = f"finetune {entrant.name} seed {experiment.seed} ({round_name} negatives)"
    return work.store.ensure(
        "finetune", recipe, sources, make, detail=round_name, resumes=True, together=True, label=label
    )
