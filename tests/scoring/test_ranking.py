"""The one total order, against a plain sort and against trec_eval's own treatment of ties."""

from __future__ import annotations

import random

import numpy as np
import pytest
import pytrec_eval

from retrobench.scoring import ranking
from retrobench.scoring.ranking import Ranking, count_ties, finish, join, order, own_rows, precedence, tied, top

# Prefixes of one another, digits of different lengths, one to four bytes a letter.
ALPHABET = ["a", "b", "ab", "1", "10", "9", "Z", "_", "é", "ß", "日", "\uffff", "😀"]


def naive(scores: np.ndarray, ids: list[str], depth: int) -> list[int]:
    """Sorted by score, then by the bytes of the id, both descending."""
    return sorted(range(len(ids)), key=lambda row: (scores[row], ids[row].encode()), reverse=True)[:depth]


def random_ids(draw: random.Random, count: int) -> list[str]:
    found: set[str] = set()
    while len(found) < count:
        found.add("".join(draw.choices(ALPHABET, k=draw.randrange(1, 4))))
    return draw.sample(sorted(found), count)


def test_precedence_is_the_order_of_bytes() -> None:
    descending = ["😀", "\uffff", "日", "é", "b", "ab", "a10", "a1", "a", "Z", "9", "10", "1"]
    for seed in range(5):
        ids = random.Random(seed).sample(descending, len(descending))
        places = precedence(ids)
        assert places.dtype == np.int32
        assert [ids[row] for row in np.argsort(places)] == descending


def test_precedence_of_many_ids_is_that_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(5):
        ids = random_ids(random.Random(seed), 500)
        few = precedence(ids)
        with monkeypatch.context() as patch:
            patch.setattr(ranking, "_MANY", 10)
            many = precedence(ids)
        assert many.dtype == np.int32 and np.array_equal(few, many)


@pytest.mark.parametrize("values", [[0.0], [-1.0, 1.0], [-2.5, -2.0, -0.5], [0.0, -0.0, 1e-30], list(range(-50, 50))])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_top_equals_a_plain_sort(values: list[float], dtype: type) -> None:
    draw = random.Random(0)
    for _ in range(60):
        documents, queries = draw.randrange(1, 40), draw.randrange(1, 5)
        ids = random_ids(draw, documents)
        scores: np.ndarray = np.asarray([draw.choices(values, k=documents) for _ in range(queries)], dtype)
        scores.flags.writeable = False
        for depth in {1, 2, documents - 1 or 1, documents, documents + 7, draw.randrange(1, 40)}:
            rows, kept = top(scores, depth, precedence(ids))
            assert rows.shape == kept.shape == (queries, min(depth, documents))
            assert kept.dtype == dtype
            for query in range(queries):
                assert rows[query].tolist() == naive(scores[query], ids, depth)
                assert kept[query].tolist() == scores[query, rows[query]].tolist()


def test_order_equals_a_plain_sort() -> None:
    """Of some of the documents only, each list another selection."""
    draw = random.Random(1)
    for _ in range(200):
        ids = random_ids(draw, 20)
        chosen = np.asarray([draw.sample(range(20), 8) for _ in range(3)])
        scores = np.asarray([draw.choices([-1.0, 0.0, 2.0], k=8) for _ in range(3)], np.float32)
        rows, kept = order(chosen, scores, precedence(ids))
        for query in range(3):
            expected = [chosen[query, at] for at in naive(scores[query], [ids[row] for row in chosen[query]], 8)]
            assert rows[query].tolist() == expected
            assert kept[query].tolist() == sorted(scores[query].tolist(), reverse=True)


def test_one_query_whose_scores_are_all_equal() -> None:
    ids = ["d1", "d10", "d2", "d", "é"]
    rows, scores = top(np.full((1, 5), -3.0, np.float32), 3, precedence(ids))
    assert [[ids[row] for row in found] for found in rows] == [["é", "d2", "d10"]]
    assert scores.tolist() == [[-3.0, -3.0, -3.0]]


def test_trec_eval_breaks_ties_the_same_way() -> None:
    """Each document in turn is the relevant one; its reciprocal rank tells where trec_eval put it."""
    ids = random_ids(random.Random(2), 30)
    scores = np.asarray([row % 3 for row in range(30)], np.float32)
    rows, _ = top(scores[None], 30, precedence(ids))
    run = {identifier: dict(zip(ids, scores.tolist(), strict=True)) for identifier in ids}
    found = pytrec_eval.RelevanceEvaluator({d: {d: 1} for d in ids}, {"recip_rank"}).evaluate(run)
    expected = {ids[row]: 1 / rank for rank, row in enumerate(rows[0], 1)}
    assert {d: values["recip_rank"] for d, values in found.items()} == pytest.approx(expected)


def test_precedence_is_by_the_bytes_of_an_id() -> None:
    assert precedence(["d9", "a", "d10", "b"]).tolist() == [0, 3, 1, 2]


# From candidates to a ranking


IDS = ["d1", "d10", "d2", "d9"]
PLACES = precedence(IDS)


def names(ranked: Ranking) -> list[list[str]]:
    return [[IDS[row] for row in rows if row >= 0] for rows in ranked.rows.tolist()]


