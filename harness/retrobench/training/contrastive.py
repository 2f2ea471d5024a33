"""The loss of contrastive fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from retrobench.config import Distil
from retrobench.core import processes
from retrobench.model import Encoder, Vectors
from retrobench.objective import Step
from retrobench.training.examples import ContrastiveBatch, TextGroups
from retrobench.training.gathering import gathered

__all__ = ["Contrastive", "distillation"]


class Contrastive(nn.Module):
    """InfoNCE: a query's own positive against every rival passage of the batch, those of other processes too; with
    `distil` a teacher's loss as well.

    With a `gradient_cache` the backward pass embeds each group again, so that memory grows with the group and not with
    the batch, at 4/3 of the computing (Gao et al. 2021, arXiv:2101.06983). Losses and gradients are the same.
    """

    rivals: Tensor

    def __init__(
        self, encoder: Encoder, temperature: float, distil: Distil | None = None, gradient_cache: int = 0
    ) -> None:
        super().__init__()
        self.encoder, self.temperature, self.distil = encoder, temperature, distil
        self.gradient_cache = gradient_cache
        # Queries so far and all their negatives. A buffer, so that a training that is taken up again goes on counting.
        self.register_buffer("rivals", torch.zeros(2, dtype=torch.float64))

    @property
    def negatives(self) -> float:
        """How many passages a query was held against beside its own, on average."""
        queries, rivals = self.rivals.tolist()
        return float(rivals / max(queries, 1))

    def forward(self, progress: float, batch: ContrastiveBatch) -> Step:
        """Return the losses of a batch."""
        documents, answers = batch.documents, batch.answers
        queries = self._embed(batch.queries)
        passages = Vectors(*(_filled(rows, len(documents)) for rows in self._embed(batch.passages)))
        everywhere = Vectors(*(None if rows is None else gathered(rows) for rows in passages))
        first = processes.rank() * len(documents)
        own = first + torch.arange(len(answers), device=answers.device)
        rival = _rivals(gathered(documents), answers, own)
        similarity = self.encoder.similarity(queries, everywhere)  # [B, P of all processes]
        scores = (similarity / self.temperature).masked_fill(~rival, float("-inf"))
        counts = rival.sum(1)
        if self.training:
            self.rivals[0] += len(counts)
            self.rivals[1] += counts.sum() - len(counts)
        contrastive = F.cross_entropy(scores, own)
        metrics = {"accuracy": (scores.argmax(1) == own).float().mean(), "negatives": counts.float().mean() - 1}
        if self.distil is None or batch.group is None or batch.teacher is None:
            return Step({"contrastive": contrastive}, metrics)
        loss = distillation(similarity.gather(1, first + batch.group), batch.teacher, self.distil)
        return Step({"distillation": loss, "contrastive": self.distil.contrastive * contrastive}, metrics)

    def _embed(self, texts: TextGroups) -> Vectors:
        groups = [self._embed_group(*group) for group in texts.groups]
        dense, terms = zip(*groups, strict=True)
        return Vectors(_joined(dense, texts.order), _joined(terms, texts.order))

    def _embed_group(self, input_ids: Tensor, attention_mask: Tensor) -> Vectors:
        if not self.gradient_cache:
            vectors: Vectors = self.encoder(input_ids, attention_mask)
            return vectors
        recomputed: Vectors = checkpoint(self.encoder, input_ids, attention_mask, use_reentrant=False)
        return recomputed


def _joined(groups: Sequence[Tensor | None], order: Tensor) -> Tensor | None:
    """Return the rows of all groups in the order of the texts; None where the encoder gives no such part."""
    rows = [group for group in groups if group is not None]
    return torch.cat(rows)[order] if rows else None


def _filled(rows: Tensor | None, count: int) -> Tensor | None:
    """Rows [n, ...] with zeros behind them, `count` in all: processes gather equally many."""
    return rows if rows is None or len(rows) == count else F.pad(rows, (0, 0, 0, count - len(rows)))


def _rivals(documents: Tensor, answers: Tensor, own: Tensor) -> Tensor:
    """Which passages [P] compete for each query, [B, P]: its `own` [B], and all that do not answer it too."""
    rival = (documents >= 0).repeat(len(answers), 1)
    for answer in answers.unbind(1):
        rival &= documents != answer[:, None]
    return rival.scatter(1, own[:, None], True)


def distillation(student: Tensor, teacher: Tensor, settings: Distil) -> Tensor:
    """KL(softmax(teacher) || softmax(student / temperature)) of scores [B, N].

    "element-mean" divides by B x N as RetroMAE's released code does, "batch-mean" by B.
    """
    total = F.kl_div(F.log_softmax(student / settings.temperature, 1), F.softmax(teacher, 1), reduction="sum")
    return total / (teacher.numel() if settings.loss == "element-mean" else len(teacher))
