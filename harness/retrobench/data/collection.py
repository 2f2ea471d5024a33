"""A dataset with the hashes of everything in it, each part read once to be hashed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from retrobench.data.datasets import Dataset, digest, load

__all__ = ["Collection", "Corpus", "open_collections"]


@dataclass(frozen=True)
class Corpus:
    """The documents of one or several datasets."""

    dataset: Dataset  # one of those that have these documents

    @cached_property
    def hash(self) -> str:
        """SHA-256 over ids, titles and texts in order, as 64 hexadecimal digits."""
        return self._read[0]

    @cached_property
    def count(self) -> int:
        """The number of documents."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[str, int]:
        counter = itertools.count()

        def rows() -> Iterator[list[str]]:
            for document in self.dataset.documents():
                next(counter)
                yield [document.id, document.title, document.text]

        return digest(rows()), next(counter)


@dataclass(frozen=True)
class Collection:
    """A dataset whose corpus may be shared with other datasets."""

    dataset: Dataset
    corpus: Corpus

    @property
    def id(self) -> str:
        """The dataset's id."""
        return self.dataset.id

    @cached_property
    def queries_hash(self) -> str:
        """SHA-256 over the ids and texts of the queries in order."""
        return self.dataset.queries_fingerprint()

    @cached_property
    def qrels_hash(self) -> str:
        """SHA-256 over the judgements."""
        return self.dataset.qrels_fingerprint()

    @cached_property
    def hash(self) -> str:
        """SHA-256 over documents, queries and judgements."""
        return digest([self.corpus.hash, self.queries_hash, self.qrels_hash])


def open_collections(dataset_ids: Iterable[str]) -> dict[str, Collection]:
    """Return the datasets by id; those with the same documents share one `Corpus`, so it is read once for all."""
    corpora: dict[str, Corpus] = {}
    collections: dict[str, Collection] = {}
    for dataset_id in dataset_ids:
        dataset = load(dataset_id)
        corpus = corpora.setdefault(dataset.corpus_id, Corpus(dataset))
        collections[dataset_id] = Collection(dataset, corpus)
    return collections
