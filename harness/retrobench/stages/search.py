"""Search of a dataset's documents for its queries."""

from __future__ import annotations

from pathlib import Path

from retrobench.retrieval import EXACT, Searcher, retrieve
from retrobench.stages.work import Work
from retrobench.store import Artifact

__all__ = ["search"]


def search(work: Work, dataset_id: str, queries: Artifact, passages: Artifact, depth: int) -> Artifact:
    """Return the best `depth` documents of every query, as `run.trec` and as `rows.npy`, `scores.npy` [Q, k].

    `queries` and `passages` are vectors of the dataset.
    """
    experiment = work.experiment
    name = experiment.entrant.name
    scale = experiment.track.representation.scale
    index = experiment.track.evaluate.index
    exclusions = work.inputs.collections[dataset_id].dataset.exclusions()

    def make(folder: Path) -> dict[str, float]:
        searcher = Searcher(queries.path, passages.path, scale=scale, index=index)
        retrieve(folder, searcher, depth, dataset_id, name, exclusions)
        query_count = float(len(searcher.query_ids))
        document_count = float(len(searcher.ids))
        return {"queries": query_count, "documents": document_count}

    engine = EXACT if index == EXACT else f"faiss {index}"
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
