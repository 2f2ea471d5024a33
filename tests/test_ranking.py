"""The one total order, against a plain sort and against trec_eval's own treatment of ties."""

from __future__ import annotations

import random

import numpy as np
import pytest
import pytrec_eval

from retrobench.ranking import order, precedence, top

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
