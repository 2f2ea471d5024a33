"""Contrastive fine-tuning, equal for all entrants: in-batch and hard negatives, and a teacher in a last round."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from retrobench.config import Distil, Experiment, Finetune
from retrobench.core import processes
from retrobench.model import Encoder, load_backbone, load_tokenizer
from retrobench.stages.tokenised_collection import TokenisedCollection
from retrobench.stages.work import Work
from retrobench.store import Artifact, Source
from retrobench.training import (
    Batches,
    Candidates,
    Contrastive,
    ContrastiveBatches,
    Examples,
    Watch,
    on_this_machine,
    seeded,
    train,
)

__all__ = ["RoundName", "finetune"]

REVISION = 2  # increased when equal settings begin to give different weights

RoundName = Literal["in-batch", "mined", "distilled"]


def finetune(
    work: Work,
    start: Source,
    texts: TokenisedCollection,
    round_name: RoundName,
    negatives: Artifact | None = None,
) -> Artifact:
    """Return the encoder of one round, fine-tuned from the weights of `start`.

    `negatives` are hard negatives from the dataset, the miner or the teacher. In-batch negatives are always used.
    """
    experiment = work.experiment
    tokenizer = work.tokenizer
    track = experiment.track
    entrant = experiment.neural
    settings = on_this_machine(track.finetune)
    distil = track.distil if round_name == "distilled" else None

    def make(folder: Path) -> dict[str, float]:
        examples = texts.examples(settings.examples)
        candidates = Candidates.open(negatives.path) if negatives else None
        model, batch_maker, batches = prepare(work, start.path, examples, settings, candidates, distil)
        label = f"finetune {entrant.name}"
        collate, names = batch_maker.collate, batch_maker.names
        watch = Watch(corridor=work.inputs.corridors.get(f"finetune {round_name}"))
        cost = train(model, batches, collate, settings, folder, experiment.seed, names, label, True, watch)
        if processes.leads():
            model.encoder.save(folder, load_tokenizer(tokenizer.path), settings.reading.passage_length)
        return {**cost, "negatives": model.negatives}

    recipe = {**_recipe(experiment, settings, round_name, distil), "judgements": texts.collection.qrels_hash}
    sources = [start, texts.documents, texts.queries, tokenizer]
    if negatives is not None:
        sources.append(negatives)
    label = f"finetune {entrant.name} seed {experiment.seed} ({round_name} negatives)"
    return work.store.ensure(
        "finetune", recipe, sources, make, detail=round_name, resumes=True, together=True, label=label
    )


class Prepared(NamedTuple):
    """The parts of a fine-tuning, before its first step."""

    model: Contrastive
    batch_maker: ContrastiveBatches
    batches: Batches


def prepare(
    work: Work,
    start: Path,
    examples: Examples,
    settings: Finetune,
    candidates: Candidates | None = None,
    distil: Distil | None = None,
) -> Prepared:
    """Return a fine-tuning of the model in `start` on these examples, in-batch negatives and `candidates`."""
    experiment = work.experiment
    torch.manual_seed(seeded(experiment.seed, 1))
    backbone, vocabulary = load_backbone(start, trains=True)
    encoder = Encoder(backbone, experiment.neural.representation, experiment.track.representation)
    batch_maker = ContrastiveBatches(
        examples,
        vocabulary,
        settings.reading,
        candidates=candidates,
        negatives=distil.negatives if distil else settings.negatives,
        lacking=settings.lacking,
        gradient_cache=settings.performance.gradient_cache,
    )
    # Batches are sorted by the positive's length, because passages waste more padding than queries.
    batches = Batches(batch_maker.lengths, settings.batch, settings.bucket, experiment.seed, settings.shards)
    model = Contrastive(encoder, settings.temperature, distil, settings.performance.gradient_cache)
    return Prepared(model, batch_maker, batches)


def _recipe(experiment: Experiment, settings: Finetune, round_name: RoundName, distil: Distil | None) -> dict[str, Any]:
    """Return everything that decides the weights of a round, beside its sources and judgements."""
    representations = replace(experiment.track.representation, stored="float32")  # stored only after fine-tuning
    teaching = None
    if distil is not None:
        teaching = {**asdict(distil), "teacher": "", "scores": ""}  # the sources hold their content
    return {
        "revision": REVISION,
        "round": round_name,
        "representation": experiment.neural.representation,
        **asdict(representations),
        **asdict(settings),
        "seed": experiment.seed,
        "processes": processes.size(),
        "distil": teaching,
    }
