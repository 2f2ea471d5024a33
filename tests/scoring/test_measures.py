"""Measures by hand, by a plain definition on random runs, and errors for engines that differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from retrobench.errors import RetrobenchError
from retrobench.scoring import measures
from retrobench.scoring.judged import condensed, unanswerable
from retrobench.scoring.measures import check, measure

NAMES = ("nDCG@10", "MRR@10", "RR", "MRR@2", "Recall@2", "Recall@100", "Success@1", "Success@5", "MAP", "MAP@2")

IDS = ["a", "b", "c", "d", "e"]


def measure_one(
    grades: Mapping[str, int], ranked: str, names: Sequence[str] = NAMES, level: int = 1
) -> dict[str, float]:
    """Return the measures of one query, whose ranking is a string of one-letter documents."""
    rows = [IDS.index(document) for document in ranked]
    hits = np.asarray([rows], np.int32)
    values = measure(["q"], hits, IDS, {"q": grades}, names, level)
    return values_of("q", values)


def values_of(query: str, values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    query_values = {}
    for name, by_query in values.items():
        query_values[name] = by_query[query]
    return query_values


def zeros(*queries: str) -> dict[str, dict[str, float]]:
    """Return every measure as 0 for these queries."""
    return {name: dict.fromkeys(queries, 0.0) for name in NAMES}


def naive(name: str, grades: Mapping[str, int], ranked: list[str]) -> float:
    """Return a measure by its definition: gain linear in the grade, relevant from grade 1 on."""
    kind, _, cutoff = name.partition("@")
    depth = len(ranked)
    if cutoff:
        depth = int(cutoff)
    gains = []
    ranks = []
    for rank, document in enumerate(ranked[:depth], 1):
        gain = max(0, grades.get(document, 0))
        gains.append(gain)
        if gain:
            ranks.append(rank)
    relevant = [grade for grade in grades.values() if grade > 0]
    if not ranks:
        return 0.0
    if kind == "nDCG":
        ideal = sorted(relevant, reverse=True)[:depth]
        return discounted(gains) / discounted(ideal)
    if kind == "MAP":
        precisions = np.arange(1, len(ranks) + 1) / ranks
        return float(precisions.sum() / len(relevant))
    if kind == "Recall":
        return len(ranks) / len(relevant)
    if kind == "Success":
        return 1.0
    return 1 / ranks[0]


def discounted(gains: Sequence[int]) -> float:
    total = 0.0
    for rank, gain in enumerate(gains, 1):
        total += gain / math.log2(rank + 1)
    return total


# By hand


def test_graded_judgements_in_any_order() -> None:
    """Gains 1, 0, 3 against the ideal 3, 1."""
    gain = 1 + 3 / 2
    ideal = 3 + 1 / math.log2(3)
    expected = dict.fromkeys(NAMES, 1.0)
    expected["nDCG@10"] = gain / ideal
    expected["Recall@2"] = 1 / 2
    expected["MAP"] = (1 + 2 / 3) / 2
    expected["MAP@2"] = 1 / 2
    values = measure_one({"b": 1, "a": 3}, "bca")
    assert values == pytest.approx(expected)


def test_a_late_hit() -> None:
    values = measure_one({"e": 1}, "abcde")
    assert values == pytest.approx(
        {
            "nDCG@10": 1 / math.log2(6),
            "MRR@10": 1 / 5,
            "RR": 1 / 5,
            "MRR@2": 0.0,
            "Recall@2": 0.0,
            "Recall@100": 1.0,
            "Success@1": 0.0,
            "Success@5": 1.0,
            "MAP": 1 / 5,
            "MAP@2": 0.0,
        }
    )


def test_a_cut_off_ends_the_reciprocal_rank() -> None:
    ids = [f"d{row:02}" for row in range(12)]
    hits = np.arange(12)[None]
    qrels = {"q": {"d11": 1}}
    values = measure(["q"], hits, ids, qrels, ["RR", "RR@10", "MRR@12"])
    assert values_of("q", values) == pytest.approx({"RR": 1 / 12, "MRR@10": 0.0, "MRR@12": 1 / 12})


def test_a_negative_grade_counts_as_not_relevant() -> None:
    negative = measure_one({"a": -2, "b": 1}, "ab")
    zero = measure_one({"a": 0, "b": 1}, "ab")
    unjudged = measure_one({"b": 1}, "ab")
    assert negative == zero == unjudged
    assert negative["nDCG@10"] == pytest.approx(1 / math.log2(3))


def test_a_judged_document_that_the_collection_lacks_can_only_be_missed() -> None:
    values = measure_one({"a": 1, "gone": 2, "gone too": 1}, "a")
    ideal = 2 + 1 / math.log2(3) + 1 / 2
    assert values["Recall@100"] == pytest.approx(1 / 3)
    assert values["MAP"] == pytest.approx(1 / 3)
    assert values["nDCG@10"] == pytest.approx(1 / ideal)


def test_a_query_without_a_relevant_document_is_zero() -> None:
    assert measure_one({"a": 0, "b": -1}, "ab") == dict.fromkeys(NAMES, 0.0)


def test_a_judged_query_without_a_ranking_is_zero_and_stays() -> None:
    """A query without judgements is left out."""
    hits = np.asarray([[0, 1], [1, 0]], np.int32)
    qrels = {"missing": {"a": 1}, "q1": {"a": 1}}
    values = measure(["q1", "unjudged"], hits, IDS, qrels, NAMES)
    for by_query in values.values():
        assert list(by_query) == ["missing", "q1"]
        assert by_query["missing"] == 0.0
    assert values["MRR@10"]["q1"] == 1.0


def test_a_short_ranking_is_not_filled_up() -> None:
    """-1 ends a list. As a row it would index the last document, e."""
    hits = np.asarray([[0, -1, -1], [-1, -1, -1]], np.int32)
    qrels = {"q1": {"e": 1}, "q2": {"e": 1}}
    values = measure(["q1", "q2"], hits, IDS, qrels, NAMES)
    assert values == zeros("q1", "q2")


@pytest.mark.parametrize("name", NAMES)
def test_one_measure_alone(name: str) -> None:
    grades = {"b": 1, "a": 3}
    alone = measure_one(grades, "bca", (name,))
    together = measure_one(grades, "bca")
    assert alone == {name: together[name]}


# By definition


def test_three_thousand_random_queries() -> None:
    """`measure` raises unless both engines agree; they also equal the plain definition. A block holds 1,000 queries."""
    draw = np.random.default_rng(0)
    ids = [f"d{row}" for row in range(60)]
    judgeable = [*ids, "gone0", "gone1", "gone2", "gone3", "gone4"]
    queries = [f"q{row}" for row in range(3000)]
    hits = random_hits(draw, len(queries), len(ids), 25)
    qrels = {query: random_grades(draw, judgeable) for query in queries}
    values = measure(queries, hits, ids, qrels, NAMES)
    for name in NAMES:
        expected = []
        for query, rows in zip(queries, hits.tolist(), strict=True):
            ranked = [ids[row] for row in rows if row >= 0]
            expected.append(naive(name, qrels[query], ranked))
        computed = list(values[name].values())
        assert computed == pytest.approx(expected, abs=1e-9), name
        assert 0.01 < np.mean(expected) < 0.99


def random_hits(draw: np.random.Generator, queries: int, documents: int, depth: int) -> np.ndarray:
    """Draw rankings [queries, depth], of which five in eight end early, with -1."""
    orders = np.argsort(draw.random((queries, documents)), axis=1)
    hits = orders[:, :depth].astype(np.int32)
    lengths = draw.integers(0, 40, (queries, 1))
    beyond_the_end = np.arange(depth) >= lengths
    hits[beyond_the_end] = -1
    return hits


def random_grades(draw: np.random.Generator, documents: Sequence[str]) -> dict[str, int]:
    count = draw.integers(1, 15)
    grades = {}
    for document in draw.choice(documents, count, replace=False):
        grades[str(document)] = int(draw.integers(-1, 4))
    return grades


# Relevance levels and kinds of gain


GRADES = {"a": 1, "b": 3, "c": 2}


@pytest.mark.parametrize(
    ("level", "reciprocal_rank", "recall", "success", "average_precision"),
    [
        (1, 1, 2 / 3, 1, 1),
        (2, 1 / 2, 1 / 2, 0, (1 / 2 + 2 / 3) / 2),
        (3, 1 / 2, 1, 0, 1 / 2),
        (4, 0, 0, 0, 0),
    ],
)
def test_binary_measures_take_grades_from_the_level_on_and_ndcg_all(
    level: int, reciprocal_rank: float, recall: float, success: float, average_precision: float
) -> None:
    """The ranking a, b, c has grades 1, 3, 2. At level 2 the first hit is not relevant, yet its grade is gain."""
    gain = 1 + 3 / math.log2(3) + 2 / 2
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    expected = {
        "MRR@10": reciprocal_rank,
        "RR": reciprocal_rank,
        "Recall@2": recall,
        "Success@1": success,
        "MAP": average_precision,
        "nDCG@10": gain / ideal,
    }
    values = measure_one(GRADES, "abc", list(expected), level)
    assert values == pytest.approx(expected)


def test_gain_is_linear() -> None:
    """Exponential gain, 2**grade - 1, would be 0.6 of the ideal here."""
    ndcg = measure_one({"a": 1, "b": 2}, "ab", ["nDCG@2"])["nDCG@2"]
    discount = math.log2(3)
    linear = (1 + 2 / discount) / (2 + 1 / discount)
    exponential = (1 + 3 / discount) / (3 + 1 / discount)
    assert ndcg == pytest.approx(linear)
    assert ndcg != pytest.approx(exponential, abs=0.01)


def test_a_level_in_a_name_is_stronger_than_the_runs() -> None:
    names = ["RR(rel=3)@10", "MRR@10", "R(rel=1)@2", "AP(rel=2)"]
    values = measure_one(GRADES, "cba", names, level=2)
    assert values == pytest.approx({"MRR(rel=3)@10": 1 / 2, "MRR@10": 1.0, "Recall(rel=1)@2": 2 / 3, "MAP": 1.0})


def test_success_and_recall_differ() -> None:
    """One of two relevant documents is retrieved: a success, and a recall of a half."""
    values = measure_one({"a": 1, "b": 1}, "ac", ["Success@5", "Recall@5"])
    assert values == {"Success@5": 1.0, "Recall@5": 0.5}


def test_the_mean_is_over_all_judged_queries_and_no_list_is_padded_with_document_0() -> None:
    """The official script of MS MARCO fills short lists with document 0, a real document: it would give 0.25."""
    hits = np.asarray([[1, 2, 3, -1]])
    qrels = {"q": {"0": 1}, "no run": {"7": 1}}
    values = measure(["q"], hits, ["0", "7", "8", "9"], qrels, ["MRR@10"])
    assert values == {"MRR@10": {"q": 0.0, "no run": 0.0}}


def test_unanswerable_queries() -> None:
    qrels = {"q1": {"a": 1, "b": 0}, "q2": {"a": 0}, "q3": {"a": -1}, "q4": {"a": 2}}
    assert unanswerable(qrels) == ["q2", "q3"]
    assert unanswerable(qrels, 2) == ["q1", "q2", "q3"]


def test_a_document_outside_the_ids_counts_as_not_judged() -> None:
    qrels = {"q": {"a": 1, "gone": 1}}
    hits_outside = np.asarray([[-2, 0, -2, -1]])
    hits_inside = np.asarray([[1, 0, 2, -1]])
    outside = measure(["q"], hits_outside, ["a"], qrels, NAMES)
    inside = measure(["q"], hits_inside, ["a", "x", "y"], qrels, NAMES)
    assert outside == inside
    assert outside["RR"]["q"] == 0.5


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 0)])
def test_a_ranking_without_any_hit(shape: tuple[int, int]) -> None:
    queries = ["q"] * shape[0]
    hits = np.zeros(shape, np.int32)
    values = measure(queries, hits, IDS, {"q": {"a": 1}}, NAMES)
    assert values == zeros("q")


def test_queries_are_matched_by_id_not_by_position() -> None:
    """Rankings may come in another order than the judgements."""
    hits = np.asarray([[0, 1], [1, 0], [2, 0]])
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}}
    expected = {"RR": {"q1": 1.0, "q2": 0.5, "q3": 0.5}}
    assert measure(["q1", "q2", "q3"], hits, IDS, qrels, ["RR"]) == expected
    last_first = hits[[2, 0, 1]]
    assert measure(["q3", "q1", "q2"], last_first, IDS, qrels, ["RR"]) == expected


# Disagreements


def test_engines_that_differ_raise() -> None:
    queries = [f"q{row}" for row in range(6)]
    ranx = np.asarray([0.5, 0.25, 0.0, 1.0, 1.0, 1.0])
    trec_eval = np.asarray([0.5 + 9e-7, 0.5, 1.0, 1.0, 0.0, 0.0])
    with pytest.raises(RetrobenchError) as raised:
        check(queries, {"MRR@10": ranx}, {"MRR@10": trec_eval})
    message = str(raised.value)
    assert "MRR@10 for 4 queries" in message
    assert "q1 (0.250000, 0.500000), q2 (0.000000, 1.000000), q4 (1.000000, 0.000000)." in message
    assert "report it" in message


def test_engines_within_the_tolerance_agree() -> None:
    values = np.asarray([0.5, 0.25, 0.0, 1.0])
    check(["q0", "q1", "q2", "q3"], {"MRR@10": values}, {"MRR@10": values + 9e-7})


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.5, 1.5])
def test_a_value_outside_0_to_1_raises(value: float) -> None:
    values = {"MAP": np.asarray([0.5, value])}
    with pytest.raises(RetrobenchError, match=r"disagree on MAP for 1 queries: q2 "):
        check(["q1", "q2"], values, values)


def test_measure_compares_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measures._TREC, "Recall", "success")  # as if trec_eval computed another measure
    with pytest.raises(RetrobenchError, match=r"disagree on Recall@2 for 1 queries: q \(0\.500000, 1\.000000\)"):
        measure_one({"a": 1, "b": 1}, "ac", ("Recall@2",))


def test_judged_is_the_share_of_hits_with_a_judgement_of_any_grade() -> None:
    """As in ir_measures: a short list is divided by its length, and a judgement for another query is none."""
    ids = ["a", "b", "c", "d", "e"]
    qrels = {"q1": {"a": 1, "b": 0, "c": -2}, "q2": {"d": 1}, "q3": {"e": 1}, "q4": {"a": 1}}
    hits = np.asarray([[3, 0, 2, 1], [0, 3, -1, -1], [-1, -1, -1, -1]], np.int32)
    values = measure(["q1", "q2", "q3"], hits, ids, qrels, ["Judged@2", "Judged@10", "RR"])
    assert values["Judged@2"] == {"q1": 0.5, "q2": 0.5, "q3": 0.0, "q4": 0.0}
    assert values["Judged@10"] == {"q1": 0.75, "q2": 0.5, "q3": 0.0, "q4": 0.0}
    assert values["RR"] == {"q1": 0.5, "q2": 0.5, "q3": 0.0, "q4": 0.0}
    alone = measure(["q1"], hits[:1], ids, qrels, ["Judged@2"])
    assert alone["Judged@2"] == {"q1": 0.5, "q2": 0.0, "q3": 0.0, "q4": 0.0}


def test_a_condensed_list_keeps_the_hits_judged_for_its_query() -> None:
    ids = ["a", "b", "c", "d"]
    hits = np.asarray([[3, 0, 2, 1], [0, 3, -1, -1], [1, 2, 3, 0]], np.int32)
    lists = condensed(["q1", "q2", "unjudged"], hits, ids, {"q1": {"a": 1, "b": 0, "gone": 1}, "q2": {"d": 1}})
    assert lists.tolist() == [[0, 1, -1, -1], [3, -1, -1, -1], [-1, -1, -1, -1]]


@pytest.mark.parametrize("grades", [(-2, -2), (-1, -1), (-100, -3)])
def test_a_query_of_negative_grades_alone_counts_0(grades: tuple[int, int]) -> None:
    """Unchanged, such grades end the process in trec_eval's code."""
    qrels = {"q": dict(zip("ab", grades, strict=True))}
    values = measure(["q"], np.asarray([[0, 1]], np.int32), ["a", "b"], qrels, ["nDCG@10", "RR", "MAP", "Recall@10"])
    assert values == {name: {"q": 0.0} for name in ("nDCG@10", "RR", "MAP", "Recall@10")}
