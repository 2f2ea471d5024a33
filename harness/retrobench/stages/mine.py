"""Hard negatives: documents that the first round's encoder ranks high and no judgement calls relevant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from retrobench.core import bar, processes
from retrobench.retrieval import Searcher
from retrobench.stages.training_texts import TrainingTexts
from retrobench.stages.work import Work
from retrobench.store import Artifact
from retrobench.training import Examples

__all__ = ["candidates", "exclude", "mine"]


def mine(work: Work, texts: TrainingTexts, queries: Artifact, passages: Artifact) -> Artifact:
    """Return `candidates.npy` [E, depth]: the rows of the highest ranked documents of each training example.

    `queries` and `passages` are vectors of `texts`. Documents that answer the query are left out; -1 ends a short list.
    """
    track, entrant = work.experiment.track, work.experiment.neural
    settings, kind = track.mine, track.finetune.examples
    label = f"mine {entrant.name}"

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
    """Return `exclude` for each example, [E, depth], from rankings of all queries, a block of queries at a time."""
    out = np.full((len(examples), depth), -1, np.int32)
    order = np.argsort(examples.query_rows, kind="stable")
    query_rows = examples.query_rows[order]
    first_query = 0
    for ranked in blocks:
        begin, end = np.searchsorted(query_rows, [first_query, first_query + len(ranked)])
        rows = order[begin:end]
        positives = [examples.relevant[row] for row in rows]
        out[rows] = exclude(ranked[query_rows[begin:end] - first_query], positives, skip, depth)
        first_query += len(ranked)
    return out


def exclude(ranked: np.ndarray, positives: list[np.ndarray], skip: int, depth: int) -> np.ndarray:
    """Return rankings [E, k] without each query's positives and the first `skip` others: `depth` rows each, or -1."""
    out = np.full((len(ranked), depth), -1, np.int32)
    for query, (rows, own) in enumerate(zip(ranked, positives, strict=True)):
        others = rows[~np.isin(rows, own)][skip : skip + depth]
        out[query, : len(others)] = others
    return out
