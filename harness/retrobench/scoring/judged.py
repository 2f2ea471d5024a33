"""Judged documents: which they are, and rankings of them alone.

* judged_documents(qrels)   each document that is judged for any query
* unanswerable(qrels)       queries without a relevant document
* condensed(...)            lists without the hits that are not judged for their query
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["condensed", "judged_documents", "unanswerable"]


def judged_documents(qrels: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return each document that is judged for any query, in the order of the judgements."""
    documents: dict[str, None] = {}
    for grades in qrels.values():
        documents.update(dict.fromkeys(grades))
    return list(documents)


def unanswerable(qrels: Mapping[str, Mapping[str, int]], level: int = 1) -> list[str]:
    """Return the judged queries without a document of that grade or above; they count 0 in every mean."""
    queries = []
    for query, grades in qrels.items():
        highest = max(grades.values(), default=0)
        if highest < level:
            queries.append(query)
    return queries


def condensed(
    queries: Sequence[str], hits: np.ndarray, ids: Sequence[str], qrels: Mapping[str, Mapping[str, int]]
) -> np.ndarray:
    """Return the lists [Q, k] without the hits that are not judged for their query (Sakai, SIGIR 2007)."""
    row_of_id = {identifier: row for row, identifier in enumerate(ids)}
    lists = np.full(hits.shape, -1, np.int32)
    for position, query in enumerate(queries):
        judged_rows = [row_of_id[document] for document in qrels.get(query, {}) if document in row_of_id]
        kept = hits[position][np.isin(hits[position], judged_rows)]
        lists[position, : len(kept)] = kept
    return lists
