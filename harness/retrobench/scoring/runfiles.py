"""Rankings in a folder: a TREC run and the equal arrays."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrobench.scoring.ranking import Ranking, count_ties

__all__ = ["read_run", "write_run"]


def write_run(folder: Path, queries: Sequence[str], ids: Sequence[str], ranking: Ranking, tag: str) -> None:
    """Write a ranking as a TREC run and as arrays with names; the arrays are read a hundred times faster."""
    names = {
        "queries": list(queries),
        "documents": list(ids),
        "self_hits": ranking.self_hits,
        "excluded": ranking.excluded,
    }
    (folder / "names.json").write_text(json.dumps(names))
    np.save(folder / "rows.npy", ranking.rows)
    np.save(folder / "scores.npy", ranking.scores)
    _write_trec(folder / "run.trec", queries, ids, ranking, tag)


def _write_trec(path: Path, queries: Sequence[str], ids: Sequence[str], ranking: Ranking, tag: str) -> None:
    """Write a TREC run. The printf template of a list formats its lines in C: a run has ten million."""
    tag = "".join(tag.split()).replace("%", "%%")
    depth = ranking.rows.shape[1]
    lines = [f"\0 Q0 %s {rank} %.9g {tag}\n" for rank in range(1, depth + 1)]
    full_template = "".join(lines)
    with open(path, "w", encoding="utf-8") as file:
        for query, rows, scores in zip(queries, ranking.rows, ranking.scores, strict=True):
            length = int(np.count_nonzero(rows >= 0))  # -1 ends a list
            template = full_template
            if length < depth:
                template = "".join(lines[:length])
            documents = [ids[row] for row in rows[:length].tolist()]
            pairs = zip(documents, scores[:length].tolist(), strict=True)
            fields = tuple(itertools.chain.from_iterable(pairs))
            text = template % fields
            file.write(text.replace("\0", query))


def read_run(folder: Path) -> tuple[list[str], list[str], Ranking]:
    """Read the query ids, document ids and ranking that `write_run` wrote."""
    names = json.loads((folder / "names.json").read_text())
    rows = np.load(folder / "rows.npy")
    scores = np.load(folder / "scores.npy")
    self_hits = names.get("self_hits", 0)
    excluded = names.get("excluded", 0)
    ranking = Ranking(rows, scores, self_hits, count_ties(rows, scores), excluded)
    return names["queries"], names["documents"], ranking