def test_candidates_in_any_order_become_the_ranking() -> None:
    """-1, which faiss gives for nothing, goes last and is never a document, whatever score stands beside it."""
    rows = np.asarray([[0, -1, 1, 2], [3, 2, 1, 0], [-1, -1, -1, -1]])
    scores = np.asarray([[1.0, 99.0, 2.0, 1.0], [-1.0, -1.0, -1.0, 5.0], [np.nan, 0.0, np.inf, 1.0]])
    found = finish(rows, scores, PLACES, 3)
    assert names(found) == [["d10", "d2", "d1"], ["d1", "d9", "d2"], []]
    assert found.rows.tolist() == [[1, 2, 0], [0, 3, 2], [-1, -1, -1]]
    assert found.scores.tolist() == [[2, 1, 1], [5, -1, -1], [-np.inf] * 3]
    assert found.rows.dtype == np.int32 and found.scores.dtype == np.float32
    assert (found.self_hits, found.ties) == (0, 2)
    assert names(finish(rows, scores, PLACES, 99)) == [["d10", "d2", "d1"], ["d1", "d9", "d2", "d10"], []]


def test_an_own_document_makes_room_for_the_next() -> None:
    """Candidates are one deeper than the cut. The own document of the third list lay below the cut: nothing changed."""
    rows = np.asarray([[0, 1, 2, 3]] * 4)
    scores = np.asarray([[4, 3, 2, 1]] * 4, np.float32)
    found = finish(rows, scores, PLACES, 3, np.asarray([0, 2, 3, -1]))
    assert names(found) == [["d10", "d2", "d9"], ["d1", "d10", "d9"], ["d1", "d10", "d2"], ["d1", "d10", "d2"]]
    assert found.scores.tolist() == [[3, 2, 1], [4, 3, 1], [4, 3, 2], [4, 3, 2]]
    assert found.self_hits == 2


def test_an_own_document_makes_a_short_list_shorter() -> None:
    rows, scores = np.asarray([[0, 1], [0, 1]]), np.asarray([[2.0, 1.0], [2.0, 1.0]])
    found = finish(rows, scores, PLACES, 5, np.asarray([1, -1]))
    assert found.rows.tolist() == [[0, -1], [0, 1]] and found.self_hits == 1
    alone = finish(rows[:1, :1], scores[:1, :1], PLACES, 5, np.asarray([0]))
    assert alone.rows.tolist() == [[-1]] and alone.scores.tolist() == [[-np.inf]] and alone.ties == 0


def test_own_rows_are_equal_ids_and_nothing_less() -> None:
    own = own_rows(["d2", "d", "d1", "D1", "d2 "], IDS)
    assert own.tolist() == [2, -1, 0, -1, -1] and own.dtype == np.int32


def test_scores_are_compared_as_32_bits() -> None:
    """As trec_eval keeps them: two doubles that one float32 stands for are a tie, and the ids decide."""
    rows, scores = np.asarray([[0, 2]]), np.asarray([[0.987654321, 0.987654320]])
    found = finish(rows, scores, PLACES, 2)
    assert names(found) == [["d2", "d1"]] and found.ties == 1
    assert names(finish(rows, np.asarray([[0.99, 0.98]]), PLACES, 2)) == [["d1", "d2"]]


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf, 1e39])
def test_a_score_that_is_not_finite_is_no_score(score: float) -> None:
    with pytest.raises(ValueError, match="a candidate's score is not finite as a 32-bit number"):
        finish(np.asarray([[0, 1]]), np.asarray([[1.0, score]]), PLACES, 2)


def test_ties_are_hits_with_the_score_of_the_hit_above() -> None:
    """Three equal hits are two ties; what the cut took away is none; list ends are none."""
    rows = np.asarray([[0, 1, 2, 3], [0, 1, -1, -1]])
    scores = np.asarray([[7, 7, 7, 1], [2, 2, 0, 0]], np.float32)
    assert finish(rows, scores, PLACES, 4).ties == 3
    assert finish(rows, scores, PLACES, 2).ties == 2
    assert finish(rows, scores, PLACES, 1).ties == 0
    assert count_ties(rows, scores) == 3
    assert tied(rows, scores).tolist() == [0, 1, 2]
    assert tied(rows, np.asarray([[1, 5, 2, 1], [4, 3, -np.inf, -np.inf]], np.float32)).tolist() == [0, 3]


def test_a_scorer_that_knows_nothing_gains_nothing() -> None:
    """One score for all: the relevant document's rank is that of its id, on average the middle of the list."""
    ids = random_ids(random.Random(3), 101)
    found = finish(np.tile(np.arange(101), (101, 1)), np.zeros((101, 101)), precedence(ids), 101)
    ranks = [1 + rows.index(relevant) for relevant, rows in enumerate(found.rows.tolist())]
    assert sorted(ranks) == list(range(1, 102)) and found.ties == 101 * 100


def test_blocks_join_to_one_ranking() -> None:
    rows, scores = np.asarray([[0, 1, 2]] * 3), np.asarray([[1, 1, 0], [3, 2, 2], [5, 5, 5]], np.float32)
    own = np.asarray([1, -1, 2])
    parts = [finish(rows[at : at + 1], scores[at : at + 1], PLACES, 2, own[at : at + 1]) for at in range(3)]
    whole, joined = finish(rows, scores, PLACES, 2, own), join(parts, 3)
    assert joined.rows.tolist() == whole.rows.tolist() and joined.scores.tolist() == whole.scores.tolist()
    assert (joined.self_hits, joined.ties) == (whole.self_hits, whole.ties) == (2, 1)
    assert join([], 4).rows.shape == join([], 4).scores.shape == (4, 0)
