"""
The search of queries among passages, both in folders of vectors.

* Searcher       queries and passages, ranked block by block
* retrieve       rank all queries, and write the run to a folder
* search_facts, write_search_facts   how the run in a folder was made
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrobench.core import bar, processes, say
from retrobench.data import Exclusions
from retrobench.errors import RetrobenchError
from retrobench.retrieval import nearest
from retrobench.retrieval.nearest import EXACT, Approximate, UnsoundError, VectorSet
from retrobench.retrieval.vectors import Vectors
from retrobench.scoring import ranking, write_run

__all__ = ["Searcher", "retrieve", "search_facts", "write_search_facts"]

_FACTS = "search.json"  # beside the run

Advance = Callable[[int], None]  # called with the number of finished queries


NOTHING = Exclusions()


def retrieve(
    folder: Path, searcher: Searcher, depth: int, dataset_id: str, tag: str, exclusions: Exclusions = NOTHING
) -> None:
    """Rank all queries, and write the run and the facts about its search to `folder`. Only rank 0 writes."""
    with bar(f"search {dataset_id}", len(searcher.query_ids), "queries") as advance:
        blocks = list(searcher.blocks(depth, exclusions, advance))
    ranked = ranking.join(blocks, len(searcher.query_ids))
    if not processes.leads():
        return
    write_run(folder, searcher.query_ids, searcher.ids, ranked, tag)
    facts = searcher.facts(depth)
    if "index" in facts:
        listed = ", ".join(f"{name} {value}" for name, value in facts.items())
        say(f"search {dataset_id}: {listed}")
    write_search_facts(folder, facts)


def write_search_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write how the run in a folder was made."""
    (folder / _FACTS).write_text(json.dumps(facts) + "\n")


def search_facts(folder: Path) -> dict[str, Any]:
    """Return how the run in a folder was made.

    Of vectors: their stored type, an index and its recall. Of BM25: the stemmer and the stop words.
    """
    file = folder / _FACTS
    if not file.exists():
        return {}
    facts: dict[str, Any] = json.loads(file.read_text())
    return facts


class Searcher:
    """Queries and passages in folders of `vectors`, with an id for each row.

    `scale` is the weight of the product of terms. An `index`, a factory string of faiss, makes the search approximate.
    RetrobenchError for an id that is used twice, and for a vector that is not finite or holds a number from 1e15 on.
    """

    def __init__(self, queries: Path, passages: Path, scale: float = 1.0, index: str = EXACT) -> None:
        self.queries, self.query_ids = _open_side(queries, "query", "The queries hold")
        self.passages, self.ids = _open_side(passages, "document", "The collection holds")
        self.tie_ranks = ranking.precedence(self.ids)
        self.scale = scale
        self.index: Approximate | None = None
        if index != EXACT and self.ids:
            self.index = Approximate(self.passages, index)

    def blocks(
        self, depth: int, exclusions: Exclusions = NOTHING, advance: Advance | None = None
    ) -> Iterator[ranking.Ranking]:
        """Yield the best `depth` passages of each query by inner product, in the total order of `ranking`.

        Without an index, each process of a run searches a part of the passages, and every process gets the whole
        result: all of them must call. `exclusions` leaves out passages. `advance(n)` is called after each block of n
        queries.
        """
        removals = ranking.Removals.of(self.query_ids, self.ids, exclusions)
        begin = 0
        for rows, scores in self._candidates(depth + removals.most):
            end = begin + len(rows)
            yield ranking.finish(rows, scores, self.tie_ranks, depth, removals.slice(begin, end))
            begin = end
            if advance:
                advance(len(rows))

    def _candidates(self, depth: int) -> Iterator[nearest.TopK]:
        if self.index:
            return self.index.search(self.queries, depth, self.tie_ranks)
        return nearest.shared(self.queries, self.passages, depth, self.tie_ranks, self.scale)

    def facts(self, depth: int) -> dict[str, Any]:
        """Return the stored type of the dense passages; for an index also its factory string and its recall."""
        facts: dict[str, Any] = {}
        if self.passages.width:
            facts["stored"] = self.passages.stored
        if self.index is not None and self.query_ids:
            facts["index"] = self.index.factory
            facts |= self.index.recall(self.queries, depth, self.tie_ranks)
        return facts


def _open_side(folder: Path, kind: str, holder: str) -> tuple[VectorSet, Sequence[str]]:
    """Return the vectors of a folder and their ids, both checked."""
    stored = Vectors.open(folder)
    ids = stored.ids
    _check_ids(holder, kind, ids)
    if len(ids) != len(stored):
        raise RetrobenchError(f"{holder} {len(ids):,} texts, and {folder} {len(stored):,} vectors. Encode them again.")
    vectors = VectorSet.of(stored)
    _check_vectors(vectors, kind, ids)
    return vectors, ids


def _check_ids(holder: str, kind: str, ids: Sequence[str]) -> None:
    if len(set(ids)) == len(ids):
        return
    repeated = next(text_id for text_id, count in Counter(ids).items() if count > 1)
    raise RetrobenchError(f"{holder} the {kind} id {repeated!r} twice; a run could not tell them apart. Mend the file.")


def _check_vectors(vectors: VectorSet, kind: str, ids: Sequence[str]) -> None:
    try:
        _ = vectors.census
    except UnsoundError as error:
        file = {"dense": "dense.npy", "terms": "terms.values.npy"}[error.field]
        raise RetrobenchError(
            f"The vector of {kind} {ids[error.row]!r} ({file}) is not finite, so it cannot be ranked: the encoder's "
            "weights or its precision are at fault. Encode in fp32, or take another checkpoint."
        ) from None
