"""
The search of queries among passages, both in folders of vectors.

* Sought         queries and passages, ranked block by block
* retrieve       the ranking of all queries, as a run in a folder
* searched_how   how it was made
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from retrobench.core import bar, processes, say
from retrobench.errors import RetrobenchError
from retrobench.retrieval import nearest
from retrobench.retrieval.nearest import EXACT, Approximate, Documents, UnsoundError
from retrobench.retrieval.vectors import Vectors
from retrobench.scoring import ranking, write_run

__all__ = ["Sought", "retrieve", "searched_how"]


_HOW = "search.json"  # what a score's facts say of the search


Advance = Callable[[int], None]


def retrieve(folder: Path, sought: Sought, depth: int, dataset_id: str, tag: str, drop_self: bool = False) -> None:
    """Rank all queries and write the run to `folder`, with how it was made; of a team the first process writes."""
    with bar(f"search {dataset_id}", len(sought.query_ids), "queries") as advance:
        found = ranking.join(list(sought.blocks(depth, drop_self, advance)), len(sought.query_ids))
    if not processes.leads():
        return
    write_run(folder, sought.query_ids, sought.ids, found, tag)
    how = sought.how(depth)
    if "index" in how:
        say(f"search {dataset_id}: " + ", ".join(f"{name} {value}" for name, value in how.items()))
    (folder / _HOW).write_text(json.dumps(how) + "\n")


def searched_how(folder: Path) -> dict[str, Any]:
    """How `retrieve` made the run of a folder: what vectors were stored as, an index and its recall."""
    file = folder / _HOW
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


class Sought:
    """Queries and the passages they are searched among, in folders of `vectors` with an id for each row.

    The product of terms is weighed by `scale`. An `index`, a factory string of faiss, proposes what is ranked.
    RetrobenchError for an id used twice and for a vector that is not finite or holds a number from 1e15 on.
    """

    def __init__(self, queries: Path, passages: Path, scale: float = 1.0, index: str = EXACT) -> None:
        self.queries, self.query_ids = _side(queries, "query", "The queries hold")
        self.passages, self.ids = _side(passages, "document", "The collection holds")
        self.places, self.scale = ranking.precedence(self.ids), scale
        self.index = Approximate(self.passages, index) if index != EXACT and self.ids else None

    def blocks(self, depth: int, drop_self: bool = False, advance: Advance | None = None) -> Iterator[ranking.Ranking]:
        """The best `depth` passages of each query by inner product, in the total order of `ranking`, block by block.

        The processes of a team search among a part of the passages each, unless there is an index, and all get the
        whole: all have to ask. With `drop_self` a query's own document, the one with its id, is left out.
        `advance(n)` is told of each n queries done.
        """
        own, done, deeper = ranking.own_rows(self.query_ids, self.ids) if drop_self else None, 0, depth + drop_self
        if self.index:
            found = self.index.search(self.queries, deeper, self.places)
        else:
            found = nearest.shared(self.queries, self.passages, deeper, self.places, self.scale)
        for rows, scores in found:
            end = done + len(rows)
            yield ranking.finish(rows, scores, self.places, depth, None if own is None else own[done:end])
            done = end
            if advance:
                advance(len(rows))

    def how(self, depth: int) -> dict[str, Any]:
        """What the dense passages are stored as; an index, and what share of the best it finds."""
        stored = {"stored": self.passages.stored} if self.passages.width else {}
        if self.index is None or not self.query_ids:
            return stored
        return {**stored, "index": self.index.factory, **self.index.recall(self.queries, depth, self.places)}


def _side(folder: Path, kind: str, holder: str) -> tuple[Documents, Sequence[str]]:
    """The vectors of a folder and their ids, both checked."""
    stored = Vectors.open(folder)
    ids = stored.ids
    _check_ids(holder, kind, ids)
    if len(ids) != len(stored):
        raise RetrobenchError(f"{holder} {len(ids):,} texts, and {folder} {len(stored):,} vectors. Encode them again.")
    vectors = Documents.of(stored)
    _check_vectors(vectors, kind, ids)
    return vectors, ids


def _check_ids(holder: str, kind: str, ids: Sequence[str]) -> None:
    if len(set(ids)) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise RetrobenchError(
            f"{holder} the {kind} id {twice!r} twice; a run could not tell them apart. Mend the file."
        )


def _check_vectors(vectors: Documents, kind: str, ids: Sequence[str]) -> None:
    try:
        _ = vectors.census
    except UnsoundError as error:
        file = {"dense": "dense.npy", "terms": "terms.values.npy"}[error.part]
        raise RetrobenchError(
            f"The vector of {kind} {ids[error.row]!r} ({file}) is not finite, so it cannot be ranked: the encoder's "
            "weights or its precision are at fault. Encode in fp32, or take another checkpoint."
        ) from None
