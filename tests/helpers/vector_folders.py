"""Folders of vectors as `encode` writes them, with arbitrary numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrobench.data import Exclusions
from retrobench.retrieval.searcher import Advance, Searcher
from retrobench.retrieval.vectors import Terms, Writer
from retrobench.scoring import ranking
from retrobench.scoring.ranking import Ranking


def lay(folder: Path, dense: np.ndarray | None = None, terms: Terms | None = None, words: int = 0) -> Path:
    """Write dense vectors [N, D] and terms, which need not be finite, into a new folder."""
    folder.mkdir(parents=True)
    rows, width = 0, 0
    if terms is not None:
        rows = len(terms.indptr) - 1
    if dense is not None:
        rows, width = dense.shape
    with Writer(folder, rows, width, words, "float32", max(1, rows), {}) as writer:
        for first, last in writer.windows():
            block = None
            if dense is not None:
                block = np.nan_to_num(dense[first:last], posinf=1, neginf=1)
            writer.put(first, block, terms)
        writer.publish(map(str, range(rows)))
    if dense is not None and rows:
        np.load(folder / "dense.npy", "r+")[:] = dense  # the writer refuses non-finite numbers
    return folder


def sparse(columns: np.ndarray, weights: np.ndarray) -> Terms:
    """Return terms with k entries in each row, from columns and weights [N, k]."""
    count, per_row = columns.shape
    bounds = np.arange(count + 1) * per_row
    return Terms(bounds, columns.reshape(-1), weights.reshape(-1))


def written(matrix: np.ndarray) -> Terms:
    """Return all entries of a matrix [N, V], zeros too."""
    count, width = matrix.shape
    columns = np.tile(np.arange(width, dtype=np.int32), (count, 1))
    return sparse(columns, matrix)


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
    """Return the ranking of `Searcher` for vectors with these ids."""
    for folder, names in ((queries, query_ids), (passages, ids)):
        (folder / "ids.json").write_text(json.dumps(list(names)))
    blocks = Searcher(queries, passages, scale).blocks(depth, Exclusions(own=drop_self), advance)
    return ranking.join(list(blocks), len(query_ids))
