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
    """Sort by score, then by the bytes of the id, both descending."""
    ordered = sorted(range(len(ids)), key=lambda row: (scores[row], ids[row].encode()), reverse=True)
    return ordered[:depth]


def random_ids(draw: random.Random, count: int) -> list[str]:
    ids: set[str] = set()
    while len(ids) < count:
        letters = draw.choices(ALPHABET, k=draw.randrange(1, 4))
        ids.add("".join(letters))
    return draw.sample(sorted(ids), count)


def test_precedence_is_the_order_of_bytes() -> None:
    descending = ["😀", "\uffff", "日", "é", "b", "ab", "a10", "a1", "a", "Z", "9", "10", "1"]
    for seed in range(5):
        ids = random.Random(seed).sample(descending, len(descending))
        precedences = precedence(ids)
        assert precedences.dtype == np.int32
        assert [ids[row] for row in np.argsort(precedences)] == descending


def test_precedence_of_many_ids_is_that_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(5):
        ids = random_ids(random.Random(seed), 500)
        few = precedence(ids)
        with monkeypatch.context() as patch:
            patch.setattr(ranking, "_MANY", 10)
            many = precedence(ids)
        assert many.dtype == np.int32
        assert np.array_equal(few, many)


@pytest.mark.parametrize("values", [[0.0], [-1.0, 1.0], [-2.5, -2.0, -0.5], [0.0, -0.0, 1e-30], list(range(-50, 50))])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_top_equals_a_plain_sort(values: list[float], dtype: type) -> None:
    draw = random.Random(0)
    for _ in range(60):
        documents = draw.randrange(1, 40)
        queries = draw.randrange(1, 5)
        ids = random_ids(draw, documents)
        scores: np.ndarray = random_scores(draw, values, queries, documents).astype(dtype)
        scores.flags.writeable = False
        for depth in {1, 2, documents - 1 or 1, documents, documents + 7, draw.randrange(1, 40)}:
            rows, best = top(scores, depth, precedence(ids))
            assert rows.shape == best.shape == (queries, min(depth, documents))
            assert best.dtype == dtype
            for query in range(queries):
                assert rows[query].tolist() == naive(scores[query], ids, depth)
                assert best[query].tolist() == scores[query, rows[query]].tolist()


def random_scores(draw: random.Random, values: list[float], queries: int, documents: int) -> np.ndarray:
    lists = [draw.choices(values, k=documents) for _ in range(queries)]
    return np.asarray(lists, np.float64)


def test_order_equals_a_plain_sort() -> None:
    """Each list is another selection of 8 documents."""
    draw = random.Random(1)
    for _ in range(200):
        ids = random_ids(draw, 20)
        selection = np.asarray([draw.sample(range(20), 8) for _ in range(3)])
        scores = random_scores(draw, [-1.0, 0.0, 2.0], queries=3, documents=8).astype(np.float32)
        rows, sorted_scores = order(selection, scores, precedence(ids))
        for query in range(3):
            selected_ids = [ids[row] for row in selection[query]]
            positions = naive(scores[query], selected_ids, 8)
            assert rows[query].tolist() == selection[query, positions].tolist()
            assert sorted_scores[query].tolist() == sorted(scores[query].tolist(), reverse=True)


def test_one_query_whose_scores_are_all_equal() -> None:
    ids = ["d1", "d10", "d2", "d", "é"]
    rows, scores = top(np.full((1, 5), -3.0, np.float32), 3, precedence(ids))
    assert [ids[row] for row in rows[0]] == ["é", "d2", "d10"]
    assert scores.tolist() == [[-3.0, -3.0, -3.0]]


def test_trec_eval_breaks_ties_the_same_way() -> None:
    """Each document in turn is the relevant one; its reciprocal rank tells where trec_eval put it."""
    ids = random_ids(random.Random(2), 30)
    scores = np.asarray([row % 3 for row in range(30)], np.float32)
    rows, _ = top(scores[None], 30, precedence(ids))
    hits = dict(zip(ids, scores.tolist(), strict=True))
    qrels = {document: {document: 1} for document in ids}
    run = dict.fromkeys(ids, hits)
    values = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(run)
    for rank, row in enumerate(rows[0], 1):
        assert values[ids[row]]["recip_rank"] == pytest.approx(1 / rank)


def test_precedence_is_by_the_bytes_of_an_id() -> None:
    assert precedence(["d9", "a", "d10", "b"]).tolist() == [0, 3, 1, 2]


# From candidates to a ranking


IDS = ["d1", "d10", "d2", "d9"]
PRECEDENCES = precedence(IDS)


def ranked_ids(ranked: Ranking) -> list[list[str]]:
    lists = []
    for rows in ranked.rows.tolist():
        lists.append([IDS[row] for row in rows if row >= 0])
    return lists


def test_candidates_in_any_order_become_the_ranking() -> None:
    """-1, which faiss gives for no candidate, goes last and is never a document, whatever its score."""
    rows = np.asarray([[0, -1, 1, 2], [3, 2, 1, 0], [-1, -1, -1, -1]])
    scores = np.asarray([[1.0, 99.0, 2.0, 1.0], [-1.0, -1.0, -1.0, 5.0], [np.nan, 0.0, np.inf, 1.0]])
    ranked = finish(rows, scores, PRECEDENCES, 3)
    assert ranked_ids(ranked) == [["d10", "d2", "d1"], ["d1", "d9", "d2"], []]
    assert ranked.rows.tolist() == [[1, 2, 0], [0, 3, 2], [-1, -1, -1]]
    assert ranked.scores.tolist() == [[2, 1, 1], [5, -1, -1], [-np.inf] * 3]
    assert ranked.rows.dtype == np.int32
    assert ranked.scores.dtype == np.float32
    assert ranked.self_hits == 0
    assert ranked.ties == 2
    deeper = finish(rows, scores, PRECEDENCES, 99)
    assert ranked_ids(deeper) == [["d10", "d2", "d1"], ["d1", "d9", "d2", "d10"], []]


