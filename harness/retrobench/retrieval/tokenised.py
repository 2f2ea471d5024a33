"""Tokenised texts to vectors, by the encoder that was trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrobench.core import bar, gpu_memory, processes
from retrobench.data import TokenisedTexts, by_length
from retrobench.errors import RetrobenchError
from retrobench.model import Encoder, keep_largest
from retrobench.objective import Vocabulary
from retrobench.retrieval import embedding
from retrobench.retrieval.embedding import Embedded
from retrobench.retrieval.encoders import Kind
from retrobench.retrieval.vectors import Writer

__all__ = ["Texts", "write_vectors"]


def write_vectors(
    folder: Path,
    model: Encoder,
    vocabulary: Vocabulary,
    source: TokenisedTexts,
    kind: Kind,
    max_length: int,
    halved: bool,
    about: dict[str, Any],
    label: str,
) -> dict[str, float]:
    """Embed `source` into `folder`, `halved` in bfloat16, each process of a team a part of it."""
    place = embedding.place()
    model.to(place).eval()
    rows, stored = len(source), model.sizes.stored

    def embed(batch: tuple[Tensor, Tensor]) -> Embedded:
        found = model(*(tensor.to(place, non_blocking=True) for tensor in batch))
        if found.terms is None or kind == "query":
            return Embedded(found.dense, found.terms)
        largest = keep_largest(found.terms, model.sizes.terms)
        return Embedded(found.dense, largest.values, largest.indices.int())

    def load(first: int, last: int) -> Texts:
        return Texts.of(source, first, last, vocabulary, max_length)

    def refuse(row: int, count: int) -> RetrobenchError:
        return RetrobenchError(
            f"The {kind} vector of row {row:,} and {count - 1:,} near it are not finite: the encoder's weights are "
            "unusable. Lower the learning rate, or start from another checkpoint."
        )

    with (
        Writer(folder, rows, model.width, model.words, stored, embedding.WINDOW, about) as writer,
        bar(label, rows, "texts", writer.done) as advance,
        model.reading(halved),
    ):
        embedding.fill(writer, load, embed, refuse, advance, place, halved)
        if processes.leads():
            names = source.folder / "ids.json"
            writer.publish(names if names.exists() else source.ids)
    return {"texts": float(rows), "tokens": _tokens(source, max_length), **gpu_memory()}


def _tokens(source: TokenisedTexts, max_length: int) -> float:
    """Of all texts as the encoder reads them."""
    parts = range(0, len(source), embedding.WINDOW)
    windows = (np.diff(source.offsets[first : first + embedding.WINDOW + 1]) for first in parts)
    return float(sum(int(np.minimum(window + 2, max_length).sum()) for window in windows))


@dataclass(frozen=True)
class Texts:
    """The tokenised texts of a window: their tokens one behind the other, and where each begins."""

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray  # with [CLS] and [SEP], and cut
    vocabulary: Vocabulary
    parallel = True

    @classmethod
    def of(cls, source: TokenisedTexts, first: int, last: int, vocabulary: Vocabulary, max_length: int) -> Texts:
        offsets = np.array(source.offsets[first : last + 1])
        lengths = np.minimum(np.diff(offsets) + 2, max_length)
        # A copy: pages of a mapped file would stay with the process.
        return cls(np.array(source.tokens[offsets[0] : offsets[-1]]), offsets[:-1] - offsets[0], lengths, vocabulary)

    def batches(self, tokens: int) -> Iterator[np.ndarray]:
        """Rows by length."""
        return by_length(self.lengths, tokens)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """[CLS] title text [SEP] of each, right-padded: ids and mask [B, L] int64, as `masking.pack` makes them."""
        lengths = self.lengths[rows][:, None]
        columns = np.arange(int(lengths.max()))  # [L]
        inside = (columns > 0) & (columns < lengths - 1)
        ids = np.full(inside.shape, self.vocabulary.pad, np.int64)
        ids[inside] = self.tokens[(self.starts[rows][:, None] + columns - 1)[inside]]
        ids[:, 0] = self.vocabulary.cls
        ids[columns == lengths - 1] = self.vocabulary.sep
        return torch.from_numpy(ids), torch.from_numpy((columns < lengths).astype(np.int64))
