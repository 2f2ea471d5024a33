"""Approximate search: candidates of a real faiss index, ranked canonically; recall against exact; bad strings told."""

from __future__ import annotations

import numpy as np
import pytest

from retrobench.errors import RetrobenchError
from retrobench.nearest import Approximate, Documents, check_index, search
from retrobench.vectors import Terms

PLACES = np.random.default_rng(0).permutation(600).astype(np.int32)


def sides(seed: int = 0, width: int = 16) -> tuple[Documents, Documents]:
    draw = np.random.default_rng(seed)
    return tuple(Documents(draw.standard_normal((rows, width)).astype(np.float32)) for rows in (40, 600))  # type: ignore[return-value]


def found(index: Approximate, asked: Documents, depth: int) -> tuple[np.ndarray, np.ndarray]:
    rows, scores = (np.concatenate(part) for part in zip(*index.search(asked, depth, PLACES), strict=True))
    return rows, scores


def test_an_index_that_misses_nothing_is_exact_search() -> None:
    asked, among = sides()
    index = Approximate(among, "Flat")
    exact = next(search(asked, among, 30, PLACES))
    assert all(np.array_equal(*pair) for pair in zip(found(index, asked, 30), exact, strict=True))
    assert index.recall(asked, 30, PLACES) == {"recall of the index@10": 1.0, "recall of the index@30": 1.0}


def test_a_score_that_rounds_to_minus_zero_is_tied_with_zero() -> None:
    asked = Documents(np.asarray([[-1e-30, 0]], np.float32))
    among = Documents(np.asarray([[1e-30, 0], [0, 0], [0, 1]], np.float32))
    ((rows, scores),) = Approximate(among, "Flat").search(asked, 3, np.arange(3, dtype=np.int32))
    assert rows.tolist() == [[0, 1, 2]] and not np.signbit(scores).any()


@pytest.mark.parametrize("factory", ["IVF8,Flat", "SQ8", "HNSW4", "IVF8,SQ4"])
def test_recall_is_the_share_of_the_exact_best(factory: str) -> None:
    asked, among = sides()
    index = Approximate(among, factory)
    rows, scores = found(index, asked, 50)
    exact_rows, exact_scores = next(search(asked, among, 50, PLACES))
    for k in (10, 50):
        shares = [
            len(set(a[:k]) & set(b[:k]) - {-1}) / k for a, b in zip(rows.tolist(), exact_rows.tolist(), strict=True)
        ]
        assert index.recall(asked, 50, PLACES)[f"recall of the index@{k}"] == pytest.approx(np.mean(shares))
        assert 0.05 < np.mean(shares) < 1 + (factory == "SQ8")
    best = {
        (query, row): score
        for query in range(40)
        for row, score in zip(exact_rows[query], exact_scores[query], strict=True)
    }
    shared = [(query, at) for query, at in np.argwhere(rows >= 0) if (query, rows[query, at]) in best]
    assert len(shared) > 100, "and the score of what it finds is that of exact search"
    assert all(scores[query, at] == best[query, rows[query, at]] for query, at in shared)
    assert (scores[:, 1:] <= scores[:, :-1]).all() and (scores[rows < 0] == -np.inf).all()


@pytest.mark.parametrize("factory", ["nope", "IVF64,Flatt", "", "PQ7"])
def test_a_bad_factory_string_is_one_line(factory: str) -> None:
    with pytest.raises(
        RetrobenchError, match=rf"^faiss makes no index '{factory}' of vectors of 768 numbers: .*\.$"
    ) as error:
        check_index(factory)
    assert "IVF64,Flat" in str(error.value) and "\n" not in str(error.value) and "/" not in str(error.value)


def test_what_an_index_is_not_for() -> None:
    check_index("exact")
    _, among = sides()
    with pytest.raises(
        RetrobenchError, match=r"^faiss fills no index 'IVF601,Flat' from 600 vectors: .*\. Take another\.$"
    ):
        Approximate(among, "IVF601,Flat")
    terms = Documents(None, Terms(np.arange(3), np.zeros(2, np.int32), np.ones(2, np.float32)), 4)
    with pytest.raises(
        RetrobenchError, match=r"^--index SQ8 is for dense vectors, and these have terms\. Leave it out"
    ):
        Approximate(terms, "SQ8")
