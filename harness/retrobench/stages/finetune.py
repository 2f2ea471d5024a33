"""Contrastive fine-tuning, the same for every entrant: in-batch negatives, hard ones, and in a last round a teacher."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrobench import checkpoints
from retrobench.data import load
from retrobench.experiment import Distil, Experiment, counted
from retrobench.objective import Step, Vocabulary
from retrobench.representation import Encoder
from retrobench.stages.examples import Candidates, Examples, Round, judged
from retrobench.stages.start import load_backbone, load_tokenizer, start
from retrobench.stages.tokenise import tokenise
from retrobench.store import Artifact, Store
from retrobench.training import Batches, resolve_precision, seeded, train

__all__ = ["Contrastive", "distillation", "finetune", "load_encoder"]


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
    settings = replace(x.track.finetune, precision=resolve_precision(x.track.finetune.precision))
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
        round_ = Round(examples, vocabulary, *lengths, candidates, count, settings.lacking)
        # Sorted by the positive's length; its padding is what a batch wastes.
        batches = Batches(round_.lengths, settings.batch, settings.bucket, x.seed)
        model = Contrastive(encoder, settings.temperature, distil)
        label = f"finetune {x.entrant.name}"
        cost = train(model, batches, round_.collate, settings, folder, x.seed, round_.names, label)
        encoder.save(folder, load_tokenizer(beginning.path), settings.passage_length)
        checkpoints.discard(folder)
        return cost

    recipe = {"round": kind, "representation": x.entrant.representation, **asdict(x.track.representation)}
    recipe |= {**counted(settings), "judgements": judged(load(settings.queries)), "seed": x.seed}
    recipe |= {"distil": {**asdict(distil), "teacher": "", "scores": ""}} if distil else {}  # a source says what
    sources = [pretrained, documents, queries, *([negatives] if negatives else [])]
    label = f"finetune {x.entrant.name} seed {x.seed} ({kind} negatives)"
    return store.ensure("finetune", recipe, sources, make, resumes=True, label=label)


def load_encoder(x: Experiment, folder: Path) -> tuple[Encoder, Vocabulary]:
    """The fine-tuned encoder in `folder`, ready to embed."""
    backbone, vocabulary = load_backbone(folder)
    encoder = Encoder(backbone, x.entrant.representation, x.track.representation)
    encoder.restore(folder)
    return encoder.eval(), vocabulary


class Contrastive(nn.Module):
    """InfoNCE: a query's own positive against every rival passage of the batch; with `distil` a teacher's loss too."""

    def __init__(self, encoder: Encoder, temperature: float, distil: Distil | None = None) -> None:
        super().__init__()
        self.encoder, self.temperature, self.distil = encoder, temperature, distil

    def forward(
        self,
        progress: float,
        query_ids: Tensor,
        query_attention_mask: Tensor,
        passage_ids: Tensor,
        passage_attention_mask: Tensor,
        rival: Tensor,
        group: Tensor | None = None,
        teacher: Tensor | None = None,
    ) -> Step:
        queries = self.encoder(query_ids, query_attention_mask)
        passages = self.encoder(passage_ids, passage_attention_mask)
        similarity = self.encoder.similarity(queries, passages)  # [B, P]
        scores = (similarity / self.temperature).masked_fill(~rival, float("-inf"))
        own = torch.arange(len(scores), device=scores.device)
        hit = (scores.argmax(1) == own).float().mean()
        contrastive = F.cross_entropy(scores, own)
        if self.distil is None or group is None or teacher is None:
            return Step({"contrastive": contrastive}, {"accuracy": hit})
        learnt = distillation(similarity.gather(1, group), teacher, self.distil)
        return Step({"distillation": learnt, "contrastive": self.distil.contrastive * contrastive}, {"accuracy": hit})


def distillation(student: Tensor, teacher: Tensor, settings: Distil) -> Tensor:
    """KL(softmax(teacher) || softmax(student / temperature)) of scores [B, N].

    "element-mean" divides by B x N as RetroMAE's released code does, "batch-mean" by B.
    """
    total = F.kl_div(F.log_softmax(student / settings.temperature, 1), F.softmax(teacher, 1), reduction="sum")
    return total / (teacher.numel() if settings.loss == "element-mean" else len(teacher))
