"""Contrastive fine-tuning, the same for every entrant: in-batch negatives, hard ones, and in a last round a teacher."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import torch

from retrobench.config import Experiment, counted
from retrobench.core import processes
from retrobench.data import load
from retrobench.model import Encoder, load_backbone, load_tokenizer
from retrobench.objective import Vocabulary
from retrobench.stages.start import start
from retrobench.stages.tokenise import tokenise
from retrobench.store import Artifact, Store
from retrobench.training import (
    GROUP,
    Batches,
    Candidates,
    Contrastive,
    Examples,
    Round,
    compiles,
    discard,
    judged,
    resolve_precision,
    seeded,
    train,
)

__all__ = ["finetune", "load_encoder"]

REVISION = 2  # one more where the same settings come to give other weights


def finetune(
    x: Experiment,
    store: Store,
    pretrained: Artifact,
    kind: Literal["in-batch", "mined", "distilled"] = "in-batch",
    negatives: Artifact | None = None,
) -> Artifact:
    """The encoder of one round, fine-tuned from `pretrained` on the training queries or those that were mined for.

    `negatives` come from the stages `negatives`, `mine` or `teach`, beside those of the batch.
    """
    settings = x.track.finetune
    settings = replace(settings, precision=resolve_precision(settings.precision), compile=compiles(settings))
    distil = x.track.distil if kind == "distilled" else None
    beginning = start(x)
    documents = tokenise(store, beginning, settings.queries, "documents", settings.titles)
    sample = 0 if kind == "in-batch" else x.track.mine.queries
    queries = tokenise(store, beginning, settings.queries, "queries", sample=sample)

    def make(folder: Path) -> dict[str, float]:
        torch.manual_seed(seeded(x.seed, 1))
        backbone, vocabulary = load_backbone(pretrained.path, trains=True)
        encoder = Encoder(backbone, x.entrant.representation, x.track.representation)
        examples = Examples(queries.path, documents.path, settings.queries, settings.examples)
        candidates = Candidates.open(negatives.path) if negatives else None
        lengths, count = (settings.query_length, settings.passage_length), (distil or settings).negatives
        budget = settings.gradient_cache or GROUP
        round_ = Round(examples, vocabulary, *lengths, candidates, count, settings.lacking, budget)
        # Sorted by the positive's length; its padding is what a batch wastes.
        batches = Batches(round_.lengths, settings.batch, settings.bucket, x.seed)
        model = Contrastive(encoder, settings.temperature, distil, settings.gradient_cache > 0)
        label = f"finetune {x.entrant.name}"
        cost = train(model, batches, round_.collate, settings, folder, x.seed, round_.names, label)
        cost |= {"negatives": model.negatives}
        if processes.leads():
            encoder.save(folder, load_tokenizer(beginning.path), settings.passage_length)
            discard(folder)
        return cost

    trained = counted(replace(x.track.representation, stored="float32"))  # how vectors are stored comes afterwards
    recipe = {"revision": REVISION, "round": kind, "representation": x.entrant.representation, **trained}
    recipe |= {**counted(settings), "judgements": judged(load(settings.queries)), "seed": x.seed}
    recipe |= {"distil": {**asdict(distil), "teacher": "", "scores": ""}} if distil else {}  # a source says what
    recipe |= {"processes": processes.size()} if processes.size() > 1 else {}
    sources = [pretrained, documents, queries, *([negatives] if negatives else [])]
    label = f"finetune {x.entrant.name} seed {x.seed} ({kind} negatives)"
    return store.ensure("finetune", recipe, sources, make, resumes=True, together=True, label=label)


def load_encoder(x: Experiment, folder: Path) -> tuple[Encoder, Vocabulary]:
    """The fine-tuned encoder in `folder`, ready to embed."""
    backbone, vocabulary = load_backbone(folder)
    encoder = Encoder(backbone, x.entrant.representation, x.track.representation)
    encoder.restore(folder)
    return encoder.eval(), vocabulary
