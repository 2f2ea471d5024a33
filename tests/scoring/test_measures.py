"""Measures by hand, by a plain definition on random runs, and what two engines that differ look like."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import works

from retrobench.config.track import Evaluate
from retrobench.data.datasets import load
from retrobench.errors import RetrobenchError
from retrobench.scoring import measures
from retrobench.scoring.measures import canonical, check, deepest, measure, unanswerable
from retrobench.scoring.ranking import Ranking
from retrobench.scoring.runfiles import write_run
from retrobench.stages.score import facts, per_query, score, scores
from retrobench.store.store import Artifact

NAMES = ("nDCG@10", "MRR@10", "RR", "MRR@2", "Recall@2", "Recall@100", "Success@1", "Success@5", "MAP", "MAP@2")

IDS = ["a", "b", "c", "d", "e"]


def one(grades: Mapping[str, int], ranked: str, names: tuple[str, ...] = NAMES) -> dict[str, float]:
    """The measures of one query, whose ranking is a string of one-letter documents."""
    hits = np.asarray([[IDS.index(document) for document in ranked]], np.int32)
    return {name: of["q"] for name, of in measure(["q"], hits, IDS, {"q": grades}, names).items()}


def naive(name: str, grades: Mapping[str, int], ranked: list[str]) -> float:
    """A measure by its definition: gain linear in the grade, relevant from grade 1 on."""
    kind, _, cut = name.partition("@")
    relevant = {document for document, grade in grades.items() if grade > 0}
    kept = ranked[: int(cut)] if cut else ranked
    at = [rank for rank, document in enumerate(kept, 1) if document in relevant]
    if not relevant:
        return 0.0
    if kind == "nDCG":
        best = sorted((grades[document] for document in relevant), reverse=True)[: int(cut)]
        found = sum(grades[kept[rank - 1]] / math.log2(rank + 1) for rank in at)
        return found / sum(grade / math.log2(rank + 1) for rank, grade in enumerate(best, 1))
    precision = sum(hit / rank for hit, rank in enumerate(at, 1)) / len(relevant)
    first = 1 / at[0] if at else 0.0
    return {"Recall": len(at) / len(relevant), "Success": float(bool(at)), "MAP": precision}.get(kind, first)


# By hand


def test_graded_judgements_in_any_order() -> None:
    """Gains 1, 0, 3 against the ideal 3, 1."""
    found = one({"b": 1, "a": 3}, "bca")
    gain, ideal = 1 + 3 / 2, 3 + 1 / math.log2(3)
    assert found == pytest.approx(
        {
            "nDCG@10": gain / ideal,
            **dict.fromkeys(["MRR@10", "RR", "MRR@2", "Recall@100", "Success@1", "Success@5"], 1.0),
            "Recall@2": 1 / 2,
            "MAP": (1 + 2 / 3) / 2,
            "MAP@2": 1 / 2,
        }
    )


def test_a_late_hit() -> None:
    found = one({"e": 1}, "abcde")
    assert found == pytest.approx(
        {
            "nDCG@10": 1 / math.log2(6),
            **dict.fromkeys(["MRR@10", "RR", "MAP"], 1 / 5),
            **dict.fromkeys(["Recall@100", "Success@5"], 1.0),
            **dict.fromkeys(["MRR@2", "Recall@2", "Success@1", "MAP@2"], 0.0),
        }
    )


def test_a_cut_off_ends_the_reciprocal_rank() -> None:
    ids = [f"d{row:02}" for row in range(12)]
    found = measure(["q"], np.arange(12)[None], ids, {"q": {"d11": 1}}, ["RR", "RR@10", "MRR@12"])
    assert {name: of["q"] for name, of in found.items()} == pytest.approx(
        {"RR": 1 / 12, "MRR@10": 0.0, "MRR@12": 1 / 12}
    )


def test_a_negative_grade_counts_as_not_relevant() -> None:
    assert one({"a": -2, "b": 1}, "ab") == one({"a": 0, "b": 1}, "ab") == one({"b": 1}, "ab")
    assert one({"a": -2, "b": 1}, "ab")["nDCG@10"] == pytest.approx(1 / math.log2(3))


def test_a_judged_document_that_the_collection_lacks_can_only_be_missed() -> None:
    found = one({"a": 1, "gone": 2, "gone too": 1}, "a")
    assert found["Recall@100"] == pytest.approx(1 / 3)
    assert found["MAP"] == pytest.approx(1 / 3)
    assert found["nDCG@10"] == pytest.approx(1 / (2 + 1 / math.log2(3) + 1 / 2))


def test_nothing_relevant_is_zero_whatever_is_found() -> None:
    assert one({"a": 0, "b": -1}, "ab") == dict.fromkeys(NAMES, 0.0)


def test_a_judged_query_without_a_ranking_is_zero_and_stays() -> None:
    """And a query that nobody judged is left out."""
    hits = np.asarray([[0, 1], [1, 0]], np.int32)
    found = measure(["q1", "unjudged"], hits, IDS, {"missing": {"a": 1}, "q1": {"a": 1}}, NAMES)
    for of in found.values():
        assert list(of) == ["missing", "q1"]
        assert of["missing"] == 0.0
    assert found["MRR@10"]["q1"] == 1.0


def test_a_short_ranking_is_not_filled_up() -> None:
    """-1 ends a list; were it taken for a row, it would be the last document."""
    hits = np.asarray([[0, -1, -1], [-1, -1, -1]], np.int32)
    found = measure(["q1", "q2"], hits, IDS, {"q1": {"e": 1}, "q2": {"e": 1}}, NAMES)
    assert all(value == 0 for of in found.values() for value in of.values())


@pytest.mark.parametrize("name", NAMES)
def test_one_measure_alone(name: str) -> None:
    assert one({"b": 1, "a": 3}, "bca", (name,)) == {name: one({"b": 1, "a": 3}, "bca")[name]}


# By definition


def test_three_thousand_random_queries() -> None:
    """Both engines agree, or `measure` would raise, and with the plain definition: more queries than a block holds."""
    draw = np.random.default_rng(0)
    ids = [f"d{row}" for row in range(60)]
    judgeable = [*ids, *(f"gone{row}" for row in range(5))]
    queries = [f"q{row}" for row in range(3000)]
    hits = np.argsort(draw.random((3000, 60)), axis=1)[:, :25].astype(np.int32)
    hits[np.arange(25) >= draw.integers(0, 40, (3000, 1))] = -1
    qrels = {
        query: {str(d): int(draw.integers(-1, 4)) for d in draw.choice(judgeable, draw.integers(1, 15), replace=False)}
        for query in queries
    }
    found = measure(queries, hits, ids, qrels, NAMES)
    ranked = [[ids[row] for row in rows if row >= 0] for rows in hits.tolist()]
    for name in NAMES:
        expected = [naive(name, qrels[query], rows) for query, rows in zip(queries, ranked, strict=True)]
        assert list(found[name].values()) == pytest.approx(expected, abs=1e-9), name
        assert 0.01 < np.mean(expected) < 0.99


# Relevance levels and kinds of gain


GRADES = {"a": 1, "b": 3, "c": 2}


def test_binary_measures_take_grades_from_the_level_on_and_ndcg_keeps_them_all() -> None:
    """Ranked a, b, c with grades 1, 3, 2: at level 2 the first hit is no answer, yet its grade counts as gain."""
    hits, names = np.asarray([[0, 1, 2]]), ["MRR@10", "RR", "Recall@2", "Success@1", "MAP", "nDCG@10"]
    gain = (1 + 3 / math.log2(3) + 2 / 2) / (3 + 2 / math.log2(3) + 1 / 2)
    by_level: list[dict[str, float]] = [
        {"MRR@10": 1, "RR": 1, "Recall@2": 2 / 3, "Success@1": 1, "MAP": 1},
        {"MRR@10": 1 / 2, "RR": 1 / 2, "Recall@2": 1 / 2, "Success@1": 0, "MAP": (1 / 2 + 2 / 3) / 2},
        {"MRR@10": 1 / 2, "RR": 1 / 2, "Recall@2": 1, "Success@1": 0, "MAP": 1 / 2},
        {"MRR@10": 0, "RR": 0, "Recall@2": 0, "Success@1": 0, "MAP": 0},
    ]
    for level, expected in zip((1, 2, 3, 4), by_level, strict=True):
        found = measure(["q"], hits, IDS, {"q": GRADES}, names, level)
        now = {name: of["q"] for name, of in found.items()}
        assert now == pytest.approx({**expected, "nDCG@10": gain})


def test_gain_is_linear() -> None:
    """Exponential gain, 2**grade - 1, would be 0.6 of the ideal here."""
    found = measure(["q"], np.asarray([[0, 1]]), IDS, {"q": {"a": 1, "b": 2}}, ["nDCG@2"])["nDCG@2"]["q"]
    rank = math.log2(3)
    assert found == pytest.approx((1 + 2 / rank) / (2 + 1 / rank))
    assert found != pytest.approx((1 + 3 / rank) / (3 + 1 / rank), abs=0.01)


def test_a_level_in_a_name_is_stronger_than_the_runs() -> None:
    names = ["RR(rel=3)@10", "MRR@10", "R(rel=1)@2", "AP(rel=2)"]
    found = measure(["q"], np.asarray([[2, 1, 0]]), IDS, {"q": GRADES}, names, 2)
    assert {name: of["q"] for name, of in found.items()} == pytest.approx(
        {"MRR(rel=3)@10": 1 / 2, "MRR@10": 1.0, "Recall(rel=1)@2": 2 / 3, "MAP": 1.0}
    )


def test_success_and_recall_are_two_things() -> None:
    """Two answers, of which one is found: a success, and half of what was to be recalled."""
    found = measure(["q"], np.asarray([[0, 2]]), IDS, {"q": {"a": 1, "b": 1}}, ["Success@5", "Recall@5"])
    assert {name: of["q"] for name, of in found.items()} == {"Success@5": 1.0, "Recall@5": 0.5}


def test_the_mean_is_over_all_judged_queries_and_nothing_is_padded_with_document_0() -> None:
    """The official script of MS MARCO fills short lists with document 0, which is a real one: it would say 0.25."""
    found = measure(
        ["q"], np.asarray([[1, 2, 3, -1]]), ["0", "7", "8", "9"], {"q": {"0": 1}, "no run": {"7": 1}}, ["MRR@10"]
    )
    assert found == {"MRR@10": {"q": 0.0, "no run": 0.0}}


def test_a_query_without_a_relevant_document_is_known() -> None:
    qrels = {"q1": {"a": 1, "b": 0}, "q2": {"a": 0}, "q3": {"a": -1}, "q4": {"a": 2}}
    assert unanswerable(qrels) == ["q2", "q3"] and unanswerable(qrels, 2) == ["q1", "q2", "q3"]


def test_a_document_outside_the_list_is_one_that_nobody_judged() -> None:
    qrels, names = {"q": {"a": 1, "gone": 1}}, list(NAMES)
    shortened = measure(["q"], np.asarray([[-2, 0, -2, -1]]), ["a"], qrels, names)
    assert shortened == measure(["q"], np.asarray([[1, 0, 2, -1]]), ["a", "x", "y"], qrels, names)
    assert shortened["RR"]["q"] == 0.5


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 0)])
def test_a_ranking_without_any_hit(shape: tuple[int, int]) -> None:
    found = measure(["q"][: shape[0]], np.zeros(shape, np.int32), IDS, {"q": {"a": 1}}, NAMES)
    assert found == {name: {"q": 0.0} for name in NAMES}


def test_queries_are_matched_by_id_not_by_place() -> None:
    """The same rankings, listed in another order than the judgements."""
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
def test_one_name_for_every_spelling(name: str, level: int, expected: str) -> None:
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
def test_what_would_be_another_measure_is_refused(name: str, message: str) -> None:
    with pytest.raises(RetrobenchError, match=rf"^Measure .* is not computed: {message}"):
        canonical(name)


def test_deepest() -> None:
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


def test_engines_that_differ_stop_the_scoring() -> None:
    queries = [f"q{row}" for row in range(6)]
    ours = np.asarray([0.5, 0.25, 0.0, 1.0, 1.0, 1.0])
    theirs = np.asarray([0.5 + 9e-7, 0.5, 1.0, 1.0, 0.0, 0.0])
    with pytest.raises(RetrobenchError) as raised:
        check(queries, {"MRR@10": ours}, {"MRR@10": theirs})
    assert str(raised.value) == (
        "ranx and trec_eval disagree on MRR@10 for 4 queries: q1 (0.250000, 0.500000), q2 (0.000000, 1.000000), "
        "q4 (1.000000, 0.000000). This is a fault of the scorer; report it with the run file."
    )
    check(queries, {"MRR@10": ours}, {"MRR@10": ours + 9e-7})


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.5, 1.5])
def test_engines_that_agree_on_nonsense_stop_it_too(value: float) -> None:
    with pytest.raises(RetrobenchError, match=r"disagree on MAP for 1 queries: q2 "):
        check(["q1", "q2"], {"MAP": np.asarray([0.5, value])}, {"MAP": np.asarray([0.5, value])})


def test_measure_compares_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measures._TREC, "Recall", "success")  # as if trec_eval computed another thing
    with pytest.raises(RetrobenchError, match=r"disagree on Recall@2 for 1 queries: q \(0\.500000, 1\.000000\)"):
        one({"a": 1, "b": 1}, "ac", ("Recall@2",))


# The stage


def scored_by(names: Sequence[str], store: Path, run: Path, dataset_id: str) -> Artifact:
    on = works.experiment(evaluate=Evaluate(("unused",), measures=tuple(names)))
    work = works.work(store, dataset_id, on=on)
    return score(work, dataset_id, works.artifact("search", run))


def collection(folder: Path) -> Path:
    """Three documents, three judged queries, of which one has nothing relevant."""
    (folder / "qrels").mkdir(parents=True)
    documents = "".join(f'{{"_id": "{d}", "title": "", "text": "text of {d}"}}\n' for d in "abc")
    (folder / "corpus.jsonl").write_text(documents)
    (folder / "queries.jsonl").write_text("".join(f'{{"_id": "q{q}", "text": "query {q}"}}\n' for q in (1, 2, 3)))
    judged = "query-id\tcorpus-id\tscore\nq1\ta\t1\nq1\tb\t2\nq2\tc\t1\nq3\ta\t0\n"
    (folder / "qrels" / "test.tsv").write_text(judged)
    return folder


def test_score_by_hand(tmp_path: Path) -> None:
    """q1 ranks c, b, a; q2 is missing; q3 has nothing relevant: the mean is over all three."""
    folder, run = collection(tmp_path / "collection"), tmp_path / "run"
    run.mkdir()
    rows = np.asarray([[2, 1, 0], [0, 1, 2]], np.int32)
    ranked = Ranking(rows, np.asarray([[3, 2, 1]] * 2, np.float32), 4, 0)
    write_run(run, ["q1", "q3"], ["a", "b", "c"], ranked, "by hand")
    names, store = ("nDCG@10", "MRR@10", "Recall@2"), tmp_path / "store"
    scored = scored_by(names, store, run, str(folder))
    ndcg = (2 / math.log2(3) + 1 / 2) / (2 + 1 / math.log2(3))
    assert scores(scored) == pytest.approx({"nDCG@10": ndcg / 3, "MRR@10": 0.5 / 3, "Recall@2": 0.5 / 3})
    assert per_query(scored)["MRR@10"] == {"q1": 0.5, "q2": 0.0, "q3": 0.0}
    assert all(list(of) == ["q1", "q2", "q3"] for of in per_query(scored).values())
    assert scored.cost["queries"] == 3
    dataset = load(str(folder))
    assert facts(scored) == {
        "relevance_level": 1,
        "queries": 3,
        "missing": 1,
        "self_hits_removed": 4,
        "ties": 0,
        "documents": 3,
        "corpus": dataset.corpus_fingerprint(),
        "qrels": dataset.qrels_fingerprint(),
    }
    entry = json.loads((scored.path / "entry.json").read_text())
    assert entry["settings"] == {
        "measures": ["nDCG@10", "MRR@10", "Recall@2"],
        "dataset": dataset.fingerprint(),
        "relevance_level": 1,
    }

    # Other judgements or other measures are other scores.
    assert scored_by(names, store, run, str(folder)).cached
    assert not scored_by(("RR",), store, run, str(folder)).cached
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q3\tb\t1\n")
    again = scored_by(names, store, run, str(folder))
    assert not again.cached and per_query(again)["MRR@10"] == {"q1": 0.5, "q2": 0.0, "q3": 0.5}


def test_the_stage_follows_the_datasets_level_and_keeps_the_tracks_names(tmp_path: Path) -> None:
    """q1 ranks c, b, a, where b has grade 2 and a grade 1."""
    folder, run = collection(tmp_path / "collection"), tmp_path / "run"
    run.mkdir()
    (folder / "dataset.toml").write_text("relevance_level = 2\n")
    ranked = Ranking(np.asarray([[2, 0, 1]], np.int32), np.asarray([[3, 2, 1]], np.float32), 0, 0)
    write_run(run, ["q1"], ["a", "b", "c"], ranked, "by hand")
    names = ("RR(rel=2)@10", "MRR@10", "RR(rel=1)@10", "AP")
    scored = scored_by(names, tmp_path / "store", run, str(folder))
    expected = {"RR(rel=2)@10": 1 / 3, "MRR@10": 1 / 3, "RR(rel=1)@10": 1 / 2, "AP": 1 / 3}
    assert scores(scored) == pytest.approx({name: value / 3 for name, value in expected.items()})
    assert list(per_query(scored)) == list(expected) and facts(scored)["relevance_level"] == 2
