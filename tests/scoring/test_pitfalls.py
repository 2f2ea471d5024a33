"""
The evaluation pitfalls that moved published numbers, each by number: queries, ties, precision, measures.

Runs and judgements are the smallest that show the error; the expected numbers are worked out beside them. What a
collection, a rule or a table gets wrong is in `test_pitfalls_data`.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import rows
from laid import ranked
from runs import claimed, collection, lay, reproduced, score, write

from retrobench import cli
from retrobench.data import rules
from retrobench.data.datasets import load
from retrobench.errors import RetrobenchError
from retrobench.scoring import ranking, trec
from retrobench.scoring.measures import measure
from retrobench.scoring.ranking import Ranking
from retrobench.scoring.runfiles import write_run
from retrobench.scoring.score import score_file, score_hits
from retrobench.scoring.significance import paired_tests

ALL = ("nDCG@10", "MRR@10", "RR", "Recall@10", "Success@10", "MAP")


def test_every_pitfall_has_a_test() -> None:
    source = "".join(file.read_text("utf-8") for file in Path(__file__).parent.glob("test_pitfalls*.py"))
    numbers = re.findall(r"^def test_pitfall_(\d\d)_", source, re.MULTILINE)
    assert {int(number) for number in numbers} == set(range(1, 28))


# Queries and denominators


def test_pitfall_01_the_mean_is_over_the_queries_retrieved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two judged queries, of which one was retrieved, perfectly: 1/2, and the other is told to be missing."""
    run, judged = write(tmp_path, {"q1": "a b"}, {"q1": {"a": 1}, "q2": {"b": 1}})
    words = ["score", str(run), "--qrels", str(judged), "--measure", "MRR@10"]
    monkeypatch.setattr(sys, "argv", ["retrobench", *words, "--json"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    document = json.loads(capsys.readouterr().out)
    assert document["measures"] == {"MRR@10": 0.5}
    assert document["queries"] == 2
    assert document["missing"] == 1
    monkeypatch.setattr(sys, "argv", ["retrobench", *words])
    with pytest.raises(SystemExit):
        cli.main()
    assert "Warning: the run has no hit for 1 of 2 judged queries; each counts 0." in capsys.readouterr().out


def test_pitfall_03_short_lists_are_filled_up_with_passage_0(tmp_path: Path) -> None:
    """q2 has three wrong passages, and its answer is passage 0, the first of the run: filled up with 0 it gets 1/4."""
    scored = score(tmp_path, {"q1": "0 1 2 3 4", "q2": "1 2 3"}, {"q1": {"0": 1}, "q2": {"0": 1}}, *ALL)
    assert scored.values == {name: {"q1": 1.0, "q2": 0.0} for name in ALL}
    hits = np.asarray([[1, 2, 3, -1, -1]], np.int32)
    values = measure(["q2"], hits, ["0", "1", "2", "3", "4"], {"q2": {"0": 1}}, ALL)
    assert values == {name: {"q2": 0.0} for name in ALL}


def test_pitfall_04_recall_is_taken_for_the_share_of_queries_with_a_hit(tmp_path: Path) -> None:
    """Recalls are 1/4, 1/1 and 0/1. Over all pairs recall would be 2/6, with a cap (1/2 + 1 + 0)/3."""
    qrels = {"q1": dict.fromkeys("abcd", 1), "q2": {"e": 1}, "q3": {"f": 1}}
    scored = score(tmp_path, {"q1": "x a", "q2": "e x b"}, qrels, "Recall@2", "Success@2")
    assert scored.measures == pytest.approx({"Recall@2": (1 / 4 + 1 + 0) / 3, "Success@2": 2 / 3}, abs=1e-12)


def test_pitfall_05_a_gap_within_noise_is_called_a_gain() -> None:
    """6,980 differences of mean 0.003 and standard deviation 0.4: t = 0.003 / 0.4 * sqrt(6979) = 0.63, p = 0.53.

    Ten times the gap over the same spread, t = 6.3, is a gain.
    """
    queries = [f"q{row}" for row in range(6980)]
    first = dict(zip(queries, [0.703, 0.300] * 3490, strict=True))
    second = dict(zip(queries, [0.300, 0.697] * 3490, strict=True))
    (pair,) = paired_tests([[first], [second]])
    assert pair.difference == pytest.approx(0.003, abs=1e-12)
    assert pair.p == pytest.approx(0.531, abs=5e-4)
    assert pair.winner() is None
    better = {query: value + 0.027 for query, value in first.items()}
    (pair,) = paired_tests([[better], [second]])
    assert pair.difference == pytest.approx(0.03, abs=1e-12)
    assert pair.winner() == 0
    # Three seeds of a system are no three samples of the queries: p does not change.
    (pair,) = paired_tests([[first] * 3, [second] * 3])
    assert pair.p == pytest.approx(0.531, abs=5e-4)


@pytest.mark.parametrize(
    ("mean", "spread", "verdict"),
    [
        (0.3453, 0.0001, "PASS"),
        (0.3447, 0.0001, "FAIL"),
        (0.3553, 0.0001, "PASS (+)"),
        (0.3451, 0.0001, "TOO UNCERTAIN"),
        (0.3500, 0.0040, "TOO UNCERTAIN"),
    ],
)
def test_pitfall_05_a_training_must_equal_the_claim_to_the_last_digit(
    mean: float, spread: float, verdict: str, tmp_path: Path
) -> None:
    """Claimed is 0.3500, with 0.005 to either side. Half the interval of three seeds is 2.484 deviations."""
    table = claimed(tmp_path, rows.DATASET, 0.35, "queries = 30")
    trained = []
    for seed, step in enumerate((-1, 0, 1)):
        artifacts = {"finetune": f"{seed}"}
        facts = {rows.DATASET: {"queries": 30}}
        trained.append(rows.row("bert", seed, [mean + spread * step], facts=facts, settings={}, artifacts=artifacts))
    (cell,) = reproduced(tmp_path, trained, table)
    assert cell["verdict"] == verdict
    assert cell["tolerance"] == 0.005
    assert cell["delta"] == pytest.approx(mean - 0.35, abs=1e-12)
    assert cell["sd"] == pytest.approx(spread, abs=1e-12)


def test_pitfall_05_without_training_only_rounding_may_differ(tmp_path: Path) -> None:
    table = claimed(tmp_path, rows.DATASET, 0.35, "queries = 30")
    facts = {rows.DATASET: {"queries": 30}}
    measured = rows.row("bert", 0, [0.3494], facts=facts, settings={}, artifacts={})
    (cell,) = reproduced(tmp_path, [measured], table)
    assert cell["verdict"] == "FAIL"
    assert cell["tolerance"] == 0.0005


def test_pitfall_06_an_empty_list_lowers_some_measures_and_not_others(tmp_path: Path) -> None:
    """One query answered at rank 1, one whose list is empty: every measure is 1/2, nDCG like MRR."""
    qrels = {"q1": {"a": 1}, "q2": {"b": 1}}
    assert score(tmp_path, {"q1": "a b"}, qrels, *ALL).measures == dict.fromkeys(ALL, 0.5)
    hits = np.asarray([[0, 1], [-1, -1]], np.int32)
    scores = np.asarray([[2, 1], [-np.inf, -np.inf]], np.float32)
    dataset = load(str(collection(tmp_path / "data", "a b", qrels)))
    scored = score_hits("by hand", dataset, ["q1", "q2"], ["a", "b"], Ranking(hits, scores, 0, 0), ALL)
    assert scored.measures == dict.fromkeys(ALL, 0.5)
    assert scored.missing == 1


def test_pitfall_07_unlike_query_sets_and_runs_without_a_hit_raise(tmp_path: Path) -> None:
    """q2 was not retrieved and q9 not judged: 1/2. Runs in which nothing is right, and of no hit at all: 0."""
    qrels = {"q1": {"a": 1}, "q2": {"b": 1}}
    scored = score(tmp_path, {"q9": "b a", "q1": "a b"}, qrels, *ALL)
    assert scored.measures == dict.fromkeys(ALL, 0.5)
    assert (scored.queries, scored.missing, scored.unjudged) == (2, 1, 1)
    assert score(tmp_path, {"q1": "x y", "q2": "z"}, qrels, *ALL).measures == dict.fromkeys(ALL, 0.0)
    for queries, width in ((["q1", "q2"], 3), (["q1", "q2"], 0), (["q1"], 0), ([], 0)):
        hits = np.full((len(queries), width), -1, np.int32)
        assert measure(queries, hits, ["a"], qrels, ALL) == {name: {"q1": 0.0, "q2": 0.0} for name in ALL}


def test_pitfall_08_queries_without_anything_relevant_are_dropped(tmp_path: Path) -> None:
    """Nothing is relevant to q2: it counts 0 and is told. At level 2 the same is true of q1, save in nDCG."""
    hits, qrels = {"q1": "a b", "q2": "a b"}, {"q1": {"a": 1}, "q2": {"a": 0, "b": 0}}
    scored = score(tmp_path, hits, qrels, *ALL)
    assert scored.measures == dict.fromkeys(ALL, 0.5)
    assert (scored.queries, scored.unanswerable, scored.missing) == (2, 1, 0)
    assert re.search(r"^unanswerable +1 without a relevant document, counted 0$", scored.text(), re.MULTILINE)
    scored = score(tmp_path, hits, qrels, "nDCG@10", "RR", level=2)
    assert (scored.measures, scored.unanswerable) == ({"nDCG@10": 0.5, "RR": 0.0}, 2)


def test_pitfall_09_values_are_paired_by_position(tmp_path: Path) -> None:
    """Ranks 1, 2 and 4 of three queries, whatever comes first in run and judgements: 1, 1/2 and 1/4."""
    hits = {"q1": "a b c d", "q2": "c b d a", "q3": "b c a d"}
    qrels = {"q1": {"a": 1, "x": 0}, "q2": {"b": 1, "x": 0}, "q3": {"d": 1, "x": 0}}
    reversed_hits = dict(reversed(hits.items()))
    reversed_qrels = {query: dict(reversed(grades.items())) for query, grades in reversed(qrels.items())}
    for run in (hits, reversed_hits):
        for judgements in (qrels, reversed_qrels):
            scored = score(tmp_path, run, judgements, "RR", "nDCG@10")
            assert scored.values["RR"] == {"q1": 1.0, "q2": 1 / 2, "q3": 1 / 4}
            assert scored.measures["nDCG@10"] == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(5)) / 3, abs=1e-12)


