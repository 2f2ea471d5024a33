"""Approximate search: a real faiss index proposes, canonical scores rank; recall; bad factory strings."""

from __future__ import annotations

import re

import numpy as np
import pytest

from retrobench.errors import RetrobenchError
from retrobench.retrieval.nearest import Approximate, VectorSet, approximate, check_index, search
from retrobench.retrieval.nearest.kernels import TopK
from retrobench.retrieval.vectors import Terms

TIE_RANKS = np.random.default_rng(0).permutation(600).astype(np.int32)


def sides(seed: int = 0, width: int = 16) -> tuple[VectorSet, VectorSet]:
    """Draw 40 queries and 600 documents."""
    draw = np.random.default_rng(seed)
    queries = draw.standard_normal((40, width)).astype(np.float32)
    documents = draw.standard_normal((600, width)).astype(np.float32)
    return VectorSet(queries), VectorSet(documents)


def search_all(index: Approximate, queries: VectorSet, depth: int) -> TopK:
    """Return the blocks of an approximate search as one."""
    blocks = list(index.search(queries, depth, TIE_RANKS))
    rows = np.concatenate([block.rows for block in blocks])
    scores = np.concatenate([block.scores for block in blocks])
    return TopK(rows, scores)


def test_an_index_that_misses_nothing_is_exact_search() -> None:
    queries, documents = sides()
    index = Approximate(documents, "Flat")
    exact = next(search(queries, documents, 30, TIE_RANKS))
    best = search_all(index, queries, 30)
    assert np.array_equal(best.rows, exact.rows)
    assert np.array_equal(best.scores, exact.scores)
    assert index.recall(queries, 30, TIE_RANKS) == {"recall of the index@10": 1.0, "recall of the index@30": 1.0}


def test_a_score_that_rounds_to_minus_zero_is_tied_with_zero() -> None:
    queries = VectorSet(np.asarray([[-1e-30, 0]], np.float32))
    documents = VectorSet(np.asarray([[1e-30, 0], [0, 0], [0, 1]], np.float32))
    index = Approximate(documents, "Flat")
    tie_ranks = np.arange(3, dtype=np.int32)
    best = next(index.search(queries, 3, tie_ranks))
    assert best.rows.tolist() == [[0, 1, 2]]
    assert not np.signbit(best.scores).any()


@pytest.mark.parametrize("factory", ["IVF8,Flat", "SQ8", "HNSW4", "IVF8,SQ4"])
def test_recall_is_the_share_of_the_exact_best(factory: str) -> None:
    queries, documents = sides()
    index = Approximate(documents, factory)
    best = search_all(index, queries, 50)
    exact = next(search(queries, documents, 50, TIE_RANKS))
    recalls = index.recall(queries, 50, TIE_RANKS)
    for cutoff in (10, 50):
        shares = []
        for rows, exact_rows in zip(best.rows, exact.rows, strict=True):
            shared = np.intersect1d(rows[:cutoff], exact_rows[:cutoff])
            shares.append(len(shared) / cutoff)
        recall = np.mean(shares)
        assert recalls[f"recall of the index@{cutoff}"] == pytest.approx(recall)
        assert recall > 0.05
        if factory == "SQ8":
            assert recall <= 1
        else:
            assert recall < 1
    assert (best.scores[:, 1:] <= best.scores[:, :-1]).all()
    assert (best.scores[best.rows < 0] == -np.inf).all()


@pytest.mark.parametrize("factory", ["IVF8,Flat", "SQ8", "HNSW4", "IVF8,SQ4"])
def test_scores_are_those_of_exact_search(factory: str) -> None:
    queries, documents = sides()
    index = Approximate(documents, factory)
    best = search_all(index, queries, 50)
    exact = next(search(queries, documents, 50, TIE_RANKS))
    compared = 0
    for query in range(len(queries)):
        _, ours, theirs = np.intersect1d(best.rows[query], exact.rows[query], return_indices=True)
        assert np.array_equal(best.scores[query, ours], exact.scores[query, theirs])
        compared += len(ours)
    assert compared > 100


@pytest.mark.parametrize("factory", ["nope", "IVF64,Flatt", "", "PQ7x99", "IVF0,Flat", "HNSW0", "PQ0", "IVF4,PQ7x0"])
def test_a_bad_factory_string_is_one_line(factory: str) -> None:
    """faiss builds IVF0, which fails when it is filled, and HNSW0, which ends the process."""
    for width, purpose in ((None, ""), (14, " of vectors of 14 numbers")):
        with pytest.raises(RetrobenchError, match=rf"^faiss makes no index '{factory}'{purpose}: .*\.$") as error:
            check_index(factory, width)
        message = str(error.value)
        assert "IVF64,Flat" in message
        assert "\n" not in message
        assert "/" not in message


@pytest.mark.parametrize("factory", ["PQ7x4", "IVF4,PQ7x4", "HNSW8,PQ7", "OPQ7_14,PQ14x4", "IVF4,PQ7x4,Refine(PQ5x4)"])
def test_a_width_that_seven_divides_is_checked_once_it_is_known(factory: str) -> None:
    """7 divides 70 and not 768; without a width, the string is accepted."""
    check_index(factory)
    check_index(factory, 70)
    if "OPQ" not in factory:
        text = rf"^faiss makes no index '{re.escape(factory)}' of vectors of 768 numbers: .* multiple of .*\.$"
        with pytest.raises(RetrobenchError, match=text):
            check_index(factory, 768)
    _, documents = sides(width=70)
    assert Approximate(documents, "PQ7x4").index.ntotal == 600


def test_an_error_of_faiss_in_a_search_is_one_line() -> None:
    queries, documents = sides()
    index = Approximate(documents, "IVF8,Flat")
    index.index.nprobe = 0
    text = r"^faiss cannot search an index 'IVF8,Flat' of 600 vectors: .*\. Take another"
    with pytest.raises(RetrobenchError, match=text):
        next(index.search(queries, 5, TIE_RANKS))


def test_an_index_is_trained_on_a_bounded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "_TRAINING", 350)
    _, documents = sides()
    text = r"^faiss cannot fill an index 'IVF350,Flat' of 600 vectors: .*\. Take another"
    with pytest.raises(RetrobenchError, match=text):
        Approximate(documents, "IVF350,Flat")
    assert Approximate(documents, "IVF300,Flat").index.ntotal == 600


def test_too_few_documents_and_terms_are_refused() -> None:
    check_index("exact")
    _, documents = sides()
    text = r"^faiss cannot fill an index 'IVF601,Flat' of 600 vectors: .*\. Take another\.$"
    with pytest.raises(RetrobenchError, match=text):
        Approximate(documents, "IVF601,Flat")
    sparse_rows = Terms(np.arange(3), np.zeros(2, np.int32), np.ones(2, np.float32))
    by_terms = VectorSet(None, sparse_rows, 4)
    text = r"^--index SQ8 is for dense vectors, and these have terms\. Leave it out"
    with pytest.raises(RetrobenchError, match=text):
        Approximate(by_terms, "SQ8")
