"""Hard negatives: what the first round's encoder ranks high and no judgement calls relevant."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrobench.experiment import Experiment
from retrobench.progress import bar
from retrobench.stages.encode import encode
from retrobench.stages.finetune import Examples
from retrobench.stages.search import blocks
from retrobench.stages.start import start
from retrobench.stages.tokenise import tokenise
from retrobench.store import Artifact, Store

__all__ = ["exclude", "mine"]


def mine(x: Experiment, store: Store, encoder: Artifact) -> Artifact:
    """`candidates.npy` [E, depth]: for each of the sampled training queries the rows of its highest documents, without
    any of its own positives; -1 where there are fewer."""
    settings, dataset_id = x.track.mine, x.track.finetune.queries
    beginning = start(x)
    documents = tokenise(store, beginning, dataset_id, "documents", x.track.finetune.titles)
    queries = tokenise(store, beginning, dataset_id, "queries", sample=settings.queries)
    passages = encode(x, store, encoder, documents, "passage")
    asked = encode(x, store, encoder, queries, "query")

    def make(folder: Path) -> dict[str, float]:
        examples = Examples(queries.path, documents.path, dataset_id)
        most = max(len(found) for found in examples.positives)
        depth, found = settings.skip + settings.depth + most, []
        with bar(f"mine {x.entrant.name}", len(examples.queries), "queries") as advance:
            for rows, _ in blocks(
                asked.path, passages.path, examples.documents.ids, depth, x.track.representation.scale
            ):
                found.append(rows)
                advance(len(rows))
        ranked = np.concatenate(found)[examples.query_rows]
        np.save(folder / "candidates.npy", exclude(ranked, examples.positives, settings.skip, settings.depth))
        return {"queries": float(len(ranked))}

    recipe = {"depth": settings.depth, "skip": settings.skip, "scale": x.track.representation.scale}
    return store.ensure("mine", recipe, [asked, passages], make, label=f"mine {x.entrant.name}")


def exclude(ranked: np.ndarray, positives: list[np.ndarray], skip: int, depth: int) -> np.ndarray:
    """From rankings [E, k]: without each query's own positives and the first `skip` of the rest, `depth` rows or -1."""
    kept = np.full((len(ranked), depth), -1, np.int32)
    for query, (rows, own) in enumerate(zip(ranked, positives, strict=True)):
        rest = rows[~np.isin(rows, own)][skip : skip + depth]
        kept[query, : len(rest)] = rest
    return kept
