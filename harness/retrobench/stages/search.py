"""
The search of a dataset's queries among its documents: what is refused, what is told, what is written.

* search               the stage: every query of a dataset against its documents
* Searcher             queries and passages in folders of vectors, whoever made them, ranked block by block
* retrieve             the ranking of all queries, as a run in a folder
* write_run, read_run  a ranking as a TREC run beside arrays, and back from the arrays
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrobench.config import Experiment
from retrobench.data import load
from retrobench.retrieval import EXACT, Searcher, retrieve
from retrobench.stages.encode import encode
from retrobench.stages.start import start
from retrobench.stages.tokenise import tokenise
from retrobench.store import Artifact, Store

__all__ = ["search"]


def search(x: Experiment, store: Store, encoder: Artifact, dataset_id: str, depth: int) -> Artifact:
    """The best `depth` documents of every query of a dataset, as `run.trec` and as `rows.npy`, `scores.npy` [Q, k]."""
    beginning = start(x)
    documents = tokenise(store, beginning, dataset_id, "documents", x.track.finetune.titles)
    queries = tokenise(store, beginning, dataset_id, "queries")
    passages = encode(x, store, encoder, documents, "passage")
    asked = encode(x, store, encoder, queries, "query")
    drop_self, scale, index = load(dataset_id).rule.drop_self, x.track.representation.scale, x.track.evaluate.index

    def make(folder: Path) -> dict[str, float]:
        searcher = Searcher(asked.path, passages.path, scale=scale, index=index)
        retrieve(folder, searcher, depth, dataset_id, x.entrant.name, drop_self)
        return {"queries": float(len(searcher.query_ids)), "documents": float(len(searcher.ids))}

    recipe: dict[str, Any] = {"depth": depth, "scale": scale, "engine": EXACT if index == EXACT else f"faiss {index}"}
    recipe |= {"drop_self": True} if drop_self else {}
    label = f"search {x.entrant.name} on {dataset_id}"
    return store.ensure("search", recipe, [asked, passages], make, together=index == EXACT, label=label)
