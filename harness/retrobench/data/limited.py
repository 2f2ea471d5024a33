"""
Datasets cut to a few documents and questions, for a trial.

* limit_datasets   cut datasets; those that share their documents share them after the cut
* LimitedDataset   a part of a dataset
* Part             the limit of a part, and the datasets whose questions chose it

The choice depends on ids, never on the order of the judgements. Questions come in the order of their hashes, in turn
from each dataset of a corpus. Each brings a relevant document until the limit is reached. If documents are lacking
then, further judged documents of these questions fill up, and after them the first documents of the corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

from retrobench.data.datasets import Dataset, Document, Query, load
from retrobench.data.rules import Rule
from retrobench.data.tables import Judgement
from retrobench.errors import RetrobenchError

__all__ = ["LimitedDataset", "Part", "limit_datasets"]


class Part(NamedTuple):
    """The part of a dataset that a limit keeps: everything that decides it, beside the dataset."""

    limit: int = 0  # most documents, and most questions; 0 for all
    judged: tuple[str, ...] = ()  # ids of the datasets whose questions chose the documents

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> Part:
        """Return the part that the facts of a row name."""
        return cls(facts.get("limit", 0), tuple(facts.get("limited_by", ())))


@dataclass(frozen=True)
class LimitedDataset(Dataset):
    """Some documents of a dataset, some of its questions about them, and the judgements between the two."""

    source: Dataset
    part: Part
    corpus: str  # a name for the documents
    kept: tuple[Document, ...] = field(compare=False, repr=False)
    questions: frozenset[str] = field(compare=False, repr=False)  # ids

    def documents(self) -> Iterator[Document]:
        """Yield the documents in the order of their choice."""
        return iter(self.kept)

    def document_count(self) -> int:
        """Return the number of documents."""
        return len(self.kept)

    def queries(self) -> Iterator[Query]:
        """Yield the questions in the source's order."""
        return (query for query in self.source.queries() if query.id in self.questions)

    def judgements(self) -> Iterator[Judgement]:
        """Yield the judgements of kept questions and documents in the source's order."""
        for judgement in self.source.judgements():
            query_id, document_id, _ = judgement
            if query_id in self.questions and document_id in self._document_ids:
                yield judgement

    @cached_property
    def _document_ids(self) -> frozenset[str]:
        return frozenset(document.id for document in self.kept)

    @property
    def corpus_id(self) -> str:
        """Return the name that the parts of one corpus share."""
        return self.corpus

    def has(self, entity: str) -> bool:
        """Tell whether the source has the entity. Pairs of documents are left out."""
        return entity != "docpairs" and self.source.has(entity)

    @property
    def rule(self) -> Rule:
        """Return the source's rule."""
        return self.source.rule

    @property
    def title(self) -> str:
        """Return the source's title."""
        return self.source.title

    @property
    def language(self) -> str:
        """Return the source's language."""
        return self.source.language

    def limit_facts(self) -> dict[str, object]:
        """Return the limit, and the datasets whose questions chose the documents."""
        return {"limit": self.part.limit, "limited_by": list(self.part.judged)}


def limit_datasets(datasets: Mapping[str, Dataset], limit: int, judged_ids: Iterable[str]) -> dict[str, Dataset]:
    """Return each dataset cut to at most `limit` documents and as many questions, or as it is if it has no more.

    Of the datasets with `judged_ids`, those that share a corpus choose its documents. Each of their kept questions has
    a relevant document. Of any other dataset only documents are kept. RetrobenchError where a judged dataset keeps no
    question.
    """
    judged: dict[str, dict[str, Dataset]] = {}  # by corpus, then by dataset id
    for judged_id in judged_ids:
        with suppress(RetrobenchError):  # a dataset that is not here shares no documents with those that are
            dataset = load(judged_id)
            judged.setdefault(dataset.corpus_id, {})[dataset.id] = dataset
    cuts: dict[str, _Cut] = {}
    limited = {}
    for name, dataset in datasets.items():
        if dataset.corpus_id not in cuts:
            cuts[dataset.corpus_id] = _cut(dataset, judged.get(dataset.corpus_id, {}), limit)
        limited[name] = cuts[dataset.corpus_id].apply(dataset)
    return limited


class _Question(NamedTuple):
    """A question with a relevant document."""

    id: str
    relevant: tuple[str, ...]  # document ids, the highest grade first
    judged: tuple[str, ...]  # ids of all its judged documents


class _Questions(NamedTuple):
    """The questions of a dataset."""

    total: int  # number, of those without an answer too
    answered: tuple[_Question, ...]  # with a relevant document, in the order of their hashes

    def keep(self, document_ids: Collection[str], limit: int) -> frozenset[str]:
        """Return the ids of the first `limit` questions with a relevant document among these documents."""
        kept: list[str] = []
        for question in self.answered:
            if len(kept) == limit:
                break
            if any(document_id in document_ids for document_id in question.relevant):
                kept.append(question.id)
        return frozenset(kept)


