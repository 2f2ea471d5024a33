"""Seeded passages of made-up words, with the lengths of real ones, and vectors, for every benchmark alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrobench.objective import Passage, Vocabulary

__all__ = ["VOCABULARY", "lengths", "passages", "unit", "write_tokens"]

# bert-base-uncased's layout: 999 special and unused ids come first.
VOCABULARY = Vocabulary(30522, 0, 101, 102, 103, frozenset(range(999)))
PIECES = 0.2  # share of tokens that go on a word


def lengths(count: int, longest: int, seed: int = 0, mean: float = 77.0) -> np.ndarray:
    """Tokens of texts, [CLS] and [SEP] among them: lognormal as passages of MS MARCO are, at most `longest`."""
    random = np.random.default_rng([seed, longest])
    sigma = 0.4
    drawn = random.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return np.clip(np.rint(drawn), 8, longest).astype(np.int64)


def passages(tokens: Sequence[int] | np.ndarray, seed: int = 0) -> list[Passage]:
    """A passage for each length, without its special tokens; words are often repeated, as in real text."""
    random = np.random.default_rng([seed, len(tokens)])
    empty = np.zeros(0, np.uint16), np.zeros(0, np.bool_)
    made = []
    for count in np.asarray(tokens) - 2:
        ranks = np.minimum(random.zipf(1.3, count), 29_000) - 1
        starts = random.random(count) >= PIECES
        starts[:1] = True
        made.append(Passage(*empty, (ranks + 1000).astype(np.uint16), starts))
    return made


def write_tokens(folder: Path, ids: np.ndarray, counts: np.ndarray) -> None:
    """What the stage `tokenise` leaves of texts of `counts` [N] tokens each, one behind the other in `ids`."""
    folder.mkdir()
    ids.astype(np.uint16).tofile(folder / "tokens.bin")
    np.ones(len(ids), np.bool_).tofile(folder / "starts.bin")
    np.save(folder / "lengths.npy", np.stack([np.zeros_like(counts), counts], 1))
    np.save(folder / "offsets.npy", np.concatenate([[0], counts.cumsum()]))
    (folder / "ids.json").write_text(json.dumps([str(row) for row in range(len(counts))]))
    (folder / "texts.json").write_text(json.dumps({"dtype": "uint16"}))


def unit(rows: int, width: int, seed: int) -> np.ndarray:
    """Random vectors of length 1, float32."""
    vectors = np.random.default_rng(seed).standard_normal((rows, width), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
