"""
Count the faults of a collection in one pass over its documents, queries and judgements.

A document takes 16 bytes of memory, so that a hundred million can be counted. Queries and judgements stay in memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from retrobench.data.identifiers import LARGEST_GRADE, fits_trec
from retrobench.data.tables import Judgement

__all__ = ["SHOWN", "DocumentCensus", "JudgementCensus", "Occurrences", "QueryCensus"]

SHOWN = 3  # examples of each fault in a report


class _HasText(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def text(self) -> str: ...


class _HasTitle(_HasText, Protocol):
    @property
    def title(self) -> str: ...


D = TypeVar("D", bound=_HasTitle)
Q = TypeVar("Q", bound=_HasText)


@dataclass
class Occurrences:
    """The number of occurrences of one fault, and the first few."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count one occurrence."""
        self.count += 1
        if len(self.examples) < SHOWN:
            self.examples.append(example)


@dataclass
class JudgementCensus:
    """The judgements of one split. Where a pair is judged twice, the first grade counts."""

    grades: dict[str, dict[str, int]] = field(default_factory=dict)  # query id -> document id -> grade
    rows: int = 0
    repeated: int = 0  # pairs judged twice with equal grades
    contradictory: Occurrences = field(default_factory=Occurrences)
    by_grade: dict[int, int] = field(default_factory=dict)

    def read(self, rows: Iterable[Judgement]) -> None:
        """Count rows of query id, document id and grade."""
        for query_id, document_id, grade in rows:
            self.rows += 1
            self.by_grade[grade] = self.by_grade.get(grade, 0) + 1
            grades = self.grades.setdefault(query_id, {})
            if document_id not in grades:
                grades[document_id] = grade
            elif grades[document_id] == grade:
                self.repeated += 1
            else:
                self.contradictory.add(f"{query_id} {document_id}")

    def document_ids(self) -> set[str]:
        """Return the ids of all judged documents."""
        ids: set[str] = set()
        for grades in self.grades.values():
            ids.update(grades)
        return ids

    def queries_below(self, level: int) -> int:
        """Count the queries without a document of at least this grade."""
        count = 0
        for grades in self.grades.values():
            if max(grades.values()) < level:
                count += 1
        return count

    def rows_below(self, level: int) -> int:
        """Count the judgements with a lower grade."""
        return sum(rows for grade, rows in self.by_grade.items() if grade < level)

    def rows_beyond_range(self) -> int:
        """Count the judgements with a grade that is too large, above or below 0."""
        return sum(rows for grade, rows in self.by_grade.items() if abs(grade) > LARGEST_GRADE)

    def pairs_with(self, document_ids: set[str]) -> int:
        """Count the judged pairs whose document is in a set."""
        if not document_ids:
            return 0
        return sum(len(document_ids & grades.keys()) for grades in self.grades.values())


@dataclass
class QueryCensus:
    """The queries of one split."""

    texts: dict[str, str] = field(default_factory=dict)  # query id -> text
    rows: int = 0
    repeated: Occurrences = field(default_factory=Occurrences)
    unfit: Occurrences = field(default_factory=Occurrences)  # ids that no TREC file can carry
    empty: Occurrences = field(default_factory=Occurrences)

    def counted(self, queries: Iterable[Q]) -> Iterator[Q]:
        """Yield the queries unchanged and count each one on the way."""
        for query in queries:
            self.rows += 1
            if query.id in self.texts:
                self.repeated.add(query.id)
            if not fits_trec(query.id):
                self.unfit.add(repr(query.id))
            if not query.text.strip():
                self.empty.add(query.id)
            self.texts[query.id] = query.text
            yield query


@dataclass
class DocumentCensus:
    """The documents of a corpus, compared with the queries and judgements that refer to them."""

    queries: Mapping[str, str]  # query id -> text
    absent: set[str]  # every judged document at first; after the pass, the documents that the corpus lacks
    rows: int = 0
    titled: int = 0
    unfit: Occurrences = field(default_factory=Occurrences)
    empty: Occurrences = field(default_factory=Occurrences)
    shared_ids: int = 0  # documents with the id of a query
    same_text: Occurrences = field(default_factory=Occurrences)  # documents with a query's id and text
    id_hashes: array[int] = field(default_factory=lambda: array("q"))
    text_hashes: array[int] = field(default_factory=lambda: array("q"))

    def counted(self, documents: Iterable[D]) -> Iterator[D]:
        """Yield the documents unchanged and count each one on the way."""
        for document in documents:
            self._count(document)
            yield document

    def _count(self, document: _HasTitle) -> None:
        title = document.title.strip()
        text = document.text.strip()
        self.rows += 1
        self.titled += bool(title)
        self.id_hashes.append(hash(document.id))
        self.absent.discard(document.id)
        if not fits_trec(document.id):
            self.unfit.add(repr(document.id))
        if title or text:
            self.text_hashes.append(hash((document.title, document.text)))
        else:
            self.empty.add(document.id)
        query = self.queries.get(document.id)
        if query is None:
            return
        self.shared_ids += 1
        if query.strip() in (text, f"{document.title} {document.text}".strip()):
            self.same_text.add(document.id)

    def repeated_ids(self) -> int:
        """Count the documents whose id an earlier document had."""
        return _repetitions(self.id_hashes)

    def repeated_texts(self) -> int:
        """Count the documents, empty ones aside, whose title and text an earlier document had."""
        return _repetitions(self.text_hashes)


def _repetitions(hashes: array[int]) -> int:
    return len(hashes) - len(np.unique(np.frombuffer(hashes, np.int64)))
