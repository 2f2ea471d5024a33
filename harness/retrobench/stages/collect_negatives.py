"""A dataset's own hard negatives. The first round trains against them and the in-batch negatives."""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path

import numpy as np

from retrobench.core import file_hash
from retrobench.data import Dataset, FolderDataset
from retrobench.errors import RetrobenchError
from retrobench.stages.tokenised_collection import TokenisedCollection
from retrobench.stages.work import Work
from retrobench.store import Artifact
from retrobench.training import Examples, grouped

__all__ = ["collect_negatives"]


def collect_negatives(work: Work, texts: TokenisedCollection) -> Artifact:
    """Return `candidates.npy` [E, depth]: the rows of the dataset's negatives for each training example.

    Documents that answer the query are dropped. -1 ends a short list.
    """
    settings = work.experiment.track.finetune
    source = work.inputs.collections[settings.hard].dataset
    training_id = texts.collection.id

    def make(folder: Path) -> dict[str, float]:
        examples = texts.examples(settings.examples)
        by_query = _read_negatives(source, examples, settings.hard_depth)
        if by_query is None:
            raise RetrobenchError(
                f"The negatives of {source.id!r} name no query and document of {training_id!r}. Check the ids."
            )
        candidates = by_query[examples.query_rows]
        np.save(folder / "candidates.npy", candidates)
        without_negatives = (candidates < 0).all(1).sum()
        return {"queries": float(len(by_query)), "without": float(without_negatives)}

    recipe = {
        "negatives": _fingerprint(source),
        "depth": settings.hard_depth,
        "examples": settings.examples,
        "judgements": texts.collection.qrels_hash,
    }
    sources = [texts.documents, texts.queries]
    return work.store.ensure("negatives", recipe, sources, make, dataset=training_id, label=f"negatives of {source.id}")


def _read_negatives(source: Dataset, examples: Examples, depth: int) -> np.ndarray | None:
    """Return the document rows of each query's first `depth` (0: all) negatives, [Q, D]; None without negatives."""
    query_row = {name: row for row, name in enumerate(examples.queries.ids)}
    document_row = {name: row for row, name in enumerate(examples.documents.ids)}
    relevant = examples.relevant_by_query()
    queries = array("i")
    documents = array("i")
    counts = np.zeros(len(query_row), np.int64)
    for query_id, document_id in source.negatives():
        query = query_row.get(query_id, -1)
        document = document_row.get(document_id, -1)
        if query < 0 or document < 0 or document in relevant.get(query, ()):
            continue
        if depth and counts[query] == depth:
            continue
        counts[query] += 1
        queries.append(query)
        documents.append(document)
    if not queries:
        return None
    query_rows = np.asarray(queries)
    document_rows = np.asarray(documents, np.int32)
    return grouped(query_rows, len(query_row), document_rows, -1)


def _fingerprint(source: Dataset) -> str:
    """Return a hash of a folder's file, or the id of a published dataset, since that never changes."""
    if not isinstance(source, FolderDataset):
        return source.id
    digest = hashlib.sha256()
    for file in sorted((source.folder / "negatives").glob(f"{source.split}.tsv*")):
        digest.update(bytes.fromhex(file_hash(file)))
    return digest.hexdigest()
