"""The one total order, against a plain sort and against trec_eval's own treatment of ties."""

from __future__ import annotations

import random

import numpy as np
import pytest
import pytrec_eval

from retrobench.data import Exclusions
from retrobench.scoring import ranking
from retrobench.scoring.ranking import (
    Ranking,
    Removals,
    count_ties,
    finish,
    join,
    lengthened,
    order,
    own_rows,
    precedence,
    tied,
    top,
)

# Prefixes of one another, digits of different lengths, one to four bytes a letter.
ALPHABET = ["a", "b", "ab", "1", "10", "9", "Z", "_", "é", "ß", "日", "\uffff", "😀"]


def naive(scores: np.ndarray, ids: list[str], depth: int) -> list[int]:
    """Sort by score, then by the bytes of the id, both descending."""

    def sort_key(row: int) -> tuple[float, bytes]:
        return scores[row], ids[row].encode()

    descending = sorted(range(len(ids)), key=sort_key, reverse=True)
    return descending[:depth]


def random_ids(draw: random.Random, count: int) -> list[str]:
    ids: set[str] = set()
    while len(ids) < count:
        length = draw.randrange(1, 4)
        letters = draw.choices(ALPHABET, k=length)
        ids.add("".join(letters))
    return draw.sample(sorted(ids), count)


def random_scores(draw: random.Random, values: list[float], queries: int, documents: int) -> np.ndarray:
    scores = np.zeros((queries, documents))
    for query in range(queries):
        scores[query] = draw.choices(values, k=documents)
    return scores


def test_precedence_is_the_order_of_bytes() -> None:
    descending = ["😀", "\uffff", "日", "é", "b", "ab", "a10", "a1", "a", "Z", "9", "10", "1"]
    for seed in range(5):
        ids = random.Random(seed).sample(descending, len(descending))
        precedences = precedence(ids)
        assert precedences.dtype == np.int32
        best_first = np.argsort(precedences)
        assert np.asarray(ids)[best_first].tolist() == descending


def test_precedence_of_many_ids_is_that_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(5):
        draw = random.Random(seed)
        ids = random_ids(draw, 500)
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
        one_short = max(1, documents - 1)
        arbitrary = draw.randrange(1, 40)
        for depth in {1, 2, one_short, documents, documents + 7, arbitrary}:
            require_plain_sort(scores, ids, depth)


def require_plain_sort(scores: np.ndarray, ids: list[str], depth: int) -> None:
    """Assert that `top` of the scores [queries, documents] equals the plain sort of each query."""
    queries, documents = scores.shape
    rows, best_scores = top(scores, depth, precedence(ids))
    assert rows.shape == best_scores.shape == (queries, min(depth, documents))
    assert best_scores.dtype == scores.dtype
    for query in range(queries):
        query_scores = scores[query]
        query_rows = rows[query]
        assert query_rows.tolist() == naive(query_scores, ids, depth)
        assert best_scores[query].tolist() == query_scores[query_rows].tolist()


def test_order_equals_a_plain_sort() -> None:
    """Each list is another selection of 8 documents."""
    draw = random.Random(1)
    for _ in range(200):
        ids = random_ids(draw, 20)
        selections = [draw.sample(range(20), 8) for _ in range(3)]
        scores = random_scores(draw, [-1.0, 0.0, 2.0], queries=3, documents=8).astype(np.float32)
        rows, sorted_scores = order(np.asarray(selections), scores, precedence(ids))
        for query, selection in enumerate(selections):
            selected_ids = [ids[row] for row in selection]
            positions = naive(scores[query], selected_ids, 8)
            expected_rows = np.asarray(selection)[positions]
            expected_scores = scores[query, positions]
            assert rows[query].tolist() == expected_rows.tolist()
            assert sorted_scores[query].tolist() == expected_scores.tolist()


def test_one_query_whose_scores_are_all_equal() -> None:
    ids = ["d1", "d10", "d2", "d", "é"]
    equal_scores = np.full((1, 5), -3.0, np.float32)
    rows, scores = top(equal_scores, 3, precedence(ids))
    assert [ids[row] for row in rows[0]] == ["é", "d2", "d10"]
    assert scores.tolist() == [[-3.0, -3.0, -3.0]]


