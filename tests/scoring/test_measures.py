"""Measures by hand, by a plain definition on random runs, and errors for engines that differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from retrobench.errors import RetrobenchError
from retrobench.scoring import measures
from retrobench.scoring.measures import canonical, check, deepest, measure, unanswerable

NAMES = ("nDCG@10", "MRR@10", "RR", "MRR@2", "Recall@2", "Recall@100", "Success@1", "Success@5", "MAP", "MAP@2")

IDS = ["a", "b", "c", "d", "e"]


def measure_one(
    grades: Mapping[str, int], ranked: str, names: Sequence[str] = NAMES, level: int = 1
) -> dict[str, float]:
    """Return the measures of one query, whose ranking is a string of one-letter documents."""
    hits = np.asarray([[IDS.index(document) for document in ranked]], np.int32)
    return values_of("q", measure(["q"], hits, IDS, {"q": grades}, names, level))


def values_of(query: str, values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: by_query[query] for name, by_query in values.items()}


def naive(name: str, grades: Mapping[str, int], ranked: list[str]) -> float:
    """Return a measure by its definition: gain linear in the grade, relevant from grade 1 on."""
    kind, _, cutoff = name.partition("@")
    depth = int(cutoff) if cutoff else len(ranked)
    gains = [max(0, grades.get(document, 0)) for document in ranked[:depth]]
    relevant = [grade for grade in grades.values() if grade > 0]
    ranks = [rank for rank, gain in enumerate(gains, 1) if gain]
    if not ranks:
        return 0.0
    if kind == "nDCG":
        ideal = sorted(relevant, reverse=True)[:depth]
        return discounted(gains) / discounted(ideal)
    if kind == "MAP":
        precisions = [hits / rank for hits, rank in enumerate(ranks, 1)]
        return sum(precisions) / len(relevant)
    if kind == "Recall":
        return len(ranks) / len(relevant)
    if kind == "Success":
        return 1.0
    return 1 / ranks[0]


def discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


# By hand


def test_graded_judgements_in_any_order() -> None:
    """Gains 1, 0, 3 against the ideal 3, 1."""
    gain = 1 + 3 / 2
    ideal = 3 + 1 / math.log2(3)
    assert measure_one({"b": 1, "a": 3}, "bca") == pytest.approx(
        {
            "nDCG@10": gain / ideal,
            **dict.fromkeys(["MRR@10", "RR", "MRR@2", "Recall@100", "Success@1", "Success@5"], 1.0),
            "Recall@2": 1 / 2,
            "MAP": (1 + 2 / 3) / 2,
            "MAP@2": 1 / 2,
        }
    )


def test_a_late_hit() -> None:
    assert measure_one({"e": 1}, "abcde") == pytest.approx(
        {
            "nDCG@10": 1 / math.log2(6),
            **dict.fromkeys(["MRR@10", "RR", "MAP"], 1 / 5),
            **dict.fromkeys(["Recall@100", "Success@5"], 1.0),
            **dict.fromkeys(["MRR@2", "Recall@2", "Success@1", "MAP@2"], 0.0),
        }
    )


def test_a_cut_off_ends_the_reciprocal_rank() -> None:
    ids = [f"d{row:02}" for row in range(12)]
    values = measure(["q"], np.arange(12)[None], ids, {"q": {"d11": 1}}, ["RR", "RR@10", "MRR@12"])
    assert values_of("q", values) == pytest.approx({"RR": 1 / 12, "MRR@10": 0.0, "MRR@12": 1 / 12})


def test_a_negative_grade_counts_as_not_relevant() -> None:
    assert measure_one({"a": -2, "b": 1}, "ab") == measure_one({"a": 0, "b": 1}, "ab") == measure_one({"b": 1}, "ab")
    assert measure_one({"a": -2, "b": 1}, "ab")["nDCG@10"] == pytest.approx(1 / math.log2(3))


def test_a_judged_document_that_the_collection_lacks_can_only_be_missed() -> None:
    values = measure_one({"a": 1, "gone": 2, "gone too": 1}, "a")
    assert values["Recall@100"] == pytest.approx(1 / 3)
    assert values["MAP"] == pytest.approx(1 / 3)
    assert values["nDCG@10"] == pytest.approx(1 / (2 + 1 / math.log2(3) + 1 / 2))


def test_a_query_without_a_relevant_document_is_zero() -> None:
    assert measure_one({"a": 0, "b": -1}, "ab") == dict.fromkeys(NAMES, 0.0)


def test_a_judged_query_without_a_ranking_is_zero_and_stays() -> None:
    """A query without judgements is left out."""
    hits = np.asarray([[0, 1], [1, 0]], np.int32)
    values = measure(["q1", "unjudged"], hits, IDS, {"missing": {"a": 1}, "q1": {"a": 1}}, NAMES)
    for by_query in values.values():
        assert list(by_query) == ["missing", "q1"]
        assert by_query["missing"] == 0.0
    assert values["MRR@10"]["q1"] == 1.0


def test_a_short_ranking_is_not_filled_up() -> None:
    """-1 ends a list. As a row it would index the last document, e."""
    hits = np.asarray([[0, -1, -1], [-1, -1, -1]], np.int32)
    values = measure(["q1", "q2"], hits, IDS, {"q1": {"e": 1}, "q2": {"e": 1}}, NAMES)
    assert values == {name: {"q1": 0.0, "q2": 0.0} for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_one_measure_alone(name: str) -> None:
    assert measure_one({"b": 1, "a": 3}, "bca", (name,)) == {name: measure_one({"b": 1, "a": 3}, "bca")[name]}


# By definition


def test_three_thousand_random_queries() -> None:
    """`measure` raises unless both engines agree; they also equal the plain definition. A block holds 1,000 queries."""
    draw = np.random.default_rng(0)
    ids = [f"d{row}" for row in range(60)]
    judgeable = [*ids, *(f"gone{row}" for row in range(5))]
    queries = [f"q{row}" for row in range(3000)]
    hits = np.argsort(draw.random((3000, 60)), axis=1)[:, :25].astype(np.int32)
    hits[np.arange(25) >= draw.integers(0, 40, (3000, 1))] = -1
    qrels = {query: random_grades(draw, judgeable) for query in queries}
    values = measure(queries, hits, ids, qrels, NAMES)
    for name in NAMES:
        expected = []
        for query, rows in zip(queries, hits.tolist(), strict=True):
            ranked = [ids[row] for row in rows if row >= 0]
            expected.append(naive(name, qrels[query], ranked))
        assert list(values[name].values()) == pytest.approx(expected, abs=1e-9), name
        assert 0.01 < np.mean(expected) < 0.99


def random_grades(draw: np.random.Generator, documents: Sequence[str]) -> dict[str, int]:
    judged = draw.choice(documents, draw.integers(1, 15), replace=False)
    return {str(document): int(draw.integers(-1, 4)) for document in judged}


# Relevance levels and kinds of gain


GRADES = {"a": 1, "b": 3, "c": 2}


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (1, {"MRR@10": 1, "RR": 1, "Recall@2": 2 / 3, "Success@1": 1, "MAP": 1}),
        (2, {"MRR@10": 1 / 2, "RR": 1 / 2, "Recall@2": 1 / 2, "Success@1": 0, "MAP": (1 / 2 + 2 / 3) / 2}),
        (3, {"MRR@10": 1 / 2, "RR": 1 / 2, "Recall@2": 1, "Success@1": 0, "MAP": 1 / 2}),
        (4, {"MRR@10": 0, "RR": 0, "Recall@2": 0, "Success@1": 0, "MAP": 0}),
    ],
)
def test_binary_measures_take_grades_from_the_level_on_and_ndcg_all(level: int, expected: dict[str, float]) -> None:
    """The ranking a, b, c has grades 1, 3, 2. At level 2 the first hit is not relevant, yet its grade is gain."""
    ndcg = (1 + 3 / math.log2(3) + 2 / 2) / (3 + 2 / math.log2(3) + 1 / 2)
    values = measure_one(GRADES, "abc", [*expected, "nDCG@10"], level)
    assert values == pytest.approx({**expected, "nDCG@10": ndcg})


def test_gain_is_linear() -> None:
    """Exponential gain, 2**grade - 1, would be 0.6 of the ideal here."""
    ndcg = measure_one({"a": 1, "b": 2}, "ab", ["nDCG@2"])["nDCG@2"]
    rank = math.log2(3)
    assert ndcg == pytest.approx((1 + 2 / rank) / (2 + 1 / rank))
    assert ndcg != pytest.approx((1 + 3 / rank) / (3 + 1 / rank), abs=0.01)


def test_a_level_in_a_name_is_stronger_than_the_runs() -> None:
    values = measure_one(GRADES, "cba", ["RR(rel=3)@10", "MRR@10", "R(rel=1)@2", "AP(rel=2)"], level=2)
    assert values == pytest.approx({"MRR(rel=3)@10": 1 / 2, "MRR@10": 1.0, "Recall(rel=1)@2": 2 / 3, "MAP": 1.0})


def test_success_and_recall_differ() -> None:
    """One of two relevant documents is retrieved: a success, and a recall of a half."""
    values = measure_one({"a": 1, "b": 1}, "ac", ["Success@5", "Recall@5"])
    assert values == {"Success@5": 1.0, "Recall@5": 0.5}


def test_the_mean_is_over_all_judged_queries_and_no_list_is_padded_with_document_0() -> None:
    """The official script of MS MARCO fills short lists with document 0, a real document: it would give 0.25."""
    hits = np.asarray([[1, 2, 3, -1]])
    values = measure(["q"], hits, ["0", "7", "8", "9"], {"q": {"0": 1}, "no run": {"7": 1}}, ["MRR@10"])
    assert values == {"MRR@10": {"q": 0.0, "no run": 0.0}}


def test_unanswerable_queries() -> None:
    qrels = {"q1": {"a": 1, "b": 0}, "q2": {"a": 0}, "q3": {"a": -1}, "q4": {"a": 2}}
    assert unanswerable(qrels) == ["q2", "q3"]
    assert unanswerable(qrels, 2) == ["q1", "q2", "q3"]


def test_a_document_outside_the_ids_counts_as_not_judged() -> None:
    qrels = {"q": {"a": 1, "gone": 1}}
    outside = measure(["q"], np.asarray([[-2, 0, -2, -1]]), ["a"], qrels, NAMES)
    inside = measure(["q"], np.asarray([[1, 0, 2, -1]]), ["a", "x", "y"], qrels, NAMES)
    assert outside == inside
    assert outside["RR"]["q"] == 0.5


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 0)])
def test_a_ranking_without_any_hit(shape: tuple[int, int]) -> None:
    values = measure(["q"][: shape[0]], np.zeros(shape, np.int32), IDS, {"q": {"a": 1}}, NAMES)
    assert values == {name: {"q": 0.0} for name in NAMES}


def test_queries_are_matched_by_id_not_by_position() -> None:
    """Rankings may come in another order than the judgements."""
    hits = np.asarray([[0, 1], [1, 0], [2, 0]])
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}}
    straight = measure(["q1", "q2", "q3"], hits, IDS, qrels, ["RR"])
    assert straight == measure(["q3", "q1", "q2"], hits[[2, 0, 1]], IDS, qrels, ["RR"])
    assert straight == {"RR": {"q1": 1.0, "q2": 0.5, "q3": 0.5}}


# Names and disagreements


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [
        ("nDCG@10", 1, "nDCG@10"),
        ("nDCG(dcg='log2')@10", 2, "nDCG@10"),
        ('nDCG(dcg="log2")@20', 1, "nDCG@20"),
        ("RR@10", 1, "MRR@10"),
        ("MRR@10", 2, "MRR@10"),
        ("RR", 1, "RR"),
        ("RR(rel=2)", 1, "RR(rel=2)"),
        ("RR(rel=2)@10", 1, "MRR(rel=2)@10"),
        ("RR(rel=2)@10", 2, "MRR@10"),
        ("RR(rel=1)@10", 1, "MRR@10"),
        ("R@100", 1, "Recall@100"),
        ("R(rel=2)@1000", 1, "Recall(rel=2)@1000"),
        ("AP", 1, "MAP"),
        ("AP(rel=2)@100", 3, "MAP(rel=2)@100"),
        ("Success(rel=2)@5", 2, "Success@5"),
        ("RR( rel = 2 )@10", 2, "MRR@10"),
    ],
)
def test_every_spelling_has_one_canonical_name(name: str, level: int, expected: str) -> None:
    assert canonical(name, level) == expected
    assert canonical(expected, level) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nDCG(dcg='exp-log2')@10", r"nDCG takes only \(dcg='log2', linear gain\)"),
        ("nDCG(rel=2)@10", r"nDCG takes only \(dcg='log2', linear gain\)"),
        ("nDCG(gains={0:0})@10", r"nDCG takes only"),
        ("RR(judged_only=True)@10", r"RR takes only \(rel=N, the least relevant grade\)"),
        ("AP(rel=0)", r"MAP takes only \(rel=N"),
        ("R(rel=2,judged_only=True)@10", r"Recall takes only \(rel=N"),
    ],
)
def test_an_option_that_is_not_computed_is_refused(name: str, message: str) -> None:
    with pytest.raises(RetrobenchError, match=rf"^Measure .* is not computed: {message}"):
        canonical(name)


def test_the_deepest_cutoff() -> None:
    assert deepest(["MRR@10", "Recall@100", "nDCG@10"]) == 100
    assert deepest(["MRR@10", "MAP"]) is None
    assert deepest(["RR"]) is None


@pytest.mark.parametrize("name", ["MMR@10", "MRR", "nDCG", "MRR@", "MRR@0", "MRR@ten", "MRR@10@2", "Recall@-1", ""])
def test_an_unknown_measure_is_refused(name: str) -> None:
    with pytest.raises(
        RetrobenchError, match=r"^Unknown measure .* Known: MAP, MAP@10, MRR@10, .* nDCG@10\. ir_measures"
    ):
        measure(["q"], np.zeros((1, 1), np.int32), IDS, {"q": {"a": 1}}, [name])
    with pytest.raises(RetrobenchError, match="Unknown measure"):
        deepest([name])


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(RetrobenchError, match=r"^Unknown measure 'NDCG@10'\. Did you mean 'nDCG@10'\?"):
        deepest(["NDCG@10"])


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
    with pytest.raises(RetrobenchError, match=r"disagree on MAP for 1 queries: q2 "):
        check(["q1", "q2"], {"MAP": np.asarray([0.5, value])}, {"MAP": np.asarray([0.5, value])})


def test_measure_compares_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measures._TREC, "Recall", "success")  # as if trec_eval computed another measure
    with pytest.raises(RetrobenchError, match=r"disagree on Recall@2 for 1 queries: q \(0\.500000, 1\.000000\)"):
        measure_one({"a": 1, "b": 1}, "ac", ("Recall@2",))
