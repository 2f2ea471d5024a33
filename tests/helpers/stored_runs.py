"""Finished searches in a store, from rankings by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from retrobench.scoring import write_run
from retrobench.scoring.ranking import Ranking
from retrobench.store.entries import Entry, Recipe


def write_search(store: Path, key: str, run: Mapping[str, Sequence[str]]) -> None:
    """Write a finished search under a key: for each query its documents, all lists of one length."""
    folder = store / "search" / key
    folder.mkdir(parents=True)
    documents = sorted({document for ranked in run.values() for document in ranked})
    row_of = {document: row for row, document in enumerate(documents)}
    rows = np.asarray([[row_of[document] for document in ranked] for ranked in run.values()], np.int32)
    scores = np.broadcast_to(-np.arange(rows.shape[1], dtype=np.float32), rows.shape)
    write_run(folder, list(run), documents, Ranking(rows, np.ascontiguousarray(scores), 0, 0, 0), "tag")
    Entry.describe(folder, Recipe("search", {}, [], "0.1.0", ""), {"seconds": 1.0}).write(folder)