def test_trec_eval_breaks_ties_the_same_way() -> None:
    """Each document in turn is the relevant one; its reciprocal rank tells where trec_eval put it."""
    ids = random_ids(random.Random(2), 30)
    scores = np.arange(30, dtype=np.float32) % 3
    rows, _ = top(scores[None], 30, precedence(ids))
    hits = dict(zip(ids, scores.tolist(), strict=True))
    qrels = {document: {document: 1} for document in ids}
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"})
    values = evaluator.evaluate(dict.fromkeys(ids, hits))
    for rank, row in enumerate(rows[0], 1):
        reciprocal_rank = values[ids[row]]["recip_rank"]
        assert reciprocal_rank == pytest.approx(1 / rank)


def test_precedence_is_by_the_bytes_of_an_id() -> None:
    assert precedence(["d9", "a", "d10", "b"]).tolist() == [0, 3, 1, 2]


# From candidates to a ranking


IDS = ["d1", "d10", "d2", "d9"]
PRECEDENCES = precedence(IDS)


def rank_candidates(
    rows: list[list[int]], scores: list[list[float]], depth: int, own: list[int] | None = None
) -> Ranking:
    """Rank candidates, which are rows of IDS with 64-bit scores; `own` has each query's own document."""
    candidates = np.asarray(rows)
    candidate_scores = np.asarray(scores, np.float64)
    if own is None:
        return finish(candidates, candidate_scores, PRECEDENCES, depth)
    none_excluded = np.empty((len(own), 0), np.int32)
    return finish(candidates, candidate_scores, PRECEDENCES, depth, Removals(np.asarray(own), none_excluded))


def ranked_ids(ranked: Ranking) -> list[list[str]]:
    lists = []
    for rows in ranked.rows.tolist():
        lists.append([IDS[row] for row in rows if row >= 0])
    return lists


def test_candidates_in_any_order_become_the_ranking() -> None:
    """-1, which faiss gives for no candidate, goes last and is never a document, whatever its score."""
    rows = [[0, -1, 1, 2], [3, 2, 1, 0], [-1, -1, -1, -1]]
    scores = [[1.0, 99.0, 2.0, 1.0], [-1.0, -1.0, -1.0, 5.0], [np.nan, 0.0, np.inf, 1.0]]
    ranked = rank_candidates(rows, scores, 3)
    assert ranked_ids(ranked) == [["d10", "d2", "d1"], ["d1", "d9", "d2"], []]
    assert ranked.rows.tolist() == [[1, 2, 0], [0, 3, 2], [-1, -1, -1]]
    assert ranked.scores.tolist() == [[2, 1, 1], [5, -1, -1], [-np.inf] * 3]
    assert ranked.rows.dtype == np.int32
    assert ranked.scores.dtype == np.float32
    assert ranked.self_hits == 0
    assert ranked.ties == 2
    deeper = rank_candidates(rows, scores, 99)
    assert ranked_ids(deeper) == [["d10", "d2", "d1"], ["d1", "d9", "d2", "d10"], []]


def test_an_own_document_makes_room_for_the_next() -> None:
    """Candidates are one deeper than the cut. The own document of the third list is below the cut: no change."""
    rows = [[0, 1, 2, 3]] * 4
    scores = [[4.0, 3.0, 2.0, 1.0]] * 4
    ranked = rank_candidates(rows, scores, 3, own=[0, 2, 3, -1])
    unchanged = ["d1", "d10", "d2"]
    assert ranked_ids(ranked) == [["d10", "d2", "d9"], ["d1", "d10", "d9"], unchanged, unchanged]
    assert ranked.scores.tolist() == [[3, 2, 1], [4, 3, 1], [4, 3, 2], [4, 3, 2]]
    assert ranked.self_hits == 2


def test_an_own_document_makes_a_short_list_shorter() -> None:
    rows = [[0, 1], [0, 1]]
    scores = [[2.0, 1.0], [2.0, 1.0]]
    ranked = rank_candidates(rows, scores, 5, own=[1, -1])
    assert ranked.rows.tolist() == [[0, -1], [0, 1]]
    assert ranked.self_hits == 1


def test_a_list_of_the_own_document_alone_becomes_empty() -> None:
    ranked = rank_candidates([[0]], [[2.0]], 5, own=[0])
    assert ranked.rows.tolist() == [[-1]]
    assert ranked.scores.tolist() == [[-np.inf]]
    assert ranked.ties == 0


