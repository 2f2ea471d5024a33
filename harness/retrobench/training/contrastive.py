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
from retrobench.training.batches import Shard
from retrobench.training.examples import ContrastiveBatch, TextGroups
from retrobench.training.gathering import gathered

__all__ = ["Contrastive", "distillation"]


class Contrastive(nn.Module):
    """InfoNCE: each query's own positive competes with every rival passage of the batch, in all shards and processes.

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

    def forward(self, progress: float, shards: Sequence[Shard]) -> Step:
        """Return the losses of this process's shards of a batch; each shard holds a `ContrastiveBatch`."""
        batches: list[ContrastiveBatch] = [shard.batch for shard in shards]
        queries, passages = self._embed_shards(shards)
        documents = torch.cat([batch.documents for batch in batches])
        answers = _padded_together([batch.answers for batch in batches])
        columns = self._first_columns(batches)
        own = torch.cat([first + _positions(batch.answers) for first, batch in zip(columns, batches, strict=True)])
        rivals = _rivals(gathered(documents), answers, own)
        similarity = self.encoder.similarity(queries, passages)  # [B, P of all processes]
        scores = (similarity / self.temperature).masked_fill(~rivals, float("-inf"))
        counts = rivals.sum(1)
        if self.training:
            self._count(gathered(counts))
        contrastive = F.cross_entropy(scores, own)
        metrics = {
            "accuracy": (scores.argmax(1) == own).float().mean(),
            "negatives": counts.float().mean() - 1,
        }
        if self.distil is None or batches[0].teacher is None:
            return Step({"contrastive": contrastive}, metrics)
        groups, teachers = [], []
        for first, batch in zip(columns, batches, strict=True):
            assert batch.group is not None and batch.teacher is not None
            groups.append(first + batch.group)
            teachers.append(batch.teacher)
        student = similarity.gather(1, torch.cat(groups))
        losses = {
            "distillation": distillation(student, torch.cat(teachers), self.distil),
            "contrastive": self.distil.contrastive * contrastive,
        }
        return Step(losses, metrics)

    def _embed_shards(self, shards: Sequence[Shard]) -> tuple[Embeddings, Embeddings]:
        """Return the queries of this process's shards, and the passages of all processes' shards.

        Every shard draws its dropout from its own seed. Each pads its passages with zeros to the size of all shards.
        """
        queries, passages = [], []
        for shard in shards:
            torch.manual_seed(shard.seed)
            batch: ContrastiveBatch = shard.batch
            queries.append(self._embed(batch.queries))
            embeddings = self._embed(batch.passages)
            size = len(batch.documents)
            passages.append(Embeddings(_pad(embeddings.dense, size), _pad(embeddings.terms, size)))
        own = _concatenate(passages)
        return _concatenate(queries), Embeddings(_gathered(own.dense), _gathered(own.terms))

    def _first_columns(self, batches: Sequence[ContrastiveBatch]) -> list[int]:
        """Return the column of each shard's first passage among the passages of all processes."""
        size = len(batches[0].documents)
        first = processes.rank() * len(batches)
        return [(first + index) * size for index in range(len(batches))]

    def _count(self, counts: Tensor) -> None:
        """Add queries and negatives, given each query's number of rivals, its positive included."""
        self.rivals[0] += len(counts)
        self.rivals[1] += counts.sum() - len(counts)

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


def _concatenate(embeddings: Sequence[Embeddings]) -> Embeddings:
    """Return the rows of all embeddings; None where the encoder has no such rows."""
    dense = [rows.dense for rows in embeddings if rows.dense is not None]
    terms = [rows.terms for rows in embeddings if rows.terms is not None]
    return Embeddings(torch.cat(dense) if dense else None, torch.cat(terms) if terms else None)


def _pad(rows: Tensor | None, size: int) -> Tensor | None:
    """Return rows [n, ...] with zeros behind them, [size, ...]."""
    if rows is None or len(rows) == size:
        return rows
    return F.pad(rows, (0, 0, 0, size - len(rows)))


def _gathered(rows: Tensor | None) -> Tensor | None:
    return None if rows is None else gathered(rows)


def _padded_together(tables: Sequence[Tensor]) -> Tensor:
    """Return tables [B, A] of document rows as one table; the narrower are padded with -1."""
    width = max(table.shape[1] for table in tables)
    return torch.cat([F.pad(table, (0, width - table.shape[1]), value=-1) for table in tables])


def _positions(answers: Tensor) -> Tensor:
    return torch.arange(len(answers), device=answers.device)


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
