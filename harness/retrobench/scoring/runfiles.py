"""Rankings in a folder: a TREC run, and the same as arrays."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrobench.scoring import ranking
from retrobench.scoring.ranking import Ranked

__all__ = ["read_run", "write_run"]


def write_run(folder: Path, queries: Sequence[str], ids: Sequence[str], found: Ranked, tag: str) -> None:
    """A TREC run, and the same as arrays with names, which are read a hundred times faster."""
    names = {"queries": list(queries), "documents": list(ids), "self_hits": found.self_hits}
    (folder / "names.json").write_text(json.dumps(names))
    np.save(folder / "rows.npy", found.rows)
    np.save(folder / "scores.npy", found.scores)
    tag = "".join(tag.split()).replace("%", "%%")
    # One template for all queries: ten million lines are formatted in C, a query at a time.
    lines = [f"\0 Q0 %s {rank} %.9g {tag}\n" for rank in range(1, found.rows.shape[1] + 1)]
    whole = "".join(lines)
    with open(folder / "run.trec", "w", encoding="utf-8") as file:
        for query, hits, values in zip(queries, found.rows, found.scores, strict=True):
            count = int(np.count_nonzero(hits >= 0))  # -1 ends a list
            pairs = zip((ids[row] for row in hits[:count].tolist()), values[:count].tolist(), strict=True)
            template = whole if count == len(lines) else "".join(lines[:count])
            file.write((template % tuple(itertools.chain.from_iterable(pairs))).replace("\0", query))


def read_run(folder: Path) -> tuple[list[str], list[str], Ranked]:
    """Queries, documents and ranking as `write_run` left them; the arrays are mapped, not read."""
    names = json.loads((folder / "names.json").read_text())
    rows, scores = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("rows", "scores"))
    found = Ranked(rows, scores, names.get("self_hits", 0), ranking.count_ties(rows, scores))
    return names["queries"], names["documents"], found
