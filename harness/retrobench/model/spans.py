"""
Spans of a document: passages of whole sentences, one behind the other.

* Spans           a document and where it is cut
* cut_spans       cut a document
* span_examples   the documents that are long enough
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from retrobench.objective import Passage, Vocabulary

__all__ = ["LEAST_TOKENS", "Spans", "cut_spans", "span_examples"]

# Of a document that has two spans. Of the four tokens of a half a mask leaves two or more.
LEAST_TOKENS = 8


@dataclass(frozen=True)
class Spans:
    """A document of N tokens, its title first, and the edges between its K spans; K is at least 2."""

    ids: np.ndarray  # [N]
    starts: np.ndarray  # [N] bool, True at the first token of a word
    words: np.ndarray  # positions at which words begin, and N
    sentences: np.ndarray  # positions at which sentences begin, and N
    edges: np.ndarray  # [K + 1] positions at which spans begin, and N

    def __len__(self) -> int:
        return len(self.edges) - 1

    def span(self, number: int) -> Passage:
        """Return a span; its tokens are all `text`."""
        return self.text(int(self.edges[number]), int(self.edges[number + 1]))

    def text(self, first: int, end: int) -> Passage:
        """Return the tokens from position `first` to the one before `end`."""
        return Passage(self.ids[:0], self.starts[:0], self.ids[first:end], self.starts[first:end])

    def sentences_of(self, number: int) -> np.ndarray:
        """Return the position of a span, and those at which its further sentences begin."""
        first, end = self.edges[number], self.edges[number + 1]
        inside = self.sentences[(self.sentences > first) & (self.sentences < end)]
        return np.concatenate([[first], inside])

    def word_before(self, position: int) -> int:
        """Return the last edge between words that is not behind a position."""
        return int(self.words[self.words.searchsorted(position, "right") - 1])

    def word_behind(self, position: int) -> int:
        """Return the first edge between words that is not before a position."""
        return int(self.words[self.words.searchsorted(position)])


def cut_spans(
    passage: Passage,
    vocabulary: Vocabulary,
    most: int,
    generator: torch.Generator | None = None,
    short: float = 0.0,
) -> Spans:
    """Cut a document into spans of at most `most` tokens, each as long as whole sentences allow.

    A longer sentence is cut where a word begins, and a longer word is a span by itself. A document of a single span is
    cut at the sentence end nearest its middle, or without one at the word nearest its middle. A single word is followed
    by an empty span. The title is the beginning of the first sentence.

    The share `short` of spans, drawn from `generator`, ends with the first sentence that exceeds a random length of
    2 to `most` tokens.
    """
    ids = np.concatenate([passage.title, passage.text])
    starts = np.concatenate([passage.title_starts, passage.text_starts])
    starts[:1] = True
    words = _edges(starts)
    sentences = _edges(_begins(ids, starts, vocabulary))
    edges = [0]
    while edges[-1] < len(ids):
        target = _target(most, short, generator)
        edges.append(_end(edges[-1], target, most, sentences, words))
    if len(edges) <= 2:
        edges = [0, _middle(sentences, words), len(ids)]
    return Spans(ids, starts, words, sentences, np.array(edges))


def _edges(begins: np.ndarray) -> np.ndarray:
    """Return the positions where `begins` [N] is True, and N."""
    return np.concatenate([begins.nonzero()[0], [len(begins)]])


def _begins(ids: np.ndarray, starts: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Return where sentences begin, [N] bool: with the text, and with a word behind a mark such as . ? !

    Of several marks, as in "?!", the last ends the sentence. Where a tokenizer makes words of marks, as BERT's does,
    the point of 8.0 and of "Mr." ends a sentence too: token ids do not tell them apart.
    """
    is_mark = _marks(vocabulary)[ids]
    begins = starts.copy()
    begins[1:] &= is_mark[:-1] & ~is_mark[1:]
    return begins


@lru_cache(maxsize=8)
def _marks(vocabulary: Vocabulary) -> np.ndarray:
    """Return which ids end a sentence, [V] bool."""
    marks = np.zeros(vocabulary.size, np.bool_)
    marks[sorted(vocabulary.sentence_ends)] = True
    return marks


def _target(most: int, short: float, generator: torch.Generator | None) -> int:
    """Return the tokens of the next span: `most`, or with the probability `short` 2 to `most`."""
    if short and float(torch.rand((), generator=generator)) < short:
        return int(torch.randint(min(2, most), most + 1, (), generator=generator))
    return most


def _end(first: int, target: int, most: int, sentences: np.ndarray, words: np.ndarray) -> int:
    """Return where the span ends that begins at the position `first`."""
    sentence = int(sentences.searchsorted(first + target, "right"))
    over_target = int(sentences[min(sentence, len(sentences) - 1)])
    if over_target <= first + most:
        return over_target
    for edges in (sentences, words):
        last = int(edges[edges.searchsorted(first + most, "right") - 1])
        if last > first:
            return last
    return int(words[words.searchsorted(first, "right")])


def _middle(sentences: np.ndarray, words: np.ndarray) -> int:
    """Return the edge between sentences that is nearest the middle, or else that between words; a single word's end."""
    tokens = int(words[-1])
    for edges in (sentences, words):
        inner = edges[1:-1]
        if len(inner):
            return int(inner[np.abs(2 * inner - tokens).argmin()])
    return tokens


def span_examples(lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the documents [E] of at least LEAST_TOKENS tokens, and the tokens [E] of the longest of two spans.

    `lengths` [N] are the documents' tokens. The spans' are about right, special tokens included.
    """
    documents = np.flatnonzero(lengths >= LEAST_TOKENS)
    tokens = lengths[documents]
    most = max_length - 2
    halves = (tokens + 1) // 2
    return documents, np.where(tokens <= most, halves, most) + 2
