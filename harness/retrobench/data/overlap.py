"""
Questions that two datasets share. A test on questions of the training says nothing about new questions.

* read_questions  the questions of a dataset that have judgements, read once
* find_overlap    compare the questions of training with those of a test
* Overlap         the questions, texts and relevant documents that the two share

Two questions are the same where two of three agree: id, text, a relevant document. Each alone is a coincidence:

* Many collections number their questions from 1.
* A short text, such as "what does AC stand for", may ask for another document in every place.
* A document may answer several questions.

Texts agree without regard to case, white space, punctuation at the ends, and the Unicode form of a letter. In one
corpus, documents agree where their ids do. Between two corpora only the documents of equal questions are compared:
they agree where the text of one contains the text of the other, so a copy cut into other passages is still a copy.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection as Container
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from retrobench.data.collection import Collection

__all__ = ["Overlap", "Questions", "find_overlap", "normalise", "read_questions"]

SHOWN = 3  # shared questions whose ids are kept


@dataclass(frozen=True)
class Questions:
    """The judged questions of a dataset, by id."""

    collection: Collection
    texts: Mapping[str, str]  # normalised
    relevant: Mapping[str, Sequence[str]]  # ids of the documents with a grade above 0


@dataclass(frozen=True)
class Overlap:
    """What a test shares with a training. Counts are of the test's questions and documents."""

    train: str  # dataset id
    test: str
    total: int  # judged questions of the test
    questions: int  # that are questions of the training
    examples: tuple[str, ...]  # ids of the first of them
    texts: int  # other questions with the text of a question of the training
    documents: int  # relevant to a question of the test and to a question of the training


class _Pair(NamedTuple):
    """Ids of two questions with equal ids or equal texts."""

    train: str
    test: str


def read_questions(collection: Collection) -> Questions:
    """Return the judged questions of a dataset. Its queries and judgements are read once."""
    relevant: dict[str, list[str]] = {}
    for query_id, document_id, grade in collection.dataset.judgements():
        documents = relevant.setdefault(query_id, [])
        if grade > 0:
            documents.append(document_id)
    texts = {}
    for query in collection.dataset.queries():
        if query.id in relevant:
            texts[query.id] = normalise(query.text)
    return Questions(collection, texts, relevant)


def normalise(text: str) -> str:
    """Return a text in NFKC and without case, with single spaces, and without punctuation at its ends."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join(folded.split())
    start, end = 0, len(words)
    while start < end and _is_edge(words[start]):
        start += 1
    while start < end and _is_edge(words[end - 1]):
        end -= 1
    return words[start:end]


def _is_edge(character: str) -> bool:
    return character == " " or unicodedata.category(character).startswith("P")


def find_overlap(train: Questions, test: Questions) -> Overlap:
    """Return what a test shares with a training.

    The documents of two corpora are read only where questions of equal text have different ids.
    """
    one_corpus = _same_corpus(train.collection, test.collection)
    pairs = list(_alike(train, test))
    shares_document = _share_by_id(train, test, pairs) if one_corpus else _share_by_text(train, test, pairs)
    same: dict[str, None] = {}
    reworded: dict[str, None] = {}
    for pair in pairs:
        equal_text = _equal_texts(train, test, pair)
        agreements = (pair.train == pair.test, equal_text, pair in shares_document)
        if agreements.count(True) > 1:
            same[pair.test] = None
        elif equal_text:
            reworded[pair.test] = None
    return Overlap(
        train=train.collection.id,
        test=test.collection.id,
        total=len(test.texts),
        questions=len(same),
        examples=tuple(same)[:SHOWN],
        texts=len(reworded.keys() - same.keys()),
        documents=len(_all_relevant(train) & _all_relevant(test)) if one_corpus else 0,
    )


def _same_corpus(first: Collection, second: Collection) -> bool:
    return first.corpus is second.corpus or first.corpus.hash == second.corpus.hash


def _alike(train: Questions, test: Questions) -> Iterator[_Pair]:
    """Yield every pair of questions with equal ids or equal texts, in the order of the test.

    A question of the training without a relevant document is left out, since nothing is learnt from it.
    """
    by_text: dict[str, list[str]] = {}
    taught = {query_id: text for query_id, text in train.texts.items() if train.relevant[query_id]}
    for query_id, text in taught.items():
        by_text.setdefault(text, []).append(query_id)
    for query_id, text in test.texts.items():
        candidates = dict.fromkeys(by_text.get(text, ()))
        if query_id in taught:
            candidates[query_id] = None
        for candidate in candidates:
            yield _Pair(candidate, query_id)


def _equal_texts(train: Questions, test: Questions, pair: _Pair) -> bool:
    text = test.texts[pair.test]
    return bool(text) and text == train.texts[pair.train]


def _share_by_id(train: Questions, test: Questions, pairs: list[_Pair]) -> set[_Pair]:
    """Return the pairs with a relevant document in common, for questions to one corpus."""
    sharing = set()
    for pair in pairs:
        if not set(train.relevant[pair.train]).isdisjoint(test.relevant[pair.test]):
            sharing.add(pair)
    return sharing


def _share_by_text(train: Questions, test: Questions, pairs: list[_Pair]) -> set[_Pair]:
    """Return the pairs of equal text and different ids whose relevant documents contain one another."""
    unsettled = [pair for pair in pairs if pair.train != pair.test]
    train_ids: set[str] = set()
    test_ids: set[str] = set()
    for pair in unsettled:
        train_ids.update(train.relevant[pair.train])
        test_ids.update(test.relevant[pair.test])
    train_texts = _document_texts(train.collection, train_ids)
    test_texts = _document_texts(test.collection, test_ids)
    sharing = set()
    for pair in unsettled:
        first = [train_texts.get(document_id, "") for document_id in train.relevant[pair.train]]
        second = [test_texts.get(document_id, "") for document_id in test.relevant[pair.test]]
        if _contain(first, second):
            sharing.add(pair)
    return sharing


def _contain(first: list[str], second: list[str]) -> bool:
    """Tell whether any text of one list is within a text of the other. Empty texts do not count."""
    for one in filter(None, first):
        for other in filter(None, second):
            if one in other or other in one:
                return True
    return False


def _document_texts(collection: Collection, document_ids: Container[str]) -> dict[str, str]:
    """Return the normalised texts of some documents. The corpus is read up to the last of them."""
    texts: dict[str, str] = {}
    if not document_ids:
        return texts
    for document in collection.dataset.documents():
        if document.id in document_ids:
            texts[document.id] = normalise(document.text)
            if len(texts) == len(document_ids):
                break
    return texts


def _all_relevant(questions: Questions) -> set[str]:
    documents: set[str] = set()
    for document_ids in questions.relevant.values():
        documents.update(document_ids)
    return documents
