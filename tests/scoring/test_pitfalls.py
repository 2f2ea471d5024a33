"""
The evaluation pitfalls that moved published numbers, each by number: queries, denominators, ties and precision.

Runs and judgements are the smallest that show the error; the expected numbers are worked out beside them. Pitfalls of
a search are in `test_pitfalls_search`, of names of measures in `test_pitfalls_measures`, and of collections, rules and
tables in `test_pitfalls_data`.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import leaderboard_rows as rows
import numpy as np
import pytest
from pitfall_files import claimed, collection, lay, reproduced, score, write
from vector_folders import ranked

from retrobench import cli
from retrobench.data.datasets import load
from retrobench.scoring import ranking, trec
from retrobench.scoring.measures import measure
from retrobench.scoring.ranking import Ranking
from retrobench.scoring.runfiles import write_run
from retrobench.scoring.score import score_file, score_hits
from retrobench.scoring.significance import Pair, System, compare_systems

ALL = ("nDCG@10", "MRR@10", "RR", "Recall@10", "Success@10", "MAP")


def test_every_pitfall_has_a_test() -> None:
    numbers = set()
    for file in Path(__file__).parent.glob("test_pitfalls*.py"):
        source = file.read_text("utf-8")
        numbers.update(re.findall(r"^def test_pitfall_(\d\d)_", source, re.MULTILINE))
    assert numbers == {f"{number:02}" for number in range(1, 28)}


def halves(*names: str) -> dict[str, float]:
    """Return 1/2 for each measure: one of two queries is answered at rank 1."""
    return dict.fromkeys(names, 0.5)


def zeros(*queries: str) -> dict[str, dict[str, float]]:
    """Return every measure as 0 for these queries."""
    return {name: dict.fromkeys(queries, 0.0) for name in ALL}


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
    run = {"q1": "0 1 2 3 4", "q2": "1 2 3"}
    qrels = {"q1": {"0": 1}, "q2": {"0": 1}}
    scored = score(tmp_path, run, qrels, *ALL)
    assert scored.values == {name: {"q1": 1.0, "q2": 0.0} for name in ALL}
    hits = np.asarray([[1, 2, 3, -1, -1]], np.int32)
    values = measure(["q2"], hits, ["0", "1", "2", "3", "4"], {"q2": {"0": 1}}, ALL)
    assert values == zeros("q2")


def test_pitfall_04_recall_is_taken_for_the_share_of_queries_with_a_hit(tmp_path: Path) -> None:
    """Recalls are 1/4, 1/1 and 0/1. Over all pairs recall would be 2/6, with a cap (1/2 + 1 + 0)/3."""
    qrels = {"q1": dict.fromkeys("abcd", 1), "q2": {"e": 1}, "q3": {"f": 1}}
    scored = score(tmp_path, {"q1": "x a", "q2": "e x b"}, qrels, "Recall@2", "Success@2")
    recall = (1 / 4 + 1 + 0) / 3
    assert scored.measures == pytest.approx({"Recall@2": recall, "Success@2": 2 / 3}, abs=1e-12)


def compared(first: dict[str, float], second: dict[str, float], seeds: int = 3) -> Pair:
    """Compare two systems whose seeds do not differ."""
    (pair,) = compare_systems([System([first] * seeds), System([second] * seeds)]).pairs
    return pair


def test_pitfall_05_a_gap_within_noise_is_called_a_gain() -> None:
    """6,980 differences of mean 0.003 and standard deviation 0.4: t = 0.003 / 0.4 * sqrt(6979) = 0.63, p = 0.53.

    Ten times the gap over the same spread, t = 6.3, is a gain.
    """
    queries = [f"q{row}" for row in range(6980)]
    first = dict(zip(queries, [0.703, 0.300] * 3490, strict=True))
    second = dict(zip(queries, [0.300, 0.697] * 3490, strict=True))
    pair = compared(first, second)
    assert pair.difference == pytest.approx(0.003, abs=1e-12)
    assert pair.p == pytest.approx(0.531, abs=5e-4)
    assert pair.winner() is None
    better = {query: value + 0.027 for query, value in first.items()}
    pair = compared(better, second)
    assert pair.difference == pytest.approx(0.03, abs=1e-12)
    assert pair.winner() == 0
    # Six seeds of a system are no six samples of the queries: p does not change.
    assert compared(first, second, seeds=6).p == pytest.approx(0.531, abs=5e-4)


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
    facts = {rows.DATASET: {"queries": 30}}
    trained = []
    for seed, value in enumerate((mean - spread, mean, mean + spread)):
        artifacts = {"finetune": f"{seed}"}
        trained.append(rows.row("bert", seed, [value], facts=facts, settings={}, artifacts=artifacts))
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
    scored_file = score(tmp_path, {"q1": "a b"}, qrels, *ALL)
    assert scored_file.measures == halves(*ALL)
    hits = np.asarray([[0, 1], [-1, -1]], np.int32)
    scores = np.asarray([[2, 1], [-np.inf, -np.inf]], np.float32)
    ranking_by_hand = Ranking(hits, scores, self_hits=0, ties=0)
    folder = collection(tmp_path / "data", "a b", qrels)
    dataset = load(str(folder))
    scored_hits = score_hits("by hand", dataset, ["q1", "q2"], ["a", "b"], ranking_by_hand, ALL)
    assert scored_hits.measures == halves(*ALL)
    assert scored_hits.missing == 1


def test_pitfall_07_unlike_query_sets_and_runs_without_a_hit_raise(tmp_path: Path) -> None:
    """q2 was not retrieved and q9 not judged: 1/2. Runs in which nothing is right, and of no hit at all: 0."""
    qrels = {"q1": {"a": 1}, "q2": {"b": 1}}
    unlike_queries = score(tmp_path, {"q9": "b a", "q1": "a b"}, qrels, *ALL)
    assert unlike_queries.measures == halves(*ALL)
    assert unlike_queries.queries == 2
    assert unlike_queries.missing == 1
    assert unlike_queries.unjudged == 1
    nothing_right = score(tmp_path, {"q1": "x y", "q2": "z"}, qrels, *ALL)
    assert nothing_right.values == zeros("q1", "q2")
    both = ["q1", "q2"]
    for queries, width in ((both, 3), (both, 0), (["q1"], 0), ([], 0)):
        no_hits = np.full((len(queries), width), -1, np.int32)
        assert measure(queries, no_hits, ["a"], qrels, ALL) == zeros("q1", "q2")


def test_pitfall_08_queries_without_anything_relevant_are_dropped(tmp_path: Path) -> None:
    """Nothing is relevant to q2: it counts 0 and is told. At level 2 the same is true of q1, save in nDCG."""
    hits = {"q1": "a b", "q2": "a b"}
    qrels = {"q1": {"a": 1}, "q2": {"a": 0, "b": 0}}
    scored = score(tmp_path, hits, qrels, *ALL)
    assert scored.measures == halves(*ALL)
    assert scored.queries == 2
    assert scored.unanswerable == 1
    assert scored.missing == 0
    assert re.search(r"^unanswerable +1 without a relevant document, counted 0$", scored.text(), re.MULTILINE)
    at_level_2 = score(tmp_path, hits, qrels, "nDCG@10", "RR", level=2)
    assert at_level_2.measures == {"nDCG@10": 0.5, "RR": 0.0}
    assert at_level_2.unanswerable == 2


def test_pitfall_09_values_are_paired_by_position(tmp_path: Path) -> None:
    """Ranks 1, 2 and 4 of three queries, whatever comes first in run and judgements: 1, 1/2 and 1/4."""
    hits = {"q1": "a b c d", "q2": "c b d a", "q3": "b c a d"}
    qrels = {"q1": {"a": 1, "x": 0}, "q2": {"b": 1, "x": 0}, "q3": {"d": 1, "x": 0}}
    reversed_hits = dict(reversed(hits.items()))
    reversed_qrels = {}
    for query, grades in reversed(qrels.items()):
        reversed_qrels[query] = dict(reversed(grades.items()))
    ndcg = (1 + 1 / math.log2(3) + 1 / math.log2(5)) / 3
    for run in (hits, reversed_hits):
        for judgements in (qrels, reversed_qrels):
            scored = score(tmp_path, run, judgements, "RR", "nDCG@10")
            assert scored.values["RR"] == {"q1": 1.0, "q2": 1 / 2, "q3": 1 / 4}
            assert scored.measures["nDCG@10"] == pytest.approx(ndcg, abs=1e-12)


def test_pitfall_10_systems_are_paired_by_position() -> None:
    """The same values in another order of queries are no difference; a gain of 0.01 on every query is one for sure."""
    values: dict[str, float] = {}
    better: dict[str, float] = {}
    for row in range(30):
        gain = (0.009, 0.011)[row % 2]
        values[f"q{row}"] = row / 30
        better[f"q{row}"] = row / 30 + gain
    reordered = dict(reversed(values.items()))
    pair = compared(values, reordered)
    assert pair.difference == 0.0
    assert pair.p == 1.0
    # 0.009 and 0.011 in turn: mean 0.01, sample deviation 0.001 * sqrt(30 / 29), t = 0.01 / 0.001 * sqrt(29) = 53.9.
    better = {f"q{row}": row / 30 + (0.009, 0.011)[row % 2] for row in range(30)}
    pair = compared(better, values)
    assert pair.difference == pytest.approx(0.01, abs=1e-12)
    assert pair.p is not None and pair.p < 1e-20
    assert pair.winner() == 0


# Ties and precision


def test_pitfall_11_the_order_of_ties_is_left_to_chance(tmp_path: Path) -> None:
    """Twenty tied documents, the relevant one with the smallest id: it is last, rank 20, in each measure alike."""
    ids = [f"d{row:02}" for row in range(1, 21)]
    expected = {
        "RR": 1 / 20,
        "MRR@10": 0,
        "MRR@19": 0,
        "MRR@20": 1 / 20,
        "MAP": 1 / 20,
        "nDCG@20": 1 / math.log2(21),
        "Recall@19": 0,
        "Recall@20": 1,
    }
    largest_first = ids[::-1]
    rotated = ids[7:] + ids[:7]
    for order in (ids, largest_first, rotated):
        tied_hits = dict.fromkeys(order, 0.5)
        scored = score(tmp_path, {"q": tied_hits}, {"q": {"d01": 1}}, *expected)
        assert scored.measures == pytest.approx(expected, abs=1e-12)
        assert scored.ties == 19
        # A search that is cut within the ties returns the five largest ids.
        queries = lay(tmp_path / order[0] / "q", [[1.0]])
        passages = lay(tmp_path / order[0] / "p", [[0.5]] * 20)
        cut = ranked(queries, passages, ["q"], order, 5)
        assert [order[row] for row in cut.rows[0]] == ["d20", "d19", "d18", "d17", "d16"]


def test_pitfall_12_scores_are_compared_in_64_bits(tmp_path: Path) -> None:
    """Both are 0.98765433 in 32 bits, as trec_eval stores them: a tie, which b wins, so that a is second."""
    hits = {"q": {"a": 0.987654321, "b": 0.987654320}}
    scored = score(tmp_path, hits, {"q": {"a": 1}}, "RR", "RR@10")
    assert scored.measures == {"RR": 0.5, "MRR@10": 0.5}
    assert scored.ties == 1
    candidates = np.asarray([[0, 1]])
    scores: np.ndarray = np.asarray([[0.987654321, 0.987654320]], np.float64)
    settled = ranking.finish(candidates, scores, ranking.precedence(["a", "b"]), 2)
    assert settled.rows.tolist() == [[1, 0]]
    assert settled.ties == 1
    assert settled.scores.dtype == np.float32


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
    larger = np.float32(170.03)
    next_smaller = np.nextafter(larger, np.float32(0))
    scores = np.asarray([[larger, next_smaller]])
    hits = np.asarray([[0, 1]], np.int32)
    run, judged = write(tmp_path, {}, {"q": {"a": 1}})
    write_run(tmp_path, ["q"], ["a", "b"], Ranking(hits, scores, self_hits=0, ties=0), "near")
    assert trec.read_run(run).scores.tolist() == scores.tolist()
    scored = score_file(run, None, judged, ["RR"])
    assert scored.measures == {"RR": 1.0}
    assert scored.ties == 0


def test_pitfall_14_engines_are_given_ties_to_break() -> None:
    """Each of 40 documents in turn is relevant: 1/1, 1/2, ... 1/40, though neither engine would order them so.

    They are tied, and the order is ours; then it is turned round, as if their scores had risen with the ids.
    """
    ids = [f"d{row}" for row in range(40)]
    candidates: np.ndarray = np.tile(np.arange(40), (40, 1))
    equal_scores = np.zeros((40, 40))
    settled = ranking.finish(candidates, equal_scores, ranking.precedence(ids), 40)
    ranked_ids = [ids[row] for row in settled.rows[0]]
    assert ranked_ids == sorted(ids, reverse=True)
    turned_round = settled.rows[:, ::-1]
    for order in (settled.rows, turned_round):
        qrels: dict[str, dict[str, int]] = {}
        expected = {}
        expected_at_10 = dict.fromkeys([f"q{rank}" for rank in range(1, 41)], 0.0)
        for rank, row in enumerate(order[0], 1):
            qrels[f"q{rank}"] = {ids[row]: 1}
            expected[f"q{rank}"] = 1 / rank
            if rank <= 10:
                expected_at_10[f"q{rank}"] = 1 / rank
        values = measure(list(qrels), order, ids, qrels, ["RR", "MRR@10"])
        assert values["RR"] == pytest.approx(expected, abs=1e-12)
        assert values["MRR@10"] == pytest.approx(expected_at_10, abs=1e-12)
