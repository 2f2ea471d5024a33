"""Batches of fine-tuning as a test reads and writes them."""

from __future__ import annotations

import torch
from torch import Tensor

from retrobench.model.encoder import Embeddings
from retrobench.training.contrastive import _rivals
from retrobench.training.examples import ContrastiveBatch, TextGroup, TextGroups


def texts_of(texts: TextGroups) -> list[tuple[int, ...]]:
    """The texts in their order, as token ids without padding."""
    rows = []
    for ids, masks in texts.groups:
        rows += [tuple(row[mask.bool()].tolist()) for row, mask in zip(ids, masks, strict=True)]
    return [rows[row] for row in texts.order.tolist()]


def rivals_of(batch: ContrastiveBatch) -> Tensor:
    """The passages [P] that compete for each query, [B, P]."""
    return _rivals(batch.documents, batch.answers, torch.arange(len(batch.answers)))


class Fixed(torch.nn.Module):
    """An encoder whose vectors are the ids themselves."""

    def forward(self, ids: Tensor, mask: Tensor) -> Embeddings:
        return Embeddings(ids.float(), None)

    def similarity(self, queries: Embeddings, passages: Embeddings) -> Tensor:
        assert queries.dense is not None and passages.dense is not None
        return queries.dense @ passages.dense.T


def fixed(queries: Tensor, passages: Tensor, answers: list[list[int]], **teacher: Tensor) -> ContrastiveBatch:
    """A batch for `Fixed`: vectors [B, d] and [P, d], and the passages that answer each query."""
    documents = torch.arange(len(passages))
    return ContrastiveBatch(_groups(queries), _groups(passages), documents, torch.tensor(answers), **teacher)


def _groups(vectors: Tensor) -> TextGroups:
    return TextGroups((TextGroup(vectors, torch.ones_like(vectors)),), torch.arange(len(vectors)))
