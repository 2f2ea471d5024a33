"""
One total order for every engine: score descending, then document id descending as bytes.

* precedence(ids)        the order of documents with equal scores
* top, order             the best of all scores, and chosen documents, in the total order
* Removals               the documents that the dataset's rule removes from each query's ranking
* finish -> Ranking      candidates of an engine or a file: ordered, rid of removals, cut
* join                   blocks of queries as one ranking
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retrobench.data import Exclusions

__all__ = [
    "Ranking",
    "Removals",
    "count_ties",
    "finish",
    "join",
    "lengthened",
    "order",
    "own_rows",
    "padded",
    "precedence",
    "tied",
    "top",
]

_MANY = 10_000  # ids from which on loading pyarrow pays: it sorts in less memory


@dataclass(frozen=True)
class Ranking:
    """
    Hold the ranked documents of each query.

    `rows` [Q, k] int32 index the document ids; -1 marks the end of a list. `scores` [Q, k] float32 descend; -inf
    marks the end of a list. `self_hits` counts own documents removed from the first k, `excluded` the documents that
    the judgements exclude. `ties` counts hits whose float32 score equals the score of the hit right above. Their ids
    alone decided their rank.
    """

    rows: np.ndarray
    scores: np.ndarray
    self_hits: int
    ties: int
    excluded: int = 0


@dataclass(frozen=True)
class Removals:
    """Hold the rows that each query's ranking loses; -1 is no row.

    `own` [Q] is the document with the query's id. `excluded` [Q, m] are documents that the judgements exclude.
    """

    own: np.ndarray
    excluded: np.ndarray

    @classmethod
    def of(cls, queries: Sequence[str], ids: Sequence[str], exclusions: Exclusions) -> Removals:
        """Return the rows of `ids` that the exclusions of a dataset name."""
        own = np.full(len(queries), -1, np.int32)
        if exclusions.own:
            own = own_rows(queries, ids)
        excluded_rows: list[list[int]] = [[] for _ in queries]
        if exclusions.documents:
            row_of_id = {identifier: row for row, identifier in enumerate(ids)}
            for query, rows in zip(queries, excluded_rows, strict=True):
                documents = exclusions.documents.get(query, ())
                rows += [row_of_id[document] for document in documents if document in row_of_id]
        return cls(own, padded(excluded_rows))

    @property
    def most(self) -> int:
        """Return the largest number of documents that a ranking may lose: candidates must be as much deeper."""
        lost = (self.own >= 0).astype(int) + (self.excluded >= 0).sum(1)
        return int(lost.max(initial=0))

    def slice(self, begin: int, end: int) -> Removals:
        """Return the removals of the queries `begin` to `end`."""
        return Removals(self.own[begin:end], self.excluded[begin:end])


def padded(lists: Sequence[Sequence[int]]) -> np.ndarray:
    """Return lists of rows as an array [Q, m] int32, with -1 behind the shorter lists."""
    longest = max(map(len, lists), default=0)
    rows = np.full((len(lists), longest), -1, np.int32)
    for position, values in enumerate(lists):
        rows[position, : len(values)] = values
    return rows


def precedence(ids: Sequence[str]) -> np.ndarray:
    """Return each document's position among equal scores, [N] int32: 0 for the id that is largest as bytes."""
    positions = np.empty(len(ids), np.int32)
    positions[_rows_by_falling_id(ids)] = np.arange(len(ids), dtype=np.int32)
    return positions


def _rows_by_falling_id(ids: Sequence[str]) -> Any:
    """Sort the rows of the ids by the ids' bytes, descending."""
    if len(ids) <= _MANY:
        return sorted(range(len(ids)), key=lambda row: ids[row].encode(), reverse=True)
    import pyarrow as pa
    import pyarrow.compute as pc

    # Arrow compares strings by their UTF-8 bytes and needs no Python object for each.
    strings = pa.array(ids, pa.large_string())
    rows = pc.array_sort_indices(strings, order="descending").to_numpy().astype(np.int32)
    pa.default_memory_pool().release_unused()  # the pool would keep half as much memory as the ids take
    return rows


