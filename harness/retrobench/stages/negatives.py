"""Hard negatives that a dataset brings along: what the first round trains against beside the rest of its batch."""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path

import numpy as np

from retrobench.config import Experiment
from retrobench.core import file_hash
from retrobench.data import Dataset, FolderDataset, load
from retrobench.errors import RetrobenchError
from retrobench.stages.start import start
from retrobench.stages.tokenise import tokenise
from retrobench.store import Artifact, Store
from retrobench.training import Examples, grouped, judged

__all__ = ["negatives"]


def negatives(x: Experiment, store: Store) -> Artifact | None:
    """`candidates.npy` [E, depth]: for each training example the rows of its dataset's own negatives, without what
    answers the query; -1 where there are fewer. None where the track asks for none (`finetune.hard`)."""
    settings = x.track.finetune
    if not settings.hard:
        return None
    beginning, source = start(x), load(settings.hard)
    documents = tokenise(store, beginning, settings.queries, "documents", settings.titles)
    queries = tokenise(store, beginning, settings.queries, "queries")

    def make(folder: Path) -> dict[str, float]:
        examples = Examples(queries.path, documents.path, settings.queries, settings.examples)
        query_of = {name: row for row, name in enumerate(examples.queries.ids)}
        row_of = {name: row for row, name in enumerate(examples.documents.ids)}
        relevant = dict(zip(examples.query_rows.tolist(), (set(of.tolist()) for of in examples.relevant), strict=True))
        kept: tuple[array[int], array[int]] = array("i"), array("i")
        counts = np.zeros(len(query_of), np.int64)
        for query, document in source.negatives():
            asked, found = query_of.get(query, -1), row_of.get(document, -1)
            full = settings.hard_depth and counts[asked] == settings.hard_depth
            if asked < 0 or found < 0 or full or found in relevant.get(asked, ()):
                continue
            counts[asked] += 1
            kept[0].append(asked)
            kept[1].append(found)
        if not len(kept[0]):
            raise RetrobenchError(
                f"The negatives of {settings.hard!r} name no query and document of {settings.queries!r}. Check the ids."
            )
        by_query = grouped(np.asarray(kept[0]), len(query_of), np.asarray(kept[1], np.int32), -1)
        candidates = by_query[examples.query_rows]
        np.save(folder / "candidates.npy", candidates)
        return {"queries": float(len(query_of)), "without": float((candidates < 0).all(1).sum())}

    recipe = {"negatives": _fingerprint(source), "depth": settings.hard_depth, "examples": settings.examples}
    recipe |= {"judgements": judged(load(settings.queries))}
    return store.ensure("negatives", recipe, [documents, queries], make, label=f"negatives of {settings.hard}")


def _fingerprint(source: Dataset) -> str:
    """A hash of a folder's file. What ir_datasets publishes under an id does not change."""
    if not isinstance(source, FolderDataset):
        return source.id
    digest = hashlib.sha256()
    for file in sorted((source.folder / "negatives").glob(f"{source.split}.tsv*")):
        digest.update(bytes.fromhex(file_hash(file)))
    return digest.hexdigest()
