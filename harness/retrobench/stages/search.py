"""Search of a dataset's documents for its queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrobench.core import processes
from retrobench.retrieval import EXACT, Searcher, retrieve
from retrobench.scoring import write_metadata
from retrobench.stages.work import Work
from retrobench.store import Artifact

__all__ = ["search"]


def search(work: Work, dataset_id: str, queries: Artifact, passages: Artifact, depth: int) -> Artifact:
    """Return the best `depth` documents of every query, as `run.trec` and as `rows.npy`, `scores.npy` [Q, k].

    `ir_metadata.yaml` says how the run was made. `queries` and `passages` are vectors of the dataset.
    """
    experiment = work.experiment
    name = experiment.entrant.name
    scale = experiment.track.representation.scale
    index = experiment.track.evaluate.index
    collection = work.inputs.collections[dataset_id]
    exclusions = collection.dataset.exclusions()

    engine = EXACT if index == EXACT else f"faiss {index}"

    def make(folder: Path) -> dict[str, float]:
        searcher = Searcher(queries.path, passages.path, scale=scale, index=index)
        retrieve(folder, searcher, depth, dataset_id, name, exclusions)
        if processes.leads():
            hashes = {"corpus": collection.corpus.hash, "queries": collection.queries_hash}
            method = {**_method(work, queries, passages), "depth": depth, "engine": engine}
            write_metadata(folder, name, collection.dataset, method, hashes, _training(work))
        query_count = float(len(searcher.query_ids))
        document_count = float(len(searcher.ids))
        return {"queries": query_count, "documents": document_count}

    recipe = {"depth": depth, "scale": scale, "engine": engine, **exclusions.settings()}
    return work.store.ensure(
        "search",
        recipe,
        [queries, passages],
        make,
        dataset=dataset_id,
        together=index == EXACT,
        label=f"search {name} on {dataset_id}",
    )


def _method(work: Work, queries: Artifact, passages: Artifact) -> dict[str, Any]:
    """Return the objective with its settings, and the artifacts behind the ranking."""
    entrant = work.experiment.neural
    return {
        "name": entrant.name,
        "objective": entrant.kind,
        "settings": entrant.settings,
        "representation": entrant.representation,
        "seed": work.experiment.seed,
        "encoder": queries.sources[0].key,
        "query vectors": queries.key,
        "passage vectors": passages.key,
    }


def _training(work: Work) -> dict[str, str]:
    """Return the purpose of each dataset that the training read."""
    purposes = dict.fromkeys(work.experiment.corpora, "pre-training")
    name = work.experiment.track.finetune.queries
    purposes[name] = ", ".join(filter(None, [purposes.get(name), "fine-tuning"]))
    return purposes