def tied(rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the documents that share their score with another of the same list; lists [Q, k] in any order."""
    rising = (scores[:, 1:] > scores[:, :-1]).any()
    if rising:
        by_score = np.argsort(scores, axis=1)
        rows = np.take_along_axis(rows, by_score, 1)
        scores = np.take_along_axis(scores, by_score, 1)
    equal = scores[:, 1:] == scores[:, :-1]
    lower = rows[:, 1:][equal]
    upper = rows[:, :-1][equal]
    documents = np.unique(np.concatenate([lower, upper]))
    return documents[documents >= 0]


def order(rows: np.ndarray, scores: np.ndarray, precedences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and scores [Q, k], each list sorted into the total order by score and precedence."""
    rows = np.array(rows)
    scores = np.array(scores)
    strictly_falling = (scores[:, :-1] > scores[:, 1:]).all(1)  # such lists are in order already
    unsorted = np.flatnonzero(~strictly_falling)
    if len(unsorted):
        rows[unsorted], scores[unsorted] = _sort(rows[unsorted], scores[unsorted], precedences)
    return rows, scores


def _sort(rows: np.ndarray, scores: np.ndarray, precedences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort by precedence, then stably by score, so that precedence decides among equal scores."""
    by_precedence = np.argsort(precedences[rows], axis=1, kind="stable")
    rows = np.take_along_axis(rows, by_precedence, 1)
    scores = np.take_along_axis(scores, by_precedence, 1)
    by_score = np.argsort(-scores, axis=1, kind="stable")
    rows = np.take_along_axis(rows, by_score, 1)
    scores = np.take_along_axis(scores, by_score, 1)
    return rows, scores


def top(scores: np.ndarray, depth: int, precedences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best `depth` rows of each list of scores [Q, N] and their scores, both [Q, depth], in total order."""
    depth = min(depth, scores.shape[1])
    if depth == scores.shape[1]:
        all_rows = np.broadcast_to(np.arange(depth), scores.shape)
        return order(all_rows, scores, precedences)
    rows = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    worst = np.take_along_axis(scores, rows, 1).min(1)
    candidates = scores >= worst[:, None]
    tied_at_cut = candidates.sum(1) > depth
    # The partition keeps arbitrary documents of those tied at the cut. The total order has to choose among them.
    for query in np.flatnonzero(tied_at_cut):
        candidate_rows = np.flatnonzero(candidates[query])
        candidate_scores = scores[query, candidate_rows]
        ordered, _ = order(candidate_rows[None], candidate_scores[None], precedences)
        rows[query] = ordered[0, :depth]
    best_scores = np.take_along_axis(scores, rows, 1)
    return order(rows, best_scores, precedences)


def own_rows(queries: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    """Return the row of the document that has each query's own id, [Q] int32; -1 where there is none."""
    query_ids = set(queries)
    row_of_id = {identifier: row for row, identifier in enumerate(ids) if identifier in query_ids}
    return np.asarray([row_of_id.get(query, -1) for query in queries], np.int32)


def finish(
    rows: np.ndarray, scores: np.ndarray, precedences: np.ndarray, depth: int, removals: Removals | None = None
) -> Ranking:
    """
    Make a ranking of the candidates `rows` [Q, m] with their `scores` [Q, m]; -1 is no candidate, as in faiss.

    Candidates are sorted as float32, lose their query's `removals`, and are cut at `depth`. Pass candidates deeper
    than the cut by `removals.most`. Raises ValueError for a candidate with a non-finite score.
    """
    absent = rows < 0
    with np.errstate(over="ignore"):
        scores = np.where(absent, -np.inf, scores).astype(np.float32)
    sound = np.isfinite(scores) | absent
    if not sound.all():
        raise ValueError("a candidate's score is not finite as a 32-bit number")
    rows, scores = order(rows, scores, precedences)
    self_hits = excluded = 0
    if removals is not None and removals.most:
        present = rows >= 0
        own_hits = (rows == removals.own[:, None]) & present
        excluded_hits = np.zeros_like(own_hits)
        for query in np.flatnonzero((removals.excluded >= 0).any(1)):
            excluded_hits[query] = np.isin(rows[query], removals.excluded[query])
        excluded_hits &= present & ~own_hits
        self_hits = int(own_hits[:, :depth].sum())
        excluded = int(excluded_hits[:, :depth].sum())
        rows, scores = _remove(own_hits | excluded_hits, rows, scores)
    rows = np.ascontiguousarray(rows[:, :depth], np.int32)
    scores = np.ascontiguousarray(scores[:, :depth])
    return Ranking(rows, scores, self_hits, count_ties(rows, scores), excluded)


def _remove(marked: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Remove the marked hits from lists [Q, m] and move later hits up."""
    rows = np.where(marked, -1, rows)
    scores = np.where(marked, np.float32(-np.inf), scores)
    changed = np.flatnonzero(marked.any(1))
    unmarked_first = np.argsort(marked[changed], axis=1, kind="stable")
    rows[changed] = np.take_along_axis(rows[changed], unmarked_first, 1)
    scores[changed] = np.take_along_axis(scores[changed], unmarked_first, 1)
    return rows, scores


def count_ties(rows: np.ndarray, scores: np.ndarray) -> int:
    """Count the hits of ordered lists [Q, k] whose score equals the score of the hit right above."""
    equal = scores[:, 1:] == scores[:, :-1]
    present = rows[:, 1:] >= 0
    return int(np.count_nonzero(equal & present))


def lengthened(ranking: Ranking, depth: int) -> Ranking:
    """Return a ranking whose arrays have `depth` columns, the added ones without hits."""
    missing = ((0, 0), (0, depth - ranking.rows.shape[1]))
    rows = np.pad(ranking.rows, missing, constant_values=-1)
    scores = np.pad(ranking.scores, missing, constant_values=-np.inf)
    return replace(ranking, rows=rows, scores=scores)


def join(blocks: Sequence[Ranking], queries: int) -> Ranking:
    """Join blocks of queries, each [q, k], into one ranking; without a block, the lists of all `queries` are empty."""
    if not blocks:
        no_rows = np.empty((queries, 0), np.int32)
        no_scores = np.empty((queries, 0), np.float32)
        return Ranking(no_rows, no_scores, self_hits=0, ties=0)
    return Ranking(
        rows=np.concatenate([block.rows for block in blocks]),
        scores=np.concatenate([block.scores for block in blocks]),
        self_hits=sum(block.self_hits for block in blocks),
        ties=sum(block.ties for block in blocks),
        excluded=sum(block.excluded for block in blocks),
    )
