"""Hard negatives: what the first round's encoder ranks high and no judgement calls relevant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from retrobench.config import Experiment
from retrobench.core import bar, processes
from retrobench.data import load
from retrobench.retrieval import Searcher
from retrobench.stages.encode import encode
from retrobench.stages.start import start
from retrobench.stages.tokenise import tokenise
from retrobench.store import Artifact, Store
from retrobench.training import Examples, judged

__all__ = ["candidates", "exclude", "mine"]


def mine(x: Experiment, store: Store, encoder: Artifact) -> Artifact:
    """`candidates.npy` [E, depth]: for each example of the sampled training queries the rows of its highest documents,
    without what answers it; -1 where there are fewer."""
    settings, dataset_id, kind = x.track.mine, x.track.finetune.queries, x.track.finetune.examples
    beginning = start(x)
    documents = tokenise(store, beginning, dataset_id, "documents", x.track.finetune.titles)
    queries = tokenise(store, beginning, dataset_id, "queries", sample=settings.queries)
    passages = encode(x, store, encoder, documents, "passage")
    asked = encode(x, store, encoder, queries, "query")

    def make(folder: Path) -> dict[str, float]:
        examples = Examples(queries.path, documents.path, dataset_id, kind)
        most = max(len(found) for found in examples.relevant)
        depth = settings.skip + settings.depth + most
        with bar(f"mine {x.entrant.name}", len(examples.queries), "queries") as advance:
            searcher = Searcher(asked.path, passages.path, scale=x.track.representation.scale)
            found = searcher.blocks(depth, advance=advance)
            rows = candidates((block.rows for block in found), examples, settings.skip, settings.depth)
        if processes.leads():
            np.save(folder / "candidates.npy", rows)
        return {"queries": float(len(rows))}

    recipe = {**asdict(settings), "scale": x.track.representation.scale}
    recipe |= {"examples": kind, "judgements": judged(load(dataset_id))}
    return store.ensure("mine", recipe, [asked, passages], make, together=True, label=f"mine {x.entrant.name}")


def candidates(blocks: Iterable[np.ndarray], examples: Examples, skip: int, depth: int) -> np.ndarray:
    """`exclude` for each example, [E, depth], from rankings of all queries a block at a time, as they are made."""
    out = np.full((len(examples), depth), -1, np.int32)
    order = np.argsort(examples.query_rows, kind="stable")
    asked, done = examples.query_rows[order], 0
    for ranked in blocks:
        begin, end = np.searchsorted(asked, [done, done + len(ranked)])
        some = order[begin:end]
        out[some] = exclude(ranked[asked[begin:end] - done], [examples.relevant[row] for row in some], skip, depth)
        done += len(ranked)
    return out


def exclude(ranked: np.ndarray, positives: list[np.ndarray], skip: int, depth: int) -> np.ndarray:
    """From rankings [E, k]: without each query's own positives and the first `skip` of the rest, `depth` rows or -1."""
    kept = np.full((len(ranked), depth), -1, np.int32)
    for query, (rows, own) in enumerate(zip(ranked, positives, strict=True)):
        rest = rows[~np.isin(rows, own)][skip : skip + depth]
        kept[query, : len(rest)] = rest
    return kept
