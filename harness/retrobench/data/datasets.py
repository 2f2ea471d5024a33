"""
Documents, queries and judgements from ir_datasets, from the shipped collection or from a folder.

* load(id) -> Dataset       an ir_datasets id, retrobench/squad/{train,fit,val,test}, or a folder PATH[:SPLIT]
* local_root()              the folder searched for relative paths after the working directory

A document keeps its title apart from its text. The track says how the two are joined.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrobench.data import catalogue, folder, groups, rules
from retrobench.data.embedded import SHIPPED
from retrobench.data.identifiers import LARGEST_GRADE, TOO_LARGE, checked_ids
from retrobench.data.tables import IdPair, Judgement
from retrobench.errors import RetrobenchError, unknown

__all__ = ["Dataset", "Document", "Exclusions", "Query", "digest", "load", "local_root"]


@dataclass(frozen=True)
class Document:
    """A unit of retrieval. The title is empty where the collection has none."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Query:
    """A question to the collection."""

    id: str
    text: str


@dataclass(frozen=True)
class Exclusions:
    """The documents that a dataset's rule removes from a query's ranking before it is cut."""

    own: bool = False  # the document with the query's id
    documents: Mapping[str, frozenset[str]] = field(default_factory=dict)  # query id -> ids of excluded documents

    def __bool__(self) -> bool:
        return self.own or bool(self.documents)

    def settings(self) -> dict[str, object]:
        """Return the exclusions as settings of a cache key."""
        settings: dict[str, object] = {"drop_self": self.own}
        if self.documents:
            settings["excluded"] = digest([query, sorted(documents)] for query, documents in self.documents.items())
        return settings


@dataclass(frozen=True)
class Dataset(ABC):
    """A collection with its queries and judgements. Every call reads the source again."""

    id: str

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """Yield the documents in the source's order."""

    @abstractmethod
    def queries(self) -> Iterator[Query]:
        """Yield the queries in the source's order."""

    @abstractmethod
    def document_count(self) -> int:
        """Return the number of documents, without reading their texts where the source allows it."""

    @abstractmethod
    def judgements(self) -> Iterable[Judgement]:
        """Return query id, document id and grade of each judgement in the source's order."""

    @property
    def corpus_id(self) -> str:
        """Return a name for the documents. Datasets with equal names have equal documents."""
        return self.id

    def has(self, entity: str) -> bool:
        """Tell whether the dataset has `docs`, `queries`, `qrels` or `docpairs`, in ir_datasets' words."""
        return True

    @property
    def rule(self) -> rules.Rule:
        """Return the rule by which the dataset is scored."""
        return rules.rule(self.id)

    @property
    def title(self) -> str:
        """Return the name of the corpus variant, empty where it has none."""
        return ""

    @property
    def language(self) -> str:
        """Return the language of the documents in two letters, such as `en`; empty where it is unknown."""
        return "en"

    def negatives(self) -> Iterator[IdPair]:
        """Yield query id and document id of documents listed as not relevant, in the source's order."""
        raise RetrobenchError(f"Dataset {self.id!r} has no negatives of its own.")

    def qrels(self) -> dict[str, dict[str, int]]:
        """Return the judgements as query id -> document id -> grade.

        Raise RetrobenchError for a pair judged twice with different grades, since tools differ in the grade they use,
        and for a grade that is too large.
        """
        qrels: dict[str, dict[str, int]] = {}
        for query_id, document_id, grade in self.judgements():
            if abs(grade) > LARGEST_GRADE:
                raise RetrobenchError(
                    f"{self.id} has {TOO_LARGE}: {grade} for query {query_id!r} and document {document_id!r}. "
                    "Mend its judgements."
                )
            grades = qrels.setdefault(query_id, {})
            first_grade = grades.setdefault(document_id, grade)
            if first_grade != grade:
                raise RetrobenchError(
                    f"{self.id} judges query {query_id!r} and document {document_id!r} twice, "
                    f"as {first_grade} and as {grade}; remove one of the two."
                )
        return qrels

    def exclusions(self) -> Exclusions:
        """Return the documents that the rule removes from the queries' rankings."""
        grade = self.rule.excluded_grade
        if grade is None:
            return Exclusions(self.rule.drop_self)
        documents: dict[str, frozenset[str]] = {}
        for query_id, grades in self.qrels().items():
            excluded = [document_id for document_id in grades if grades[document_id] == grade]
            if excluded:
                documents[query_id] = frozenset(excluded)
        return Exclusions(self.rule.drop_self, documents)

    def find_documents(self, document_ids: Collection[str]) -> dict[str, Document]:
        """Return the documents with these ids, without the ids that the corpus lacks.

        The corpus is read up to the last of them where the source has no index of its ids.
        """
        wanted = set(document_ids)
        documents: dict[str, Document] = {}
        if not wanted:
            return documents
        for document in self.documents():
            if document.id in wanted:
                documents[document.id] = document
                if len(documents) == len(wanted):
                    break
        return documents

    def limit_facts(self) -> dict[str, object]:
        """Return the facts of a row by which a part of the dataset is found again; none for the whole dataset."""
        return {}

    def query_count(self) -> int:
        """Return the number of queries."""
        return sum(1 for _ in self.queries())

    def corpus_fingerprint(self) -> str:
        """Return the SHA-256 over ids, titles and texts of the documents in order, as 64 hexadecimal digits.

        Raise RetrobenchError for an id that no TREC file can carry.
        """
        documents = checked_ids(self.documents(), self.id, "document")
        return digest([document.id, document.title, document.text] for document in documents)

    def queries_fingerprint(self) -> str:
        """Return the SHA-256 over the ids and texts of the queries in order.

        Raise RetrobenchError for an id that no TREC file can carry.
        """
        queries = checked_ids(self.queries(), self.id, "query")
        return digest([query.id, query.text] for query in queries)

    def qrels_fingerprint(self) -> str:
        """Return the SHA-256 over the judgements, by query in the source's order and by document id."""
        return qrels_digest(self.qrels())

    def fingerprint(self) -> str:
        """Return the SHA-256 over documents, queries and judgements. It does not depend on their storage."""
        return digest([self.corpus_fingerprint(), self.queries_fingerprint(), self.qrels_fingerprint()])


