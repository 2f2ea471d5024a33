"""
Clusters of queries that depend on each other: those about one document, or about documents of one title.

The rule of a dataset says which. Questions about one Wikipedia article are easy or hard together, so intervals that
count them as independent are too short.
"""

from __future__ import annotations

from collections.abc import Mapping

from retrobench.data.datasets import Dataset

__all__ = ["query_clusters"]


def query_clusters(dataset: Dataset) -> dict[str, int]:
    """Return the cluster of each judged query, numbered by first appearance.

    The cluster is that of the query's first relevant document: the smallest id of the highest grade. A query without
    a relevant document is a cluster of its own.
    """
    documents = {query: _first_relevant(grades) for query, grades in dataset.qrels().items()}
    names: dict[str, str] = {}
    if dataset.rule.clusters == "title":
        names = _titles(dataset, {document for document in documents.values() if document is not None})
    numbers: dict[tuple[str, str], int] = {}
    clusters = {}
    for query, document in documents.items():
        key = ("query", query)
        if document is not None:
            key = ("document", names.get(document, document))
        clusters[query] = numbers.setdefault(key, len(numbers))
    return clusters


def _first_relevant(grades: Mapping[str, int]) -> str | None:
    highest = max(grades.values())
    if highest < 1:
        return None
    return min(document for document, grade in grades.items() if grade == highest)


def _titles(dataset: Dataset, documents: set[str]) -> dict[str, str]:
    """Return the titles of these documents, without empty ones."""
    titles = {}
    for document in dataset.documents():
        if document.id in documents and document.title:
            titles[document.id] = document.title
    return titles
