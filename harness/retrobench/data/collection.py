"""A dataset with the hashes of its documents, queries and judgements. Hashing reads each of the three once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from retrobench.data.datasets import Dataset, digest, load
from retrobench.data.identifiers import checked_ids
from retrobench.data.limited import limit_datasets
from retrobench.data.tokens import TextRow

__all__ = ["Collection", "Corpus", "document_rows", "open_collections", "query_rows"]


def document_rows(dataset: Dataset) -> Iterator[TextRow]:
    """Yield id, title and text of each document."""
    for document in dataset.documents():
        yield document.id, document.title, document.text


def query_rows(dataset: Dataset) -> Iterator[TextRow]:
    """Yield id, an empty title and the text of each query."""
    for query in dataset.queries():
        yield query.id, "", query.text


@dataclass(frozen=True)
class Corpus:
    """The documents that one or several datasets share."""

    dataset: Dataset  # any of the datasets that share the documents

    @cached_property
    def hash(self) -> str:
        """Return the SHA-256 over ids, titles and texts in order, as 64 hexadecimal digits."""
        return self._hash_and_count[0]

    @cached_property
    def count(self) -> int:
        """Return the number of documents."""
        return self._hash_and_count[1]

    @cached_property
    def _hash_and_count(self) -> tuple[str, int]:
        count = 0

        def rows() -> Iterator[list[str]]:
            nonlocal count
            for document in checked_ids(self.dataset.documents(), self.dataset.id, "document"):
                count += 1
                yield [document.id, document.title, document.text]

        sha256 = digest(rows())
        return sha256, count


@dataclass(frozen=True)
class Collection:
    """A dataset whose corpus may be shared with other datasets."""

    dataset: Dataset
    corpus: Corpus

    @property
    def id(self) -> str:
        """Return the dataset's id."""
        return self.dataset.id

    @cached_property
    def queries_hash(self) -> str:
        """Return the SHA-256 over the ids and texts of the queries in order."""
        return self.dataset.queries_fingerprint()

    @cached_property
    def qrels_hash(self) -> str:
        """Return the SHA-256 over the judgements."""
        return self.dataset.qrels_fingerprint()

    @cached_property
    def hash(self) -> str:
        """Return the SHA-256 over documents, queries and judgements."""
        return digest([self.corpus.hash, self.queries_hash, self.qrels_hash])

    def check(self) -> None:
        """Read all documents, queries and judgements. RetrobenchError for an id or a grade that tools cannot read."""
        _ = self.hash


def open_collections(
    dataset_ids: Iterable[str], limit: int = 0, judged_ids: Iterable[str] = ()
) -> dict[str, Collection]:
    """Return the datasets by id. Datasets with equal documents share one `Corpus`, so each corpus is read once.

    `limit` cuts each dataset to so many documents and so many questions, by the questions of all `judged_ids`, as
    `limit_datasets` does; 0 keeps all.
    """
    datasets = {dataset_id: load(dataset_id) for dataset_id in dataset_ids}
    if limit:
        datasets = limit_datasets(datasets, limit, judged_ids)
    corpora: dict[str, Corpus] = {}
    collections: dict[str, Collection] = {}
    for dataset_id, dataset in datasets.items():
        corpus = corpora.setdefault(dataset.corpus_id, Corpus(dataset))
        collections[dataset_id] = Collection(dataset, corpus)
    return collections
