"""
Documents, queries and judgements, wherever they come from.

* load(id) -> Dataset       an ir_datasets id, retrobench/squad/{train,fit,val,test}, or a folder PATH[:SPLIT]
* training_pairs(dataset)   queries with the documents that answer them

Importing this module registers the shipped collection with ir_datasets.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_datasets

from retrobench.collections import embedded, folder
from retrobench.errors import RetrobenchError, unknown

__all__ = ["SHIPPED", "Dataset", "Document", "Query", "load", "training_pairs"]

SHIPPED = embedded.register()


@dataclass(frozen=True)
class Document:
    """One unit of retrieval. The title is empty where the collection has none."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Query:
    """One question to the collection."""

    id: str
    text: str


@dataclass(frozen=True)
class Dataset(ABC):
    """A collection with its queries and judgements, read anew by each call."""

    id: str

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """The documents in collection order."""

    @abstractmethod
    def queries(self) -> Iterator[Query]:
        """The queries in the source's order."""

    @abstractmethod
    def document_count(self) -> int:
        """The number of documents, without reading their texts where the source allows it."""

    @abstractmethod
    def judgements(self) -> Iterable[tuple[str, str, int]]:
        """Query id, document id and grade, as the source lists them."""

    def qrels(self) -> dict[str, dict[str, int]]:
        """Query id -> document id -> grade.

        A pair judged twice with different grades is an error: engines differ in which of the two they take.
        """
        grades: dict[str, dict[str, int]] = {}
        for query, document, grade in self.judgements():
            if grades.setdefault(query, {}).setdefault(document, grade) != grade:
                raise RetrobenchError(
                    f"{self.id} judges query {query!r} and document {document!r} twice, as "
                    f"{grades[query][document]} and as {grade}; remove one of the two."
                )
        return grades

    def query_count(self) -> int:
        """The number of queries."""
        return sum(1 for _ in self.queries())

    def corpus_fingerprint(self) -> str:
        """SHA-256 over the ids, titles and texts of the documents in order, as 64 hexadecimal digits."""
        return _digest([document.id, document.title, document.text] for document in self.documents())

    def stamp(self) -> tuple[int, ...]:
        """What changes when files behind the dataset do, as far as a glance tells; nothing for a published one."""
        return ()

    def queries_fingerprint(self) -> str:
        """SHA-256 over the ids and texts of the queries in order."""
        return _digest([query.id, query.text] for query in self.queries())

    def fingerprint(self) -> str:
        """SHA-256 over documents, queries and judgements, wherever they are kept."""
        qrels = _digest([query, sorted(grades.items())] for query, grades in self.qrels().items())
        return _digest([self.corpus_fingerprint(), self.queries_fingerprint(), qrels])


def _digest(rows: Iterable[object]) -> str:
    # JSON marks where each field ends, so that moving a letter from title to text changes the digest.
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


class CatalogueDataset(Dataset):
    """A dataset that ir_datasets knows. A document without a field `text` gives its default text."""

    def _handler(self, entity: str) -> Any:
        dataset = ir_datasets.load(self.id)
        if not dataset.has(entity):
            subsets = [name for name in ir_datasets.registry if name.startswith(f"{self.id}/")]
            raise RetrobenchError(f"Dataset {self.id!r} has no {entity}. Its subsets: {', '.join(subsets) or 'none'}.")
        return dataset

    def documents(self) -> Iterator[Document]:
        """The documents in ir_datasets' order."""
        for row in self._handler("docs").docs_iter():
            if hasattr(row, "text"):
                yield Document(row.doc_id, getattr(row, "title", None) or "", row.text)
            else:
                yield Document(row.doc_id, "", row.default_text())

    def queries(self) -> Iterator[Query]:
        """The queries in ir_datasets' order."""
        for row in self._handler("queries").queries_iter():
            yield Query(row.query_id, row.text if hasattr(row, "text") else row.default_text())

    def document_count(self) -> int:
        """The number that ir_datasets records."""
        return int(self._handler("docs").docs_count())

    def judgements(self) -> Iterator[tuple[str, str, int]]:
        """The judgements in ir_datasets' order."""
        for row in self._handler("qrels").qrels_iter():
            yield row.query_id, row.doc_id, row.relevance


@dataclass(frozen=True)
class FolderDataset(Dataset):
    """A folder in BEIR's layout."""

    folder: Path
    split: str

    def documents(self) -> Iterator[Document]:
        """The documents in file order, all read before the first is given."""
        return itertools.starmap(Document, folder.documents(self.folder))

    def queries(self) -> Iterator[Query]:
        """The queries that the split judges, in the order of its judgements."""
        return itertools.starmap(Query, folder.queries(self.folder, self.split))

    def document_count(self) -> int:
        """The number of lines."""
        return folder.document_count(self.folder)

    def stamp(self) -> tuple[int, ...]:
        """Times and sizes of the folder's files."""
        states = [file.stat() for file in sorted(self.folder.rglob("*")) if file.is_file()]
        return tuple(number for state in states for number in (state.st_mtime_ns, state.st_size))

    def judgements(self) -> Iterator[tuple[str, str, int]]:
        """The rows of the split's file."""
        return folder.judgements(self.folder, self.split)


def load(dataset_id: str) -> Dataset:
    """The dataset of that id; nothing is read or downloaded yet.

    An id of ir_datasets comes before a folder of the same name, which is still to be had as `./NAME`.
    """
    with contextlib.suppress(KeyError):
        ir_datasets.load(dataset_id)
        return CatalogueDataset(dataset_id)
    name, _, split = dataset_id.rpartition(":")
    for place, wanted in ((dataset_id, "test"), (name, split)):
        if place and Path(place).expanduser().is_dir():
            return FolderDataset(dataset_id, folder.checked(Path(place).expanduser()), wanted)
    near = difflib.get_close_matches(dataset_id, list(ir_datasets.registry), n=1, cutoff=0.8)
    raise unknown(
        "dataset",
        dataset_id,
        {*SHIPPED, *near},
        "Any ir_datasets id will do, or a folder PATH[:SPLIT]; no such folder was found.",
    )


def training_pairs(dataset: Dataset) -> list[tuple[str, list[str]]]:
    """Query ids in order, each with its positives: the documents of grade above 0 that the corpus has.

    A query without any is left out.
    """
    known = {document.id for document in dataset.documents()}
    qrels = dataset.qrels()
    pairs = []
    for query in dataset.queries():
        positives = [key for key, grade in qrels.get(query.id, {}).items() if grade > 0 and key in known]
        if positives:
            pairs.append((query.id, positives))
    return pairs
