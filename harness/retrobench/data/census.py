"""
What can be wrong with a collection, counted in one pass over each of its parts.

Of documents 16 bytes each are kept, so that a hundred million can be counted; queries and judgements are held whole.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

__all__ = ["SHOWN", "Documents", "Judgements", "Queries"]

SHOWN = 3  # examples kept of each kind of trouble


class _Document(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def text(self) -> str: ...


class _Query(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def text(self) -> str: ...


D = TypeVar("D", bound=_Document)
Q = TypeVar("Q", bound=_Query)


@dataclass
class Examples:
    """How many, and the first few."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(text)


@dataclass
class Judgements:
    """The judgements of one split. Where a pair is judged twice the first grade stands."""

    grades: dict[str, dict[str, int]] = field(default_factory=dict)
    rows: int = 0
    repeated: int = 0  # said twice, but the same
    contradictory: Examples = field(default_factory=Examples)
    by_grade: dict[int, int] = field(default_factory=dict)

    def read(self, rows: Iterable[tuple[str, str, int]]) -> None:
        """Take in query id, document id and grade of each."""
        for query, document, grade in rows:
            self.rows += 1
            self.by_grade[grade] = self.by_grade.get(grade, 0) + 1
            of = self.grades.setdefault(query, {})
            if document not in of:
                of[document] = grade
            elif of[document] == grade:
                self.repeated += 1
            else:
                self.contradictory.add(f"{query} {document}")

    def below(self, level: int) -> int:
        """The number of queries without a document of at least this grade."""
        return sum(max(of.values()) < level for of in self.grades.values())

    def naming(self, documents: set[str]) -> int:
        """The number of judged pairs whose document is one of these."""
        return sum(len(documents & of.keys()) for of in self.grades.values()) if documents else 0


@dataclass
class Queries:
    """The queries of one split."""

    texts: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    repeated: Examples = field(default_factory=Examples)
    unfit: Examples = field(default_factory=Examples)  # ids that no TREC file can carry
    empty: Examples = field(default_factory=Examples)

    def passing(self, queries: Iterable[Q]) -> Iterator[Q]:
        """The same queries, each taken in as it goes by."""
        for query in queries:
            self.rows += 1
            if query.id in self.texts:
                self.repeated.add(query.id)
            if not _fits(query.id):
                self.unfit.add(repr(query.id))
            if not query.text.strip():
                self.empty.add(query.id)
            self.texts[query.id] = query.text
            yield query


@dataclass
class Documents:
    """A corpus, seen with the queries and judgements that refer to it."""

    queries: Mapping[str, str]
    absent: set[str]  # at first every judged document; what is left was not in the corpus
    rows: int = 0
    titled: int = 0
    unfit: Examples = field(default_factory=Examples)
    empty: Examples = field(default_factory=Examples)
    namesakes: int = 0  # documents with the id of a query
    same_text: Examples = field(default_factory=Examples)  # of these, the ones that are that query
    ids: array[int] = field(default_factory=lambda: array("q"))
    texts: array[int] = field(default_factory=lambda: array("q"))

    def passing(self, documents: Iterable[D]) -> Iterator[D]:
        """The same documents, each taken in as it goes by."""
        for document in documents:
            self.rows += 1
            self.titled += bool(document.title.strip())
            self.ids.append(hash(document.id))
            self.absent.discard(document.id)
            if not _fits(document.id):
                self.unfit.add(repr(document.id))
            if document.title.strip() or document.text.strip():
                self.texts.append(hash((document.title, document.text)))
            else:
                self.empty.add(document.id)
            asked = self.queries.get(document.id)
            if asked is not None:
                self.namesakes += 1
                if asked.strip() in (document.text.strip(), f"{document.title} {document.text}".strip()):
                    self.same_text.add(document.id)
            yield document

    def repeated_ids(self) -> int:
        """The number of documents whose id an earlier one had."""
        return _repeated(self.ids)

    def repeated_texts(self) -> int:
        """The number of documents whose title and text an earlier one had, empty ones left out."""
        return _repeated(self.texts)


def _fits(identifier: str) -> bool:
    return identifier.split() == [identifier]


def _repeated(hashes: array[int]) -> int:
    return len(hashes) - len(np.unique(np.frombuffer(hashes, np.int64)))
