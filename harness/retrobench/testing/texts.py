"""Invented texts as token ids, and their vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np

from retrobench.objective import Passage, Vocabulary
from retrobench.testing.steps import MAX_LENGTH

__all__ = ["edge_cases", "make_passage", "make_vocabulary", "ordinary_passages"]


def make_vocabulary(config: Any) -> Vocabulary:
    """Return a vocabulary whose special ids are the lowest and whose unused ids are the highest."""
    size = config.vocab_size
    pad = config.pad_token_id or 0
    cls, sep, mask, unknown = [i for i in range(5) if i != pad][:4]
    unused = range(size - 4, size)
    special = frozenset({pad, cls, sep, mask, unknown, *unused})
    return Vocabulary(size, pad, cls, sep, mask, special)


def make_passage(vocabulary: Vocabulary, tokens: int, draw: np.random.Generator, title: int = 0) -> Passage:
    """Return a passage of `tokens` ids, of which `title` are the title. The ids are of 16 words, with geometric counts.

    An id continues a word if it is a multiple of 4.
    """
    ordinary = set(range(vocabulary.size)) - vocabulary.special
    words = np.asarray(sorted(ordinary)[:16], _id_dtype(vocabulary))
    drawn = draw.geometric(0.3, tokens).clip(max=len(words)) - 1
    ids = words[drawn]
    is_first = np.isin(np.arange(tokens), (0, title))
    starts = (ids % 4 != 0) | is_first
    for array in (ids, starts):
        array.setflags(write=False)  # memory-mapped texts are read-only too
    return Passage(ids[:title], starts[:title], ids[title:], starts[title:])


def _id_dtype(vocabulary: Vocabulary) -> type[np.unsignedinteger[Any]]:
    if vocabulary.size <= 2**16:
        return np.uint16
    return np.uint32


def ordinary_passages(vocabulary: Vocabulary) -> list[Passage]:
    """Return eight texts; each second one has a title of three tokens."""
    draw = np.random.default_rng(0)
    passages = []
    for tokens in range(8, 16):
        title = 3 * (tokens % 2)
        passages.append(make_passage(vocabulary, tokens, draw, title))
    return passages


def edge_cases(vocabulary: Vocabulary) -> list[Passage]:
    """Return two ordinary texts, an empty text, one token, a title without text, and a text that is too long."""
    draw = np.random.default_rng(1)
    tokens_and_title = ((12, 0), (9, 3), (0, 0), (1, 0), (4, 4), (3 * MAX_LENGTH, 5))
    passages = []
    for tokens, title in tokens_and_title:
        passages.append(make_passage(vocabulary, tokens, draw, title))
    return passages
