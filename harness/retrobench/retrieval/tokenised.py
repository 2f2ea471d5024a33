"""Tokenised texts to vectors, by the encoder that was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrobench.config import Attention, ResolvedPrecision
from retrobench.core import gpu_memory, processes
from retrobench.data import TokenisedTexts, by_length
from retrobench.errors import RetrobenchError
from retrobench.model import Encoder, keep_largest
from retrobench.objective import Vocabulary
from retrobench.retrieval import embedding
from retrobench.retrieval.embedding import Embedded, Embedder
from retrobench.retrieval.encoders import Kind
from retrobench.retrieval.vectors import Writer

__all__ = ["Texts", "write_vectors"]


def write_vectors(
    folder: Path,
    model: Encoder,
    vocabulary: Vocabulary,
    source: TokenisedTexts,
    *,
    kind: Kind,
    max_length: int,
    precision: ResolvedPrecision = "fp32",
    attention: Attention = "auto",
    facts: Mapping[str, Any] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, float]:
    """Embed `source` and write its vectors to `folder`, the windows shared by all ranks. Return the cost.

    The model computes matrix products in `precision`, and attention on a GPU by the kernel `attention`. `facts` go into
    the manifest. `advance(n)` is called with the number of finished texts, those of an earlier attempt among them.
    """
    device = embedding.choose_device()
    model.to(device).eval()
    rows = len(source)

    def load(first: int, last: int) -> Texts:
        return Texts.of(source, first, last, vocabulary, max_length)

    def embed(batch: tuple[Tensor, Tensor]) -> Embedded:
        ids, mask = batch
        vectors = model(embedding.send(ids, device), embedding.send(mask, device))
        if vectors.terms is None or kind == "query":
            return Embedded(vectors.dense, vectors.terms)
        largest = keep_largest(vectors.terms, model.sizes.terms)
        return Embedded(vectors.dense, largest.values, largest.indices.int())

    def refuse(row: int, count: int) -> RetrobenchError:
        return RetrobenchError(
            f"The {kind} vector of row {row:,} and {count - 1:,} near it are not finite: the encoder's weights are "
            "unusable. Lower the learning rate, or start from another checkpoint."
        )

    with (
        Writer(folder, rows, model.width, model.words, model.sizes.stored, embedding.WINDOW, facts) as writer,
        embedding.attention_kernels(device, attention),
        model.reading(precision),
    ):
        advance(writer.done)
        embedding.fill(writer, Embedder(load, embed, refuse, device, precision), advance)
        if processes.leads():
            ids_file = source.folder / "ids.json"
            if ids_file.exists():
                writer.publish(ids_file)
            else:
                writer.publish(source.ids)
    return {"texts": float(rows), "tokens": _tokens(source, max_length), **gpu_memory()}


def _tokens(source: TokenisedTexts, max_length: int) -> float:
    """Return the number of tokens of all texts as the encoder reads them."""
    tokens = 0
    for first in range(0, len(source), embedding.WINDOW):
        offsets = source.offsets[first : first + embedding.WINDOW + 1]
        lengths = _read_lengths(offsets, max_length)
        tokens += int(lengths.sum())
    return float(tokens)


def _read_lengths(offsets: np.ndarray, max_length: int) -> np.ndarray:
    """Return the lengths [n] of texts with [CLS] and [SEP], cut to `max_length`, from their offsets [n + 1]."""
    lengths: np.ndarray = np.minimum(np.diff(offsets) + 2, max_length)
    return lengths


@dataclass(frozen=True)
class Texts:
    """The tokenised texts of a window: their tokens one after the other, and the start and length of each text."""

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray  # with [CLS] and [SEP], and cut
    vocabulary: Vocabulary
    parallel = True

    @classmethod
    def of(cls, source: TokenisedTexts, first: int, last: int, vocabulary: Vocabulary, max_length: int) -> Texts:
        """Copy the texts `first` to `last`: pages of a mapped file would stay in this process's memory."""
        offsets = np.array(source.offsets[first : last + 1])
        begin, end = offsets[0], offsets[-1]
        tokens = np.array(source.tokens[begin:end])
        starts = offsets[:-1] - begin
        lengths = _read_lengths(offsets, max_length)
        return cls(tokens, starts, lengths, vocabulary)

    def batches(self, tokens: int) -> Iterator[np.ndarray]:
        """Yield the rows of each batch, by length, of at most `tokens` tokens."""
        return by_length(self.lengths, tokens)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return ids and mask [B, L] int64 of these rows, right-padded: [CLS] title text [SEP], as `masking.pack`."""
        lengths = self.lengths[rows][:, None]
        starts = self.starts[rows][:, None]
        last_columns = lengths - 1  # of [SEP]
        columns = np.arange(int(lengths.max()))  # [L]
        inside = (columns > 0) & (columns < last_columns)
        positions = starts + columns - 1  # of each column's token; column 0 is [CLS]
        ids = np.full(inside.shape, self.vocabulary.pad, np.int64)
        ids[inside] = self.tokens[positions[inside]]
        ids[:, 0] = self.vocabulary.cls
        ids[columns == last_columns] = self.vocabulary.sep
        mask = (columns < lengths).astype(np.int64)
        return torch.from_numpy(ids), torch.from_numpy(mask)
