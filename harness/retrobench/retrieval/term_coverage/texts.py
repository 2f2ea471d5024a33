"""
The texts whose words are measured, and the words of a vocabulary in groups.

* draw_texts    texts of a dataset, drawn with a fixed seed
* Texts         tokenised texts: some are measured, the others fit controls
* word_groups   content words, stop words, punctuation, pieces, and quartiles of document frequency
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from retrobench.data import (
    Collection,
    TextRow,
    TokenisedTexts,
    document_rows,
    query_rows,
    vocabulary,
    write_tokens,
)
from retrobench.errors import RetrobenchError
from retrobench.objective import Vocabulary
from retrobench.retrieval.encoders import Kind

__all__ = ["MEASURED", "OTHERS", "Texts", "draw_texts", "word_groups"]

MEASURED = 1000  # texts
OTHERS = 10_000  # texts that fit the linear probe and count the words
FEWEST = 10  # texts of a dataset
WORD_STARTS = ("Ġ", "▁")  # marks of a word's first token, in vocabularies without ##


@dataclass(frozen=True)
class Texts:
    """N tokenised texts, the first `measured` of which are measured. The others fit the linear probe and the prior."""

    tokens: TokenisedTexts
    vocabulary: Vocabulary
    max_length: int  # tokens, [CLS] and [SEP] included
    measured: int

    @classmethod
    def write(cls, folder: Path, rows: Sequence[TextRow], tokenizer: Any, titles: bool | str, max_length: int) -> Texts:
        """Tokenise texts into a folder. Half of few texts are measured."""
        texts: Iterator[TextRow] = iter(rows)
        if not titles:
            texts = ((text_id, "", text) for text_id, _, text in rows)
        write_tokens(folder, texts, tokenizer, separated=titles == "[SEP]")
        words = vocabulary(tokenizer, len(tokenizer))
        return cls(TokenisedTexts.open(folder), words, max_length, min(MEASURED, len(rows) // 2))

    @cached_property
    def is_word(self) -> np.ndarray:
        """Return which ids are words, [V] bool: special and unused ids are not."""
        mask = np.ones(self.vocabulary.size, np.bool_)
        mask[list(self.vocabulary.special)] = False
        return mask

    @cached_property
    def bags(self) -> list[np.ndarray]:
        """Return the distinct words of each text as the model reads it."""
        bags = []
        for row in range(len(self.tokens)):
            passage = self.tokens[row]
            ids = np.concatenate([passage.title, passage.text])[: self.max_length - 2]
            bags.append(np.unique(ids[self.is_word[ids]]).astype(np.int64))
        return bags

    @cached_property
    def frequencies(self) -> np.ndarray:
        """Return the number of texts with each word, [V], among the texts that are not measured."""
        words = np.concatenate(self.bags[self.measured :])
        return np.bincount(words, minlength=self.vocabulary.size)


def draw_texts(collection: Collection, kind: Kind) -> list[TextRow]:
    """Return up to MEASURED + OTHERS queries or documents of a dataset, in a random order that is always the same.

    RetrobenchError for a dataset with too few.
    """
    dataset = collection.dataset
    total = dataset.query_count() if kind == "query" else collection.corpus.count
    if total < FEWEST:
        raise RetrobenchError(
            f"Dataset {collection.id!r} has {total} texts ({kind}), and coverage needs {FEWEST}. Name a larger one."
        )
    drawn = np.random.default_rng(0).permutation(total)[: MEASURED + OTHERS]
    positions = {int(number): position for position, number in enumerate(drawn)}
    texts: list[TextRow] = [("", "", "")] * len(drawn)
    rows = query_rows(dataset) if kind == "query" else document_rows(dataset)
    for number, row in enumerate(rows):
        if number in positions:
            texts[positions[number]] = row
    return texts


def word_groups(texts: Texts, tokenizer: Any) -> dict[str, np.ndarray]:
    """Return the words of each group, [V] bool.

    A piece continues a word. Stop words are the 179 of bm25s' list `english_plus`. Quartile 1 of the inverse document
    frequency has the commonest words; each quartile has a quarter of the (text, word) pairs that are measured.
    """
    groups = _token_classes(texts, tokenizer)
    pairs = np.concatenate(texts.bags[: texts.measured])
    rarity = -texts.frequencies
    bounds = np.quantile(rarity[pairs], [0.25, 0.5, 0.75])
    quartiles = np.searchsorted(bounds, rarity)  # [V], 0 to 3
    for quartile in range(4):
        groups[f"IDF {quartile + 1}"] = quartiles == quartile
    return groups


def _token_classes(texts: Texts, tokenizer: Any) -> dict[str, np.ndarray]:
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    ids = tokenizer.get_vocab()
    marks_pieces = any(token.startswith("##") for token in ids)
    groups = {}
    for name in ("content", "stop word", "punctuation", "piece"):
        groups[name] = np.zeros(texts.vocabulary.size, np.bool_)
    for token, token_id in ids.items():
        if not texts.is_word[token_id]:
            continue
        word = token.removeprefix("##").lstrip("".join(WORD_STARTS)).lower()
        is_first = not token.startswith("##") if marks_pieces else token.startswith(WORD_STARTS)
        if not any(character.isalnum() for character in word):
            name = "punctuation"
        elif not is_first:
            name = "piece"
        elif word in STOPWORDS_EN_PLUS:
            name = "stop word"
        else:
            name = "content"
        groups[name][token_id] = True
    return groups