def test_excluded_documents_leave_before_the_cut() -> None:
    """The first list loses its three best hits, one of which is its own. The second loses nothing."""
    exclusions = Exclusions(True, {"d1": frozenset({"d10", "d2", "absent"}), "other": frozenset({"d9"})})
    removals = Removals.of(["d1", "q"], IDS, exclusions)
    assert removals.most == 3
    assert removals.slice(1, 2).most == 0
    rows = np.asarray([[0, 1, 2, 3]] * 2)
    scores = np.asarray([[4.0, 3.0, 2.0, 1.0]] * 2)
    ranked = finish(rows, scores, PRECEDENCES, 1, removals)
    assert ranked_ids(ranked) == [["d9"], ["d1"]]
    assert ranked.scores.tolist() == [[1], [4]]
    assert (ranked.self_hits, ranked.excluded) == (1, 0)
    deeper = finish(rows, scores, PRECEDENCES, 3, removals)
    assert ranked_ids(deeper) == [["d9"], ["d1", "d10", "d2"]]
    assert (deeper.self_hits, deeper.excluded) == (1, 2)


def test_a_ranking_is_lengthened_without_hits() -> None:
    ranked = lengthened(rank_candidates([[0, 1]], [[2.0, 1.0]], 2), 4)
    assert ranked.rows.tolist() == [[0, 1, -1, -1]]
    assert ranked.scores.tolist() == [[2, 1, -np.inf, -np.inf]]


def test_own_rows_are_equal_ids_and_nothing_less() -> None:
    own = own_rows(["d2", "d", "d1", "D1", "d2 "], IDS)
    assert own.tolist() == [2, -1, 0, -1, -1]
    assert own.dtype == np.int32


def test_scores_are_compared_as_32_bits() -> None:
    """Two doubles with an equal float32 are a tie, as in trec_eval, and the ids decide."""
    equal_in_32_bits = rank_candidates([[0, 2]], [[0.987654321, 0.987654320]], 2)
    assert ranked_ids(equal_in_32_bits) == [["d2", "d1"]]
    assert equal_in_32_bits.ties == 1
    different_in_32_bits = rank_candidates([[0, 2]], [[0.99, 0.98]], 2)
    assert ranked_ids(different_in_32_bits) == [["d1", "d2"]]


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf, 1e39])
def test_a_score_that_is_not_finite_is_no_score(score: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        rank_candidates([[0, 1]], [[1.0, score]], 2)


def test_ties_are_hits_with_the_score_of_the_hit_above() -> None:
    """Three equal hits are two ties. Hits beyond the cut and list ends are none."""
    rows = np.asarray([[0, 1, 2, 3], [0, 1, -1, -1]])
    scores = np.asarray([[7, 7, 7, 1], [2, 2, 0, 0]], np.float32)
    assert count_ties(rows, scores) == 3
    ties_by_depth = {4: 3, 2: 2, 1: 0}
    for depth, ties in ties_by_depth.items():
        ranked = finish(rows, scores, PRECEDENCES, depth)
        assert ranked.ties == ties


def test_tied_documents_of_lists_in_any_order() -> None:
    rows = np.asarray([[0, 1, 2, 3], [0, 1, -1, -1]])
    sorted_scores = np.asarray([[7, 7, 7, 1], [2, 2, 0, 0]], np.float32)
    assert tied(rows, sorted_scores).tolist() == [0, 1, 2]
    unsorted_scores = np.asarray([[1, 5, 2, 1], [4, 3, -np.inf, -np.inf]], np.float32)
    assert tied(rows, unsorted_scores).tolist() == [0, 3]


def test_equal_scores_gain_nothing() -> None:
    """One score for all: the relevant document's rank is that of its id, on average the middle of the list."""
    ids = random_ids(random.Random(3), 101)
    candidates = np.tile(np.arange(101), (101, 1))
    equal_scores = np.zeros((101, 101))
    ranked = finish(candidates, equal_scores, precedence(ids), 101)
    ranks = []
    for relevant, rows in enumerate(ranked.rows.tolist()):
        ranks.append(1 + rows.index(relevant))
    assert sorted(ranks) == list(range(1, 102))
    assert ranked.ties == 101 * 100


def test_blocks_join_to_one_ranking() -> None:
    rows = [[0, 1, 2]] * 3
    scores = [[1.0, 1.0, 0.0], [3.0, 2.0, 2.0], [5.0, 5.0, 5.0]]
    own = [1, -1, 2]
    whole = rank_candidates(rows, scores, 2, own)
    blocks = []
    for query in range(3):
        block = slice(query, query + 1)
        blocks.append(rank_candidates(rows[block], scores[block], 2, own[block]))
    joined = join(blocks, 3)
    assert joined.rows.tolist() == whole.rows.tolist()
    assert joined.scores.tolist() == whole.scores.tolist()
    assert joined.self_hits == whole.self_hits == 2
    assert joined.ties == whole.ties == 1


def test_without_blocks_every_list_is_empty() -> None:
    joined = join([], 4)
    assert joined.rows.shape == joined.scores.shape == (4, 0)
