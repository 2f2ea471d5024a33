"""Texts and vectors of every benchmark: seeded, made up, with the lengths of real passages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrobench.data import TokenChunk, write_chunks
from retrobench.objective import Passage, Vocabulary

__all__ = ["VOCABULARY", "count_tokens", "draw_lengths", "draw_passages", "unit", "write_untitled"]

# bert-base-uncased's layout: 999 special and unused ids come first.
FIRST_WORD = 999
VOCABULARY = Vocabulary(30522, 0, 101, 102, 103, frozenset(range(FIRST_WORD)))
PIECES = 0.2  # share of tokens that continue a word
WORDS = 29_000  # distinct ids that texts are drawn from


def draw_lengths(count: int, longest: int, seed: int = 0, mean: float = 77.0) -> np.ndarray:
    """Draw lengths in tokens, [CLS] and [SEP] among them, at most `longest`.

    They are lognormal, like the lengths of MS MARCO's passages.
    """
    random = np.random.default_rng([seed, longest])
    sigma = 0.4
    mu = np.log(mean) - sigma**2 / 2
    lengths = random.lognormal(mu, sigma, count)
    clipped = np.clip(np.rint(lengths), 8, longest)
    return clipped.astype(np.int64)


def draw_passages(tokens: Sequence[int] | np.ndarray, seed: int = 0) -> list[Passage]:
    """Draw a passage of each length in tokens, [CLS] and [SEP] among them. Words repeat often, as in real text."""
    random = np.random.default_rng([seed, len(tokens)])
    no_title = np.zeros(0, np.uint16)
    no_starts = np.zeros(0, np.bool_)
    passages = []
    for count in np.asarray(tokens) - 2:
        ranks = np.minimum(random.zipf(1.3, count), WORDS) - 1
        starts = random.random(count) >= PIECES
        starts[:1] = True
        ids = (ranks + 1000).astype(np.uint16)
        passages.append(Passage(no_title, no_starts, ids, starts))
    return passages


def count_tokens(texts: Sequence[Passage]) -> np.ndarray:
    """Return the tokens of each untitled text, [CLS] and [SEP] among them."""
    return np.array([len(text.text) + 2 for text in texts])


def write_untitled(folder: Path, tokens: np.ndarray, lengths: np.ndarray) -> None:
    """Write texts without titles as the stage `tokenise` does: `lengths` [N] tokens each, end to end."""
    folder.mkdir()
    ids = list(map(str, range(len(lengths))))
    title_lengths = np.zeros_like(lengths)
    lengths_by_field = np.stack([title_lengths, lengths], 1)  # [N, 2]
    starts = np.ones(len(tokens), np.bool_)
    chunk = TokenChunk(ids, lengths_by_field, tokens, starts)
    write_chunks(folder, [chunk], np.uint16)


def unit(rows: int, width: int, seed: int) -> np.ndarray:
    """Draw vectors of length 1, float32."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((rows, width), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