def digest(rows: Iterable[object]) -> str:
    """Return the SHA-256 over rows of JSON values, as 64 hexadecimal digits."""
    # JSON marks where each field ends, so that moving a letter from title to text changes the digest.
    sha256 = hashlib.sha256()
    for row in rows:
        sha256.update(json.dumps(row).encode() + b"\n")
    return sha256.hexdigest()


def qrels_digest(qrels: Mapping[str, Mapping[str, int]]) -> str:
    """Return the SHA-256 over judgements, by query in their order and by document id."""
    return digest([query_id, sorted(grades.items())] for query_id, grades in qrels.items())


class CatalogueDataset(Dataset):
    """A dataset of ir_datasets. For a document without a field `text`, its default text is read.

    The first reading downloads missing files, and raises RetrobenchError where the download fails.
    """

    def documents(self) -> Iterator[Document]:
        """Yield the documents in ir_datasets' order."""
        for row in catalogue.reach(self.id, "docs").docs_iter():
            yield _catalogue_document(row)

    def find_documents(self, document_ids: Collection[str]) -> dict[str, Document]:
        """Return the documents with these ids from ir_datasets' store, without reading the others."""
        source = catalogue.reach(self.id, "docs")
        if not hasattr(source, "docs_store"):
            return super().find_documents(document_ids)
        rows = source.docs_store().get_many_iter(list(document_ids))
        documents = map(_catalogue_document, rows)
        return {document.id: document for document in documents}

    def queries(self) -> Iterator[Query]:
        """Yield the queries in ir_datasets' order."""
        for row in catalogue.reach(self.id, "queries").queries_iter():
            text = row.text if hasattr(row, "text") else row.default_text()
            yield Query(row.query_id, text)

    def document_count(self) -> int:
        """Return ir_datasets' recorded number without a download, and count only where it has no record."""
        if self.has("docs"):
            recorded = catalogue.entry(self.id).docs_count()
            if recorded is not None:
                return int(recorded)
        return sum(1 for _ in self.documents())

    def judgements(self) -> Iterator[Judgement]:
        """Yield the judgements in ir_datasets' order."""
        for row in catalogue.reach(self.id, "qrels").qrels_iter():
            yield row.query_id, row.doc_id, row.relevance

    @property
    def corpus_id(self) -> str:
        """Return the id under which ir_datasets lists the documents."""
        return catalogue.corpus_id(self.id)

    @property
    def language(self) -> str:
        """Return the language that ir_datasets records."""
        return str(catalogue.entry(self.id).docs_lang() or "")

    def has(self, entity: str) -> bool:
        """Tell whether ir_datasets has the entity."""
        return bool(catalogue.entry(self.id).has(entity))

    def negatives(self) -> Iterator[IdPair]:
        """Yield query id and second document of each pair, in ir_datasets' order."""
        for row in catalogue.reach(self.id, "docpairs").docpairs_iter():
            yield row.query_id, row.doc_id_b


