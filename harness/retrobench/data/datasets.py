"""
Documents, queries and judgements, wherever they come from.

* load(id) -> Dataset       an ir_datasets id, retrobench/squad/{train,fit,val,test}, or a folder PATH[:SPLIT]
* local_root()              where such folders are looked up besides the working directory

Title and text are kept apart: the recipe says how they are joined.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from retrobench.data import catalogue, folder, rules
from retrobench.data.embedded import SHIPPED
from retrobench.errors import RetrobenchError, unknown

__all__ = ["Dataset", "Document", "Query", "digest", "load", "local_root"]


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

    @property
    def corpus_id(self) -> str:
        """A name for the documents. Datasets of one name have the same documents."""
        return self.id

    def has(self, entity: str) -> bool:
        """Whether there are any `docs`, `queries`, `qrels` or `docpairs`, as ir_datasets calls them."""
        return True

    @property
    def rule(self) -> rules.Rule:
        """How the dataset is scored."""
        return rules.rule(self.id)

    @property
    def title(self) -> str:
        """The variant of the corpus, where somebody named it."""
        return ""

    def negatives(self) -> Iterator[tuple[str, str]]:
        """Query id and document id of documents known or taken not to answer the query, in the source's order."""
        raise RetrobenchError(f"Dataset {self.id!r} has no negatives of its own.")

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
        return digest([document.id, document.title, document.text] for document in self.documents())

    def queries_fingerprint(self) -> str:
        """SHA-256 over the ids and texts of the queries in order."""
        return digest([query.id, query.text] for query in self.queries())

    def qrels_fingerprint(self) -> str:
        """SHA-256 over the judgements, by query in the source's order and by document id."""
        return digest([query, sorted(grades.items())] for query, grades in self.qrels().items())

    def fingerprint(self) -> str:
        """SHA-256 over documents, queries and judgements, wherever they are kept."""
        return digest([self.corpus_fingerprint(), self.queries_fingerprint(), self.qrels_fingerprint()])


def digest(rows: Iterable[object]) -> str:
    """SHA-256 over rows of JSON values, as 64 hexadecimal digits."""
    # JSON marks where each field ends, so that moving a letter from title to text changes the digest.
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(row).encode() + b"\n")
    return found.hexdigest()


class CatalogueDataset(Dataset):
    """A dataset that ir_datasets knows. A document without a field `text` gives its default text.

    What is not on the disk is downloaded when first read; RetrobenchError where that fails.
    """

    def documents(self) -> Iterator[Document]:
        """The documents in ir_datasets' order."""
        for row in catalogue.reach(self.id, "docs").docs_iter():
            if hasattr(row, "text"):
                yield Document(row.doc_id, getattr(row, "title", None) or "", row.text)
            else:
                yield Document(row.doc_id, "", row.default_text())

    def queries(self) -> Iterator[Query]:
        """The queries in ir_datasets' order."""
        for row in catalogue.reach(self.id, "queries").queries_iter():
            yield Query(row.query_id, row.text if hasattr(row, "text") else row.default_text())

    def document_count(self) -> int:
        """The number that ir_datasets records, without a download, else counted."""
        recorded = catalogue.entry(self.id).docs_count() if self.has("docs") else None
        return int(recorded) if recorded is not None else sum(1 for _ in self.documents())

    def judgements(self) -> Iterator[tuple[str, str, int]]:
        """The judgements in ir_datasets' order."""
        for row in catalogue.reach(self.id, "qrels").qrels_iter():
            yield row.query_id, row.doc_id, row.relevance

    @property
    def corpus_id(self) -> str:
        """The id under which ir_datasets lists the documents."""
        return catalogue.corpus_id(self.id)

    def has(self, entity: str) -> bool:
        """What ir_datasets says."""
        return bool(catalogue.entry(self.id).has(entity))

    def negatives(self) -> Iterator[tuple[str, str]]:
        """The second document of each pair, in ir_datasets' order."""
        for row in catalogue.reach(self.id, "docpairs").docpairs_iter():
            yield row.query_id, row.doc_id_b


