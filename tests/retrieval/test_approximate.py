"""Approximate search: candidates of a real faiss index, ranked canonically; recall against exact; bad strings told."""

from __future__ import annotations

import re

import numpy as np
import pytest

from retrobench.errors import RetrobenchError
from retrobench.retrieval.nearest import Approximate, VectorSet, approximate, check_index, search
from retrobench.retrieval.vectors import Terms

TIE_RANKS = np.random.default_rng(0).permutation(600).astype(np.int32)


def sides(seed: int = 0, width: int = 16) -> tuple[VectorSet, VectorSet]:
    draw = np.random.default_rng(seed)
    return tuple(VectorSet(draw.standard_normal((rows, width)).astype(np.float32)) for rows in (40, 600))  # type: ignore[return-value]


def found(index: Approximate, asked: VectorSet, depth: int) -> tuple[np.ndarray, np.ndarray]:
    rows, scores = (np.concatenate(part) for part in zip(*index.search(asked, depth, TIE_RANKS), strict=True))
    return rows, scores


def test_an_index_that_misses_nothing_is_exact_search() -> None:
    asked, among = sides()
    index = Approximate(among, "Flat")
    exact = next(search(asked, among, 30, TIE_RANKS))
    assert all(np.array_equal(*pair) for pair in zip(found(index, asked, 30), exact, strict=True))
    assert index.recall(asked, 30, TIE_RANKS) == {"recall of the index@10": 1.0, "recall of the index@30": 1.0}


def test_a_score_that_rounds_to_minus_zero_is_tied_with_zero() -> None:
    asked = VectorSet(np.asarray([[-1e-30, 0]], np.float32))
    among = VectorSet(np.asarray([[1e-30, 0], [0, 0], [0, 1]], np.float32))
    ((rows, scores),) = Approximate(among, "Flat").search(asked, 3, np.arange(3, dtype=np.int32))
    assert rows.tolist() == [[0, 1, 2]] and not np.signbit(scores).any()


@pytest.mark.parametrize("factory", ["IVF8,Flat", "SQ8", "HNSW4", "IVF8,SQ4"])
def test_recall_is_the_share_of_the_exact_best(factory: str) -> None:
    asked, among = sides()
    index = Approximate(among, factory)
    rows, scores = found(index, asked, 50)
    exact_rows, exact_scores = next(search(asked, among, 50, TIE_RANKS))
    for k in (10, 50):
        shares = [
            len(set(a[:k]) & set(b[:k]) - {-1}) / k for a, b in zip(rows.tolist(), exact_rows.tolist(), strict=True)
        ]
        assert index.recall(asked, 50, TIE_RANKS)[f"recall of the index@{k}"] == pytest.approx(np.mean(shares))
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


@pytest.mark.parametrize("factory", ["nope", "IVF64,Flatt", "", "PQ7x99", "IVF0,Flat", "HNSW0", "PQ0", "IVF4,PQ7x0"])
def test_a_bad_factory_string_is_one_line(factory: str) -> None:
    """An index of IVF0 fails once it is filled, one of HNSW0 ends the process."""
    for width, what in ((None, ""), (14, " of vectors of 14 numbers")):
        with pytest.raises(RetrobenchError, match=rf"^faiss makes no index '{factory}'{what}: .*\.$") as error:
            check_index(factory, width)
        assert "IVF64,Flat" in str(error.value) and "\n" not in str(error.value) and "/" not in str(error.value)


@pytest.mark.parametrize("factory", ["PQ7x4", "IVF4,PQ7x4", "HNSW8,PQ7", "OPQ7_14,PQ14x4", "IVF4,PQ7x4,Refine(PQ5x4)"])
def test_whether_a_width_can_be_cut_so_is_said_once_it_is_known(factory: str) -> None:
    """Vectors of 768 numbers have no seven parts, which says nothing of others."""
    check_index(factory)
    check_index(factory, 70)
    if "OPQ" not in factory:
        text = rf"^faiss makes no index '{re.escape(factory)}' of vectors of 768 numbers: .* multiple of .*\.$"
        with pytest.raises(RetrobenchError, match=text):
            check_index(factory, 768)
    _, among = sides(width=70)
    assert Approximate(among, "PQ7x4").index.ntotal == 600


def test_what_faiss_cannot_search_is_one_line() -> None:
    asked, among = sides()
    index = Approximate(among, "IVF8,Flat")
    index.index.nprobe = 0
    text = r"^faiss cannot search an index 'IVF8,Flat' of 600 vectors: .*\. Take another"
    with pytest.raises(RetrobenchError, match=text):
        next(index.search(asked, 5, TIE_RANKS))


def test_an_index_learns_from_so_many_documents_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "_TRAINING", 350)
    _, among = sides()
    with pytest.raises(
        RetrobenchError, match=r"^faiss cannot fill an index 'IVF350,Flat' of 600 vectors: .*\. Take another"
    ):
        Approximate(among, "IVF350,Flat")
    assert Approximate(among, "IVF300,Flat").index.ntotal == 600


def test_what_an_index_is_not_for() -> None:
    check_index("exact")
    _, among = sides()
    with pytest.raises(
        RetrobenchError, match=r"^faiss cannot fill an index 'IVF601,Flat' of 600 vectors: .*\. Take another\.$"
    ):
        Approximate(among, "IVF601,Flat")
    terms = VectorSet(None, Terms(np.arange(3), np.zeros(2, np.int32), np.ones(2, np.float32)), 4)
    with pytest.raises(
        RetrobenchError, match=r"^--index SQ8 is for dense vectors, and these have terms\. Leave it out"
    ):
        Approximate(terms, "SQ8")
