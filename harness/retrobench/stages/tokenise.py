"""Tokenisation of texts, once per collection and tokenizer. All objectives share the tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from retrobench.config import Titles
from retrobench.core import bar
from retrobench.data import (
    Collection,
    Corpus,
    TextRow,
    TokenisedTexts,
    document_rows,
    query_rows,
    write_tokens,
)
from retrobench.errors import RetrobenchError
from retrobench.model import load_tokenizer
from retrobench.stages.tokenised_collection import TokenisedCollection
from retrobench.stages.work import Work, once
from retrobench.store import Artifact

__all__ = ["sample_queries", "tokenise", "tokenise_documents", "tokenise_queries"]


def tokenise(work: Work, collection: Collection, titles: Titles) -> TokenisedCollection:
    """Return a collection with its documents and queries, tokenised."""
    documents = tokenise_documents(work, collection.corpus, titles)
    return TokenisedCollection(collection, documents, tokenise_queries(work, collection))


@once
def tokenise_documents(work: Work, corpus: Corpus, titles: Titles) -> Artifact:
    """Return the documents of a corpus as `TokenisedTexts`, with or without their titles."""
    separated = titles == "[SEP]"
    dataset = corpus.dataset
    label = f"tokenise {dataset.id} documents"

    def texts() -> Iterator[TextRow]:
        for document_id, title, text in document_rows(dataset):
            yield document_id, title if titles else "", text

    def make(folder: Path) -> dict[str, float]:
        with bar(label, corpus.count, "documents") as advance:
            return write_tokens(folder, texts(), load_tokenizer(work.tokenizer.path), advance, separated)

    settings = {"documents": corpus.hash, "titles": bool(titles), "separated": separated}
    return work.store.ensure(
        "tokenise", settings, [work.tokenizer], make, dataset=dataset.id, detail="documents", label=label
    )


@once
def tokenise_queries(work: Work, collection: Collection) -> Artifact:
    """Return the queries of a collection as `TokenisedTexts`."""
    label = f"tokenise {collection.id} queries"

    def make(folder: Path) -> dict[str, float]:
        return _write_queries(folder, list(query_rows(collection.dataset)), work, collection, label)

    settings = {"queries": collection.queries_hash}
    return work.store.ensure(
        "tokenise", settings, [work.tokenizer], make, dataset=collection.id, detail="queries", label=label
    )


def sample_queries(work: Work, texts: TokenisedCollection) -> Artifact:
    """Return `mine.queries` training queries that have a relevant document, as `TokenisedTexts`.

    The draw depends on the collection alone, so every entrant gets the same queries.
    """
    collection = texts.collection
    sample = work.experiment.track.mine.queries
    label = f"tokenise {sample:,} of {collection.id} queries"

    def make(folder: Path) -> dict[str, float]:
        document_ids = set(TokenisedTexts.open(texts.documents.path).ids)
        qrels = collection.dataset.qrels()
        useful = []
        for query in collection.dataset.queries():
            if _has_answer(qrels.get(query.id, {}), document_ids):
                useful.append((query.id, "", query.text))
        random = np.random.default_rng(0)
        drawn_rows = random.permutation(len(useful))[:sample]
        sampled = [useful[row] for row in np.sort(drawn_rows)]
        return _write_queries(folder, sampled, work, collection, label)

    settings = {"queries": collection.queries_hash, "judgements": collection.qrels_hash, "sample": sample}
    sources = [work.tokenizer, texts.documents]
    return work.store.ensure(
        "tokenise", settings, sources, make, dataset=collection.id, detail="sampled queries", label=label
    )


def _has_answer(grades: dict[str, int], document_ids: set[str]) -> bool:
    return any(grade > 0 and document in document_ids for document, grade in grades.items())


def _write_queries(
    folder: Path, texts: list[TextRow], work: Work, collection: Collection, label: str
) -> dict[str, float]:
    if not texts:
        raise RetrobenchError(
            f"Dataset {collection.id!r} holds no queries; there is nothing to run on. Check its files."
        )
    with bar(label, len(texts), "queries") as advance:
        return write_tokens(folder, texts, load_tokenizer(work.tokenizer.path), advance)
