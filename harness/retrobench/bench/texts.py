"""Texts and vectors of every benchmark: seeded, made up, with the lengths of real passages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrobench.data import TokenChunk, write_chunks
from retrobench.objective import Passage, Vocabulary

__all__ = ["VOCABULARY", "lengths", "passages", "token_counts", "unit", "write_untitled"]

# bert-base-uncased's layout: 999 special and unused ids come first.
VOCABULARY = Vocabulary(30522, 0, 101, 102, 103, frozenset(range(999)))
PIECES = 0.2  # share of tokens that go on a word


def lengths(count: int, longest: int, seed: int = 0, mean: float = 77.0) -> np.ndarray:
    """Draw lengths in tokens, [CLS] and [SEP] among them, at most `longest`.

    They are lognormal, as those of MS MARCO's passages are.
    """
    random = np.random.default_rng([seed, longest])
    sigma = 0.4
    drawn = random.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return np.clip(np.rint(drawn), 8, longest).astype(np.int64)


def passages(tokens: Sequence[int] | np.ndarray, seed: int = 0) -> list[Passage]:
    """Draw a passage of each length, special tokens left out. Words repeat often, as in real text."""
    random = np.random.default_rng([seed, len(tokens)])
    empty = np.zeros(0, np.uint16), np.zeros(0, np.bool_)
    drawn = []
    for count in np.asarray(tokens) - 2:
        ranks = np.minimum(random.zipf(1.3, count), 29_000) - 1
        starts = random.random(count) >= PIECES
        starts[:1] = True
        drawn.append(Passage(*empty, (ranks + 1000).astype(np.uint16), starts))
    return drawn


def token_counts(texts: Sequence[Passage]) -> np.ndarray:
    """Return the tokens of each untitled text, [CLS] and [SEP] among them."""
    return np.array([len(text.text) + 2 for text in texts])


def write_untitled(folder: Path, tokens: np.ndarray, lengths: np.ndarray) -> None:
    """Write texts without titles as the stage `tokenise` does: `lengths` [N] tokens each, one behind the other."""
    folder.mkdir()
    ids = [str(row) for row in range(len(lengths))]
    pairs = np.stack([np.zeros_like(lengths), lengths], 1)
    write_chunks(folder, [TokenChunk(ids, pairs, tokens, np.ones(len(tokens), np.bool_))], np.uint16)


def unit(rows: int, width: int, seed: int) -> np.ndarray:
    """Draw vectors of length 1, float32."""
    vectors = np.random.default_rng(seed).standard_normal((rows, width), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