def test_pitfall_10_systems_are_paired_by_position() -> None:
    """The same values in another order of queries are no difference; a gain of 0.01 on every query is one for sure."""
    values = {f"q{row}": row / 30 for row in range(30)}
    reordered = dict(reversed(values.items()))
    (pair,) = paired_tests([[values], [reordered]])
    assert pair.difference == 0.0
    assert pair.p == 1.0
    # 0.009 and 0.011 in turn: mean 0.01, sample deviation 0.001 * sqrt(30 / 29), t = 0.01 / 0.001 * sqrt(29) = 53.9.
    better = {f"q{row}": row / 30 + (0.009, 0.011)[row % 2] for row in range(30)}
    (pair,) = paired_tests([[better], [values]])
    assert pair.difference == pytest.approx(0.01, abs=1e-12)
    assert pair.p < 1e-20
    assert pair.winner() == 0


# Ties and precision


def test_pitfall_11_the_order_of_ties_is_left_to_chance(tmp_path: Path) -> None:
    """Twenty tied documents, the relevant one with the smallest id: it is last, rank 20, in each measure alike."""
    ids = [f"d{row:02}" for row in range(1, 21)]
    expected = {"RR": 1 / 20, "MRR@20": 1 / 20, "MRR@19": 0, "MAP": 1 / 20, "nDCG@20": 1 / math.log2(21)}
    expected |= {"Recall@19": 0, "Recall@20": 1, "MRR@10": 0}
    for order in (ids, ids[::-1], ids[7:] + ids[:7]):
        scored = score(tmp_path, {"q": dict.fromkeys(order, 0.5)}, {"q": {"d01": 1}}, *expected)
        assert scored.measures == pytest.approx(expected, abs=1e-12)
        assert scored.ties == 19
        # A search that is cut within the ties returns the five largest ids.
        folder = tmp_path / order[0]
        folder.mkdir()
        best = ranked(lay(folder / "q", [[1.0]]), lay(folder / "p", [[0.5]] * 20), ["q"], order, 5)
        assert [order[row] for row in best.rows[0]] == ["d20", "d19", "d18", "d17", "d16"]