def _catalogue_document(row: Any) -> Document:
    if hasattr(row, "text"):
        return Document(row.doc_id, getattr(row, "title", None) or "", row.text)
    return Document(row.doc_id, "", row.default_text())


@dataclass(frozen=True)
class FolderDataset(Dataset):
    """A collection in a folder: BEIR's layout or tab-separated text (`retrobench.data.folder`)."""

    folder: Path
    split: str

    def documents(self) -> Iterator[Document]:
        """Yield the documents in file order."""
        return itertools.starmap(Document, folder.documents(self.folder))

    def queries(self) -> Iterator[Query]:
        """Yield the queries that the split judges, in the order of its judgements."""
        return itertools.starmap(Query, folder.queries(self.folder, self.split))

    def document_count(self) -> int:
        """Return the number of lines of the corpus."""
        return folder.document_count(self.folder)

    @property
    def corpus_id(self) -> str:
        """Return the folder: its splits share their documents."""
        return str(self.folder.resolve())

    def judgements(self) -> Iterator[Judgement]:
        """Yield the rows of the split's file."""
        return folder.judgements(self.folder, self.split)

    def has(self, entity: str) -> bool:
        """Return True for documents, and for queries and judgements where any split has judgements."""
        if entity == "docs":
            return True
        return entity in ("queries", "qrels") and bool(folder.splits(self.folder))

    @property
    def rule(self) -> rules.Rule:
        """Return the rule in the folder's dataset.toml."""
        return folder.describe(self.folder, self.split).rule

    @property
    def language(self) -> str:
        """Return the language in the folder's dataset.toml, by default English."""
        return folder.describe(self.folder, self.split).language

    @property
    def title(self) -> str:
        """Return the title in the folder's dataset.toml."""
        return folder.describe(self.folder, self.split).title

    def negatives(self) -> Iterator[IdPair]:
        """Yield the rows of negatives/SPLIT.tsv."""
        return folder.negatives(self.folder, self.split)


def local_root() -> Path:
    """Return the folder of collections made on this machine.

    It is `$RETROBENCH_DATA`, else `collections` under the default store.
    """
    store = Path(os.environ.get("RETROBENCH_HOME") or "~/.cache/retrobench")
    return Path(os.environ.get("RETROBENCH_DATA") or store / "collections").expanduser()


def load(dataset_id: str) -> Dataset:
    """Return the dataset with an id, without reading or downloading anything yet.

    An id of ir_datasets takes precedence over a folder of that name; `./NAME` names the folder. The parent id of a
    BEIR set means the split that papers report (`groups.expand`). A relative folder is searched in the working
    directory, then under `local_root()`. Raise RetrobenchError for an unknown id, and for the shipped collection before
    `retrobench.data.register()`.
    """
    if dataset_id in groups.GROUPS and not catalogue.has_documents(dataset_id):
        members = ", ".join(groups.GROUPS[dataset_id].members)
        raise RetrobenchError(f"{dataset_id!r} is a group of datasets, each with its own documents: {members}.")
    catalogue_id = groups.SPLITS.get(dataset_id, dataset_id)
    with contextlib.suppress(KeyError):
        catalogue.entry(catalogue_id)
        return CatalogueDataset(catalogue_id)
    path = _local_folder(dataset_id)
    if path is not None:
        return FolderDataset(dataset_id, folder.checked(path), "test")
    name, _, split = dataset_id.rpartition(":")
    path = _local_folder(name)
    if path is not None:
        return FolderDataset(dataset_id, folder.checked(path), split)
    raise _unknown(dataset_id)


def _local_folder(name: str) -> Path | None:
    """Return the folder of that name in the working directory or under `local_root()`."""
    if not name:
        return None
    path = Path(name).expanduser()
    for candidate in (path, local_root() / path):
        if candidate.is_dir():
            return candidate
    return None


def _unknown(dataset_id: str) -> RetrobenchError:
    from retrobench.data.build import BUILDERS

    for name in (dataset_id, dataset_id.rpartition(":")[0]):
        if name in BUILDERS:
            return RetrobenchError(
                f"The collection {name!r} is not there yet: no such folder here or in {local_root()}. "
                f"`retrobench data fetch {name}` makes it."
            )
    similar_ids = difflib.get_close_matches(dataset_id, catalogue.ids(), n=1, cutoff=0.8)
    return unknown(
        "dataset",
        dataset_id,
        {*SHIPPED, *similar_ids},
        "Any ir_datasets id will do, or a folder PATH[:SPLIT]; no such folder was found. "
        f"Looked here and in {local_root()}.",
    )
