"""Batches of fine-tuning in a form for tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from retrobench.model.encoder import Embeddings
from retrobench.training.batches import Shard
from retrobench.training.contrastive import _rivals
from retrobench.training.examples import ContrastiveBatch, TextGroup, TextGroups


def texts_of(texts: TextGroups) -> list[tuple[int, ...]]:
    """Return the texts in their order, as token ids without padding."""
    rows = []
    for ids, masks in texts.groups:
        for row, mask in zip(ids, masks, strict=True):
            tokens = row[mask.bool()]
            rows.append(tuple(tokens.tolist()))
    return [rows[row] for row in texts.order.tolist()]


def rivals_of(batch: ContrastiveBatch) -> Tensor:
    """Return a mask of the passages that compete for each query, [B, P]."""
    return _rivals(batch.documents, batch.answers, torch.arange(len(batch.answers)))


def shard_of(batch: ContrastiveBatch) -> Shard:
    """Return a batch as its only shard; dropout is drawn from a fixed seed."""
    return Shard(np.arange(len(batch.answers)), 7, batch, tokens=0.0)


class Fixed(torch.nn.Module):
    """Encode texts as vectors that equal their ids."""

    def forward(self, ids: Tensor, mask: Tensor) -> Embeddings:
        return Embeddings(ids.float(), None)

    def similarity(self, queries: Embeddings, passages: Embeddings) -> Tensor:
        assert queries.dense is not None and passages.dense is not None
        return queries.dense @ passages.dense.T


def fixed(queries: Tensor, passages: Tensor, answers: list[list[int]], **teacher: Tensor) -> ContrastiveBatch:
    """Return a batch for `Fixed` from vectors [B, d] and [P, d] and the passages that answer each query."""
    documents = torch.arange(len(passages))
    return ContrastiveBatch(_group(queries), _group(passages), documents, torch.tensor(answers), **teacher)


def _group(vectors: Tensor) -> TextGroups:
    group = TextGroup(vectors, torch.ones_like(vectors))
    return TextGroups((group,), torch.arange(len(vectors)))