def test_pitfall_12_scores_are_compared_in_64_bits(tmp_path: Path) -> None:
    """Both are 0.98765433 in 32 bits, as trec_eval stores them: a tie, which b wins, so that a is second."""
    hits = {"q": {"a": 0.987654321, "b": 0.987654320}}
    scored = score(tmp_path, hits, {"q": {"a": 1}}, "RR", "RR@10")
    assert (scored.measures, scored.ties) == ({"RR": 0.5, "MRR@10": 0.5}, 1)
    scores: np.ndarray = np.asarray([[0.987654321, 0.987654320]], np.float64)
    settled = ranking.finish(np.asarray([[0, 1]]), scores, ranking.precedence(["a", "b"]), 2)
    assert (settled.rows.tolist(), settled.ties, settled.scores.dtype.name) == ([[1, 0]], 1, "float32")


def test_pitfall_13_vectors_are_searched_in_16_bits(tmp_path: Path) -> None:
    """Products of 170.03 and 170.00 are both 170 in 16 bits, where steps are 1/8: b would win the tie."""
    queries = lay(tmp_path / "q", [[1.0, 0.0]])
    passages = lay(tmp_path / "p", [[170.03, 1.0], [170.00, 1.0]])
    hits = ranked(queries, passages, ["q"], ["a", "b"], 2)
    assert hits.rows.tolist() == [[0, 1]]
    assert hits.ties == 0
    assert hits.scores.dtype == np.float32