@dataclass(frozen=True)
class _Cut:
    """The kept part of a corpus, and the kept questions about it."""

    limit: int
    documents: tuple[Document, ...]
    is_whole: bool  # whether these are all documents
    totals: Mapping[str, int]  # number of all questions, by judged dataset
    kept: Mapping[str, frozenset[str]]  # ids of questions, by judged dataset

    def apply(self, dataset: Dataset) -> Dataset:
        """Return the dataset's part; the dataset itself where it has no more than the limit."""
        if self.is_whole and self.totals.get(dataset.id, 0) <= self.limit:
            return dataset
        part = Part(self.limit, tuple(self.totals))
        corpus = dataset.corpus_id
        if not self.is_whole:
            corpus = f"{corpus}, {part.limit} documents by {', '.join(part.judged)}"
        questions = self.kept.get(dataset.id, frozenset())
        return LimitedDataset(dataset.id, dataset, part, corpus, self.documents, questions)


def _cut(dataset: Dataset, judged: Mapping[str, Dataset], limit: int) -> _Cut:
    """Return the part of a dataset's corpus that the questions of the `judged` datasets choose."""
    questions = {dataset_id: _read_questions(judged[dataset_id]) for dataset_id in sorted(judged)}
    beginning = tuple(islice(dataset.documents(), limit + 1))
    is_whole = len(beginning) <= limit
    documents = beginning
    if not is_whole:
        documents = _choose_documents(dataset, beginning, list(questions.values()), limit)
    document_ids = {document.id for document in documents}
    kept = {}
    for dataset_id, dataset_questions in questions.items():
        kept[dataset_id] = dataset_questions.keep(document_ids, limit)
        if dataset_questions.answered and not kept[dataset_id]:
            raise RetrobenchError(
                f"A limit of {limit} keeps no question of {dataset_id!r} with a relevant document. Give a larger limit."
            )
    totals = {dataset_id: dataset_questions.total for dataset_id, dataset_questions in questions.items()}
    return _Cut(limit, documents, is_whole, totals, kept)


def _read_questions(dataset: Dataset) -> _Questions:
    level = max(1, dataset.rule.relevance_level)
    qrels = dataset.qrels()
    query_ids = dict.fromkeys(query.id for query in dataset.queries())
    answered = []
    for query_id in sorted(query_ids, key=_hash):
        grades = qrels.get(query_id, {})
        relevant = [document_id for document_id in grades if grades[document_id] >= level]
        if relevant:
            ranked = sorted((-grades[document_id], _hash(document_id), document_id) for document_id in relevant)
            ranked_ids = tuple(document_id for _, _, document_id in ranked)
            answered.append(_Question(query_id, ranked_ids, tuple(grades)))
    return _Questions(len(query_ids), tuple(answered))


def _choose_documents(
    dataset: Dataset, beginning: Sequence[Document], questions: Sequence[_Questions], limit: int
) -> tuple[Document, ...]:
    """Return `limit` documents. `beginning` holds the first documents of the corpus, and more than `limit`."""
    wanted = _choose_judged([part.answered[:limit] for part in questions], limit)
    at_hand = {document.id: document for document in beginning}
    at_hand |= dataset.find_documents([document_id for document_id in wanted if document_id not in at_hand])
    chosen = {document_id: at_hand[document_id] for document_id in wanted if document_id in at_hand}
    for document in beginning:
        if len(chosen) == limit:
            break
        chosen.setdefault(document.id, document)
    return tuple(chosen.values())


def _choose_judged(questions: Sequence[Sequence[_Question]], limit: int) -> list[str]:
    """Return at most `limit` document ids: a relevant one of each question, then the other judged ones."""
    chosen: dict[str, None] = {}
    others: dict[str, None] = {}
    for question in _in_turn(questions):
        if chosen.keys().isdisjoint(question.relevant):
            chosen[question.relevant[0]] = None
        if len(chosen) == limit:
            return list(chosen)
        others |= dict.fromkeys(question.judged)
    chosen |= dict.fromkeys(sorted(others, key=_hash))
    return list(chosen)[:limit]


def _in_turn(questions: Sequence[Sequence[_Question]]) -> Iterator[_Question]:
    """Yield the first question of each dataset, then the second of each, and so on."""
    longest = max(map(len, questions), default=0)
    for number in range(longest):
        for dataset_questions in questions:
            if number < len(dataset_questions):
                yield dataset_questions[number]


def _hash(identifier: str) -> bytes:
    """Return a number for an id, so that an order of ids is an order by chance."""
    return hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).digest()
