"""Hard negatives: documents that the first round's encoder ranks high and no judgement marks as relevant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from retrobench.core import bar, processes
from retrobench.retrieval import Searcher
from retrobench.stages.tokenised_collection import TokenisedCollection
from retrobench.stages.work import Work
from retrobench.store import Artifact
from retrobench.training import Examples

__all__ = ["candidates", "exclude", "mine"]


def mine(work: Work, texts: TokenisedCollection, queries: Artifact, passages: Artifact) -> Artifact:
    """Return `candidates.npy` [E, depth]: the rows of the highest ranked documents of each training example.

    `queries` and `passages` are vectors of `texts`. Documents that answer the query are dropped. -1 ends a short list.
    """
    track = work.experiment.track
    settings = track.mine
    kind = track.finetune.examples
    label = f"mine {work.experiment.neural.name}"

    def make(folder: Path) -> dict[str, float]:
        examples = texts.examples(kind)
        most_positives = max(len(rows) for rows in examples.relevant)
        depth = settings.skip + settings.depth + most_positives
        with bar(label, len(examples.queries), "queries") as advance:
            searcher = Searcher(queries.path, passages.path, scale=track.representation.scale)
            blocks = (block.rows for block in searcher.blocks(depth, advance=advance))
            rows = candidates(blocks, examples, settings.skip, settings.depth)
        if processes.leads():
            np.save(folder / "candidates.npy", rows)
        return {"queries": float(len(rows))}

    recipe = {
        **asdict(settings),
        "scale": track.representation.scale,
        "examples": kind,
        "judgements": texts.collection.qrels_hash,
    }
    dataset = texts.collection.id
    return work.store.ensure("mine", recipe, [queries, passages], make, dataset=dataset, together=True, label=label)


def candidates(blocks: Iterable[np.ndarray], examples: Examples, skip: int, depth: int) -> np.ndarray:
    """Return each example's negatives by `exclude`, [E, depth], from blocks of the queries' rankings."""
    negatives = np.full((len(examples), depth), -1, np.int32)
    order = np.argsort(examples.query_rows, kind="stable")
    query_rows = examples.query_rows[order]
    first_query = 0
    for ranked in blocks:
        next_query = first_query + len(ranked)
        begin, end = np.searchsorted(query_rows, [first_query, next_query])
        rows = order[begin:end]
        positives = [examples.relevant[row] for row in rows]
        block_rows = query_rows[begin:end] - first_query
        negatives[rows] = exclude(ranked[block_rows], positives, skip, depth)
        first_query = next_query
    return negatives


def exclude(ranked: np.ndarray, positives: list[np.ndarray], skip: int, depth: int) -> np.ndarray:
    """Return the first `depth` negatives of rankings [E, k], after `skip` negatives. -1 ends a short list."""
    negatives = np.full((len(ranked), depth), -1, np.int32)
    for example, (rows, positive_rows) in enumerate(zip(ranked, positives, strict=True)):
        is_negative = ~np.isin(rows, positive_rows)
        negative_rows = rows[is_negative]
        chosen = negative_rows[skip : skip + depth]
        negatives[example, : len(chosen)] = chosen
    return negatives