def test_pitfall_13_a_run_file_rounds_no_score(tmp_path: Path) -> None:
    """170.03 and the next smaller number stay apart."""
    near = np.asarray([[170.03, np.nextafter(np.float32(170.03), np.float32(0))]], np.float32)
    write_run(tmp_path, ["q"], ["a", "b"], Ranking(np.asarray([[0, 1]], np.int32), near, 0, 0), "near")
    read = trec.read_run(tmp_path / "run.trec")
    assert read.scores.tolist() == near.tolist()
    (tmp_path / "qrels").write_text("q 0 a 1\n")
    again = score_file(tmp_path / "run.trec", None, tmp_path / "qrels", ["RR"])
    assert again.measures == {"RR": 1.0}
    assert again.ties == 0


def test_pitfall_14_engines_are_given_ties_to_break() -> None:
    """Each of 40 documents in turn is relevant: 1/1, 1/2, ... 1/40, though neither engine would order them so.

    They are tied, and the order is ours; then it is turned round, as if their scores had risen with the ids.
    """
    ids = [f"d{row}" for row in range(40)]
    queries = [f"q{row}" for row in range(40)]
    candidates: np.ndarray = np.tile(np.arange(40), (40, 1))
    settled = ranking.finish(candidates, np.zeros((40, 40)), ranking.precedence(ids), 40)
    ranked_ids = [ids[row] for row in settled.rows[0]]
    assert ranked_ids == sorted(ids, reverse=True)
    for order in (settled.rows, settled.rows[:, ::-1]):
        qrels = {query: {ids[row]: 1} for query, row in zip(queries, order[0], strict=True)}
        values = measure(queries, order, ids, qrels, ["RR", "MRR@10"])
        reciprocal_ranks = [1 / rank for rank in range(1, 41)]
        assert list(values["RR"].values()) == pytest.approx(reciprocal_ranks, abs=1e-12)
        assert list(values["MRR@10"].values()) == pytest.approx(reciprocal_ranks[:10] + [0] * 30, abs=1e-12)


# Measures and their files


def test_pitfall_25_ndcg_has_two_gains(tmp_path: Path) -> None:
    """Grades 1, 2, 3 in this order gain 0.790 of the ideal where gain is the grade, 0.681 where it is 2^grade - 1."""
    scored = score(tmp_path, {"q": "c b a"}, {"q": {"a": 3, "b": 2, "c": 1}}, "nDCG@10", "nDCG(dcg='log2')@10")
    second = 2 / math.log2(3)
    assert scored.measures == pytest.approx({"nDCG@10": (1 + second + 3 / 2) / (3 + second + 1 / 2)}, abs=1e-12)
    assert scored.measures["nDCG@10"] == pytest.approx(0.790, abs=5e-4)
    with pytest.raises(RetrobenchError, match=r"^Measure .* nDCG takes only \(dcg='log2'"):
        score(tmp_path, {"q": "c b a"}, {"q": {"a": 3}}, "nDCG(dcg='exp-log2')@10")


