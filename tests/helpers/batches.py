"""Batches of fine-tuning as a test reads and writes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retrobench.model.encoder import Vectors
from retrobench.training.contrastive import _rivals


def texts_of(batch: dict[str, Tensor], side: str = "passage") -> list[tuple[int, ...]]:
    """The texts of a batch in their order, as token ids without padding."""
    groups = sum(name.startswith(side) and name.endswith("_ids") for name in batch)
    found = []
    for number in range(groups):
        ids, masks = (batch[f"{side}_{number}_{part}"] for part in ("ids", "attention_mask"))
        found += [tuple(row[mask.bool()].tolist()) for row, mask in zip(ids, masks, strict=True)]
    return [found[place] for place in batch[f"{side}_place"].tolist()]


def rivals_of(batch: dict[str, Tensor]) -> Tensor:
    """Which passages [P] compete for each query, [B, P]."""
    return _rivals(batch["documents"], batch["answers"], torch.arange(len(batch["answers"])))


class Fixed(torch.nn.Module):
    """An encoder whose vectors are the ids themselves."""

    def forward(self, ids: Tensor, mask: Tensor) -> Vectors:
        return Vectors(ids.float(), None)

    def similarity(self, queries: Vectors, passages: Vectors) -> Tensor:
        assert queries.dense is not None and passages.dense is not None
        return queries.dense @ passages.dense.T


def fixed(queries: Tensor, passages: Tensor, answers: list[list[int]]) -> dict[str, Any]:
    """A batch for `Fixed`: vectors [B, d] and [P, d], and which passages answer each query."""
    batch: dict[str, Any] = {"documents": torch.arange(len(passages)), "answers": torch.tensor(answers)}
    for side, vectors in (("query", queries), ("passage", passages)):
        batch |= {f"{side}_0_ids": vectors, f"{side}_0_attention_mask": torch.ones_like(vectors)}
        batch[f"{side}_place"] = torch.arange(len(vectors))
    return batch
