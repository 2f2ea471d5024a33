"""The loss of contrastive fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from retrobench.config import Distil
from retrobench.core import processes
from retrobench.model import Embeddings, Encoder
from retrobench.objective import Step
from retrobench.training.examples import ContrastiveBatch, TextGroups
from retrobench.training.gathering import gathered

__all__ = ["Contrastive", "distillation"]


class Contrastive(nn.Module):
    """InfoNCE: each query's own positive competes with every rival passage of the batch, in all processes.

    With `distil` a teacher's loss is added. With a `gradient_cache` the backward pass embeds each group again, so that
    memory grows with the group, not the batch, for 4/3 of the computation (Gao et al. 2021, arXiv:2101.06983). The
    cache changes neither losses nor gradients.
    """

    rivals: Tensor

    def __init__(
        self, encoder: Encoder, temperature: float, distil: Distil | None = None, gradient_cache: int = 0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.temperature = temperature
        self.distil = distil
        self.gradient_cache = gradient_cache
        # Totals of queries and of their negatives. As a buffer they are part of a checkpoint.
        self.register_buffer("rivals", torch.zeros(2, dtype=torch.float64))

    @property
    def negatives(self) -> float:
        """The mean number of negatives per query, over the training so far."""
        queries, negatives = self.rivals.tolist()
        return float(negatives / max(queries, 1))

    def forward(self, progress: float, batch: ContrastiveBatch) -> Step:
        """Return the losses of a batch."""
        documents, answers = batch.documents, batch.answers
        queries = self._embed(batch.queries)
        passages = self._passages_of_all(batch)
        first = processes.rank() * len(documents)  # the column of this process's first passage
        own = first + torch.arange(len(answers), device=answers.device)
        rivals = _rivals(gathered(documents), answers, own)
        similarity = self.encoder.similarity(queries, passages)  # [B, P of all processes]
        scores = (similarity / self.temperature).masked_fill(~rivals, float("-inf"))
        counts = rivals.sum(1)
        if self.training:
            self.rivals[0] += len(counts)
            self.rivals[1] += counts.sum() - len(counts)
        contrastive = F.cross_entropy(scores, own)
        metrics = {
            "accuracy": (scores.argmax(1) == own).float().mean(),
            "negatives": counts.float().mean() - 1,
        }
        if self.distil is None or batch.group is None or batch.teacher is None:
            return Step({"contrastive": contrastive}, metrics)
        student = similarity.gather(1, first + batch.group)
        losses = {
            "distillation": distillation(student, batch.teacher, self.distil),
            "contrastive": self.distil.contrastive * contrastive,
        }
        return Step(losses, metrics)

    def _passages_of_all(self, batch: ContrastiveBatch) -> Embeddings:
        """Return the passages' embeddings, of every process; each process pads its own with zeros to one size."""
        own = self._embed(batch.passages)
        size = len(batch.documents)
        return Embeddings(_gather_padded(own.dense, size), _gather_padded(own.terms, size))

    def _embed(self, texts: TextGroups) -> Embeddings:
        groups = [self._embed_group(*group) for group in texts.groups]
        dense = _in_order([group.dense for group in groups], texts.order)
        terms = _in_order([group.terms for group in groups], texts.order)
        return Embeddings(dense, terms)

    def _embed_group(self, input_ids: Tensor, attention_mask: Tensor) -> Embeddings:
        embeddings: Embeddings
        if self.gradient_cache:
            embeddings = checkpoint(self.encoder, input_ids, attention_mask, use_reentrant=False)
        else:
            embeddings = self.encoder(input_ids, attention_mask)
        return embeddings


def _in_order(groups: Sequence[Tensor | None], order: Tensor) -> Tensor | None:
    """Return the rows of all groups in the order of the texts; None where the encoder has no such rows."""
    rows = [group for group in groups if group is not None]
    if not rows:
        return None
    return torch.cat(rows)[order]


def _gather_padded(rows: Tensor | None, size: int) -> Tensor | None:
    """Return rows [n, ...] of all processes, [world size * size, ...], after padding each process's with zeros."""
    if rows is None:
        return None
    if len(rows) < size:
        rows = F.pad(rows, (0, 0, 0, size - len(rows)))
    return gathered(rows)


def _rivals(documents: Tensor, answers: Tensor, own: Tensor) -> Tensor:
    """Return which passages [P] compete for each query, [B, P]: column `own` [B], and all that do not answer it."""
    rivals = (documents >= 0).repeat(len(answers), 1)
    for answer in answers.unbind(1):
        rivals &= documents != answer[:, None]
    return rivals.scatter(1, own[:, None], True)


def distillation(student: Tensor, teacher: Tensor, settings: Distil) -> Tensor:
    """Return KL(softmax(teacher) || softmax(student / temperature)) of scores [B, N].

    "element-mean" divides the sum by B x N, as RetroMAE's released code does, and "batch-mean" divides it by B.
    """
    student_log_probabilities = F.log_softmax(student / settings.temperature, 1)
    teacher_probabilities = F.softmax(teacher, 1)
    total = F.kl_div(student_log_probabilities, teacher_probabilities, reduction="sum")
    if settings.loss == "element-mean":
        return total / teacher.numel()
    return total / len(teacher)