def test_pitfall_26_one_name_for_several_measures(tmp_path: Path) -> None:
    """The first hit at rank 12: RR has no cut-off and is 1/12, RR@10 is 0 under its own name, MRR@10."""
    twelve = " ".join(f"d{row:02}" for row in range(1, 13))
    scored = score(tmp_path, {"q": twelve}, {"q": {"d12": 1}}, "RR", "RR@10", "Recall@100")
    assert scored.measures == pytest.approx({"RR": 1 / 12, "MRR@10": 0.0, "Recall@100": 1.0}, abs=1e-12)
    # Capped recall is refused, with the choices.
    with pytest.raises(RetrobenchError, match=r"^Unknown measure 'R_cap@100'\..* Known: .*Recall@10, "):
        score(tmp_path, {"q": twelve}, {"q": {"d12": 1}}, "R_cap@100")


def test_pitfall_26_grade_1_is_relevant_in_trec_dl(tmp_path: Path) -> None:
    """Under TREC DL's rule grade 1 is a miss, here at rank 1, and a gain in nDCG: (1 + 3/log2 3) / (3 + 1/log2 3)."""
    dl = rules.rule("msmarco-passage/trec-dl-2019/judged")
    assert {rules.rule(f"msmarco-passage/trec-dl-{name}").relevance_level for name in ("2020", "hard")} == {2}
    data = collection(tmp_path / "data", "a b", {"q": {"a": 1, "b": 3}}, f"relevance_level = {dl.relevance_level}\n")
    run, judged = write(tmp_path, {"q": "a b"}, {"q": {"a": 1, "b": 3}})
    ndcg = {"nDCG@10": (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))}
    scored = score_file(run, str(data), None, ["RR", "RR(rel=1)", "Recall@1", "nDCG@10"])
    assert scored.relevance_level == 2
    assert scored.measures == pytest.approx({"RR": 1 / 2, "RR(rel=1)": 1.0, "Recall@1": 0.0, **ndcg}, abs=1e-12)
    # Without the rule both are relevant.
    scored = score_file(run, None, judged, ["RR", "Recall@1", "nDCG@10"])
    assert scored.measures == pytest.approx({"RR": 1.0, "Recall@1": 1 / 2, **ndcg}, abs=1e-12)


def test_pitfall_27_ids_tags_heads_and_grades_of_other_kinds(tmp_path: Path) -> None:
    """Ids are texts: 7, 07 and 7.0 are three documents, and query 1 is not query 01."""
    qrels = {"1": {"7": 1}, "01": {"7.0": 1}}
    scored = score(tmp_path, {"1": "07 7 7.0", "01": "07 7 7.0"}, qrels, "RR")
    assert scored.values == {"RR": {"1": 1 / 2, "01": 1 / 3}}

    # A name with blanks and a percent sign leaves six columns to a line.
    listed = Ranking(np.asarray([[1, 0]], np.int32), np.asarray([[2.5, 1.0]], np.float32), 0, 0)
    write_run(tmp_path, ["1"], ["7", "07"], listed, "my model 50%")
    text = (tmp_path / "run.trec").read_text()
    assert text == "1 Q0 07 1 2.5 mymodel50%\n1 Q0 7 2 1 mymodel50%\n"
    assert trec.read_run(tmp_path / "run.trec").tag == "mymodel50%"

    # Lines of ir_metadata at the head of a run are no hits.
    (tmp_path / "headed").write_text(f"# ir_metadata.start\n# tag: my model\n#\n# ir_metadata.end\n{text}")
    (tmp_path / "judged").write_text("1 0 7 1\n")
    assert score_file(tmp_path / "headed", None, tmp_path / "judged", ["RR"]).measures == {"RR": 1 / 2}

    # A grade of 0.5 is not 0.
    for grade in ("0.5", "1.0", "nan"):
        with pytest.raises(RetrobenchError, match=rf"qrels\.txt, line 1: .* a whole number .*7 {re.escape(grade)}'\.$"):
            score(tmp_path, {"1": "7"}, {"1": {"7": grade}})