@dataclass(frozen=True)
class FolderDataset(Dataset):
    """A collection in a folder: BEIR's layout or tab-separated text (`retrobench.data.folder`)."""

    folder: Path
    split: str

    def documents(self) -> Iterator[Document]:
        """The documents in file order."""
        return itertools.starmap(Document, folder.documents(self.folder))

    def queries(self) -> Iterator[Query]:
        """The queries that the split judges, in the order of its judgements."""
        return itertools.starmap(Query, folder.queries(self.folder, self.split))

    def document_count(self) -> int:
        """The number of lines."""
        return folder.document_count(self.folder)

    @property
    def corpus_id(self) -> str:
        """The folder: its splits share their documents."""
        return str(self.folder.resolve())

    def judgements(self) -> Iterator[tuple[str, str, int]]:
        """The rows of the split's file."""
        return folder.judgements(self.folder, self.split)

    def has(self, entity: str) -> bool:
        """Documents always; queries and judgements where any split has them."""
        return entity == "docs" or (entity in ("queries", "qrels") and bool(folder.splits(self.folder)))

    @property
    def rule(self) -> rules.Rule:
        """What the folder's dataset.toml says."""
        return folder.describe(self.folder, self.split).rule

    @property
    def title(self) -> str:
        """The title in the folder's dataset.toml."""
        return folder.describe(self.folder, self.split).title

    def negatives(self) -> Iterator[tuple[str, str]]:
        """The rows of negatives/SPLIT.tsv."""
        return folder.negatives(self.folder, self.split)


def local_root() -> Path:
    """Where collections lie that were made here: `$RETROBENCH_DATA`, else `collections` under the default store."""
    home = Path(os.environ.get("RETROBENCH_HOME") or "~/.cache/retrobench")
    return Path(os.environ.get("RETROBENCH_DATA") or home / "collections").expanduser()


def load(dataset_id: str) -> Dataset:
    """The dataset of that id; nothing is read or downloaded yet.

    An id of ir_datasets comes before a folder of the same name, which is still to be had as `./NAME`. The parent of
    one of BEIR's sets means the split that papers report (`rules.expand`). A relative folder is looked up in the
    working directory, then under `local_root()`. RetrobenchError where there is neither, and for the shipped collection
    before `retrobench.data.register()`.
    """
    if dataset_id in rules.GROUPS:
        members = ", ".join(rules.GROUPS[dataset_id])
        raise RetrobenchError(f"{dataset_id!r} is a group of datasets, each with its own documents: {members}.")
    meant = rules.expand(dataset_id)[0]
    with contextlib.suppress(KeyError):
        catalogue.entry(meant)
        return CatalogueDataset(meant)
    name, _, split = dataset_id.rpartition(":")
    for place, wanted in ((dataset_id, "test"), (name, split)):
        found = _folder(place)
        if found is not None:
            return FolderDataset(dataset_id, folder.checked(found), wanted)
    raise _unknown(dataset_id)


def _folder(place: str) -> Path | None:
    """The folder of that name in the working directory or under `local_root()`."""
    named = Path(place).expanduser()
    return next((path for path in (named, local_root() / named) if place and path.is_dir()), None)


def _unknown(dataset_id: str) -> RetrobenchError:
    from retrobench.data.build import BUILDERS

    for name in (dataset_id, dataset_id.rpartition(":")[0]):
        if name in BUILDERS:
            return RetrobenchError(
                f"The collection {name!r} is not there yet: no such folder here or in {local_root()}. "
                f"`retrobench data fetch {name}` makes it."
            )
    near = difflib.get_close_matches(dataset_id, catalogue.ids(), n=1, cutoff=0.8)
    return unknown(
        "dataset",
        dataset_id,
        {*SHIPPED, *near},
        "Any ir_datasets id will do, or a folder PATH[:SPLIT]; no such folder was found. "
        f"Looked here and in {local_root()}.",
    )