def test_an_own_document_makes_room_for_the_next() -> None:
    """Candidates are one deeper than the cut. The own document of the third list is below the cut: no change."""
    rows = np.asarray([[0, 1, 2, 3]] * 4)
    scores = np.asarray([[4, 3, 2, 1]] * 4, np.float32)
    ranked = finish(rows, scores, PRECEDENCES, 3, np.asarray([0, 2, 3, -1]))
    assert ranked_ids(ranked) == [["d10", "d2", "d9"], ["d1", "d10", "d9"], ["d1", "d10", "d2"], ["d1", "d10", "d2"]]
    assert ranked.scores.tolist() == [[3, 2, 1], [4, 3, 1], [4, 3, 2], [4, 3, 2]]
    assert ranked.self_hits == 2


def test_an_own_document_makes_a_short_list_shorter() -> None:
    rows = np.asarray([[0, 1], [0, 1]])
    scores = np.asarray([[2.0, 1.0], [2.0, 1.0]])
    ranked = finish(rows, scores, PRECEDENCES, 5, np.asarray([1, -1]))
    assert ranked.rows.tolist() == [[0, -1], [0, 1]]
    assert ranked.self_hits == 1


def test_a_list_of_the_own_document_alone_becomes_empty() -> None:
    ranked = finish(np.asarray([[0]]), np.asarray([[2.0]]), PRECEDENCES, 5, np.asarray([0]))
    assert ranked.rows.tolist() == [[-1]]
    assert ranked.scores.tolist() == [[-np.inf]]
    assert ranked.ties == 0


def test_own_rows_are_equal_ids_and_nothing_less() -> None:
    own = own_rows(["d2", "d", "d1", "D1", "d2 "], IDS)
    assert own.tolist() == [2, -1, 0, -1, -1]
    assert own.dtype == np.int32


def test_scores_are_compared_as_32_bits() -> None:
    """Two doubles with an equal float32 are a tie, as in trec_eval, and the ids decide."""
    rows = np.asarray([[0, 2]])
    ranked = finish(rows, np.asarray([[0.987654321, 0.987654320]]), PRECEDENCES, 2)
    assert ranked_ids(ranked) == [["d2", "d1"]]
    assert ranked.ties == 1
    assert ranked_ids(finish(rows, np.asarray([[0.99, 0.98]]), PRECEDENCES, 2)) == [["d1", "d2"]]


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf, 1e39])
def test_a_score_that_is_not_finite_is_no_score(score: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        finish(np.asarray([[0, 1]]), np.asarray([[1.0, score]]), PRECEDENCES, 2)


def test_ties_are_hits_with_the_score_of_the_hit_above() -> None:
    """Three equal hits are two ties. Hits beyond the cut and list ends are none."""
    rows = np.asarray([[0, 1, 2, 3], [0, 1, -1, -1]])
    scores = np.asarray([[7, 7, 7, 1], [2, 2, 0, 0]], np.float32)
    assert finish(rows, scores, PRECEDENCES, 4).ties == 3
    assert finish(rows, scores, PRECEDENCES, 2).ties == 2
    assert finish(rows, scores, PRECEDENCES, 1).ties == 0
    assert count_ties(rows, scores) == 3


def test_tied_documents_of_lists_in_any_order() -> None:
    rows = np.asarray([[0, 1, 2, 3], [0, 1, -1, -1]])
    assert tied(rows, np.asarray([[7, 7, 7, 1], [2, 2, 0, 0]], np.float32)).tolist() == [0, 1, 2]
    assert tied(rows, np.asarray([[1, 5, 2, 1], [4, 3, -np.inf, -np.inf]], np.float32)).tolist() == [0, 3]


def test_equal_scores_gain_nothing() -> None:
    """One score for all: the relevant document's rank is that of its id, on average the middle of the list."""
    ids = random_ids(random.Random(3), 101)
    candidates = np.tile(np.arange(101), (101, 1))
    ranked = finish(candidates, np.zeros((101, 101)), precedence(ids), 101)
    ranks = [1 + rows.index(relevant) for relevant, rows in enumerate(ranked.rows.tolist())]
    assert sorted(ranks) == list(range(1, 102))
    assert ranked.ties == 101 * 100


def test_blocks_join_to_one_ranking() -> None:
    rows = np.asarray([[0, 1, 2]] * 3)
    scores = np.asarray([[1, 1, 0], [3, 2, 2], [5, 5, 5]], np.float32)
    own = np.asarray([1, -1, 2])
    whole = finish(rows, scores, PRECEDENCES, 2, own)
    blocks = []
    for query in range(3):
        block = slice(query, query + 1)
        blocks.append(finish(rows[block], scores[block], PRECEDENCES, 2, own[block]))
    joined = join(blocks, 3)
    assert joined.rows.tolist() == whole.rows.tolist()
    assert joined.scores.tolist() == whole.scores.tolist()
    assert (joined.self_hits, joined.ties) == (whole.self_hits, whole.ties) == (2, 1)


def test_without_blocks_every_list_is_empty() -> None:
    joined = join([], 4)
    assert joined.rows.shape == joined.scores.shape == (4, 0)
