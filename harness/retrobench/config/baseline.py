"""The lexical baseline: its settings, presets, and the language of its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

from retrobench.errors import unknown

__all__ = ["BASELINES", "Baseline", "Bm25"]

# The language of a collection -> its Snowball stemmer, which is the name of bm25s' list of stop words too.
LANGUAGES = MappingProxyType(
    {
        "da": "danish",
        "de": "german",
        "en": "english",
        "es": "spanish",
        "fr": "french",
        "it": "italian",
        "nl": "dutch",
        "no": "norwegian",
        "pt": "portuguese",
        "ru": "russian",
        "sv": "swedish",
        "tr": "turkish",
    }
)
STOP_WORDS = (*LANGUAGES.values(), "english_plus")

AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class Bm25:
    """The lexical baseline of the bm25s library, with Lucene's formula.

    A word has two letters or digits and more. Stop words leave before the rest is stemmed, as in Lucene's analyser for
    English, whose 33 stop words are `english`. The presets take k1, b and Porter's stemmer from Lucene
    (BM25Similarity, EnglishAnalyzer) and Anserini (SearchCollection). Their words and lengths are still bm25s' own, so
    their scores come near those systems' scores and do not equal them.
    """

    name: ClassVar[str] = "bm25"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "lucene": {"k1": 1.2, "b": 0.75, "stemmer": "porter", "stop_words": "english"},
            "anserini": {"k1": 0.9, "b": 0.4, "stemmer": "porter", "stop_words": "english"},
        }
    )

    k1: float = 1.5  # the number of occurrences that saturates a word's weight
    b: float = 0.75  # the share of normalisation by length
    stemmer: str = AUTO  # a Snowball algorithm, "none", or "auto": by the collection's language
    stop_words: str = AUTO  # a list of bm25s, "none", or "auto": by the collection's language

    def __post_init__(self) -> None:
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise ValueError(f"k1 must be at least 0 and b between 0 and 1, got {self.k1} and {self.b}")
        if self.stop_words not in (AUTO, NONE, *STOP_WORDS):
            raise ValueError(str(unknown("stop_words", self.stop_words, (AUTO, NONE, *STOP_WORDS))))
        if self.stemmer not in (AUTO, NONE):
            from Stemmer import algorithms

            if self.stemmer not in algorithms():
                raise ValueError(str(unknown("stemmer", self.stemmer, (AUTO, NONE, *algorithms()))))

    def for_language(self, language: str) -> Bm25:
        """Return the settings for a collection in a language such as `en`, with each `auto` replaced."""
        by_language = LANGUAGES.get(language, NONE)
        resolved = self
        if self.stemmer == AUTO:
            resolved = replace(resolved, stemmer=by_language)
        if self.stop_words == AUTO:
            resolved = replace(resolved, stop_words=by_language)
        return resolved


BASELINES: Mapping[str, type[Bm25]] = MappingProxyType({Bm25.name: Bm25})


@dataclass(frozen=True)
class Baseline:
    """A lexical baseline. It has rows beside the objectives, but trains and encodes nothing."""

    name: str  # in tables
    kind: str  # a key of BASELINES
    bm25: Bm25 = Bm25()

    distribution, version, code, checkpoint, file = "retrobench", "", "", "", None

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings by name."""
        return asdict(self.bm25)

    @property
    def representation(self) -> str:
        """Return the word for a table's column of representations."""
        return self.kind
