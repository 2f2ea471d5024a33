"""Folders of vectors as `encode` leaves them, for searching, of whatever numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrobench.retrieval.searcher import Advance, Searcher
from retrobench.retrieval.vectors import Terms, Writer
from retrobench.scoring import ranking
from retrobench.scoring.ranking import Ranking


def lay(folder: Path, dense: np.ndarray | None = None, terms: Terms | None = None, words: int = 0) -> Path:
    folder.mkdir(parents=True)
    rows = len(dense) if dense is not None else len(terms.indptr) - 1 if terms else 0
    with Writer(folder, rows, 0 if dense is None else dense.shape[1], words, "float32", max(1, rows), {}) as writer:
        for first, last in writer.windows():
            writer.put(first, None if dense is None else np.nan_to_num(dense[first:last], posinf=1, neginf=1), terms)
        writer.publish(str(row) for row in range(rows))
    if dense is not None and rows:
        np.load(folder / "dense.npy", "r+")[:] = dense  # the writer refuses what is not finite
    return folder


def sparse(columns: np.ndarray, weights: np.ndarray) -> Terms:
    """Rows of as many entries each, [N, k]."""
    return Terms(np.arange(len(columns) + 1) * columns.shape[1], columns.reshape(-1), weights.reshape(-1))


def written(matrix: np.ndarray) -> Terms:
    """All of a matrix [N, V], zeros too."""
    return sparse(np.tile(np.arange(matrix.shape[1], dtype=np.int32), (len(matrix), 1)), matrix)


def ranked(
    queries: Path,
    passages: Path,
    query_ids: Sequence[str],
    ids: Sequence[str],
    depth: int,
    scale: float = 1.0,
    drop_self: bool = False,
    advance: Advance | None = None,
) -> Ranking:
    """What `Searcher` finds once the rows have these ids."""
    for folder, names in ((queries, query_ids), (passages, ids)):
        (folder / "ids.json").write_text(json.dumps(list(names)))
    found = Searcher(queries, passages, scale).blocks(depth, drop_self, advance)
    return ranking.join(list(found), len(query_ids))
