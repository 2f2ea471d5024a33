"""Means, spreads and tests equal those worked out by hand, and rows on different data are not compared."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from leaderboard_rows import BERT, DATASET, MLM, RETROMAE, around, entrants, facts, filled, mean, row, shifted
from scipy.stats import ttest_rel

from retrobench.errors import RetrobenchError
from retrobench.leaderboard.cells import notes
from retrobench.leaderboard.comparison import Comparison, compare
from retrobench.leaderboard.evidence import PerQuery, load_per_query, per_query_loader
from retrobench.leaderboard.rows import Row, UnlikeError, append, read
from retrobench.leaderboard.tables import render, show_track
from retrobench.scoring.significance import holm, paired_tests


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    return entrants(tmp_path / "leaderboards" / "mini")


def only(comparisons: Sequence[Comparison]) -> Comparison:
    assert len(comparisons) == 1
    return comparisons[0]


def compare_folder(track: Path) -> Comparison:
    """Compare the rows of a track's folder by their values by query."""
    load = partial(load_per_query, track)
    return only(compare(read(track), load))


def render_folder(track: Path, format: str) -> str:
    """Render the rows of a track's folder with tests of their values by query."""
    load = partial(load_per_query, track)
    return render(read(track), format, load)


def entrants_of(table: Comparison) -> list[str]:
    return [line.entrant for line in table.lines]


def test_mean_and_sample_deviation_over_seeds() -> None:
    first = row("bert", 0, [0.10, 0.5])
    second = row("bert", 1, [0.12, 0.5])
    third = row("bert", 2, [0.14, 0.5])
    single_seed = row("mlm", 0, [0.2])
    mlm, bert = only(compare([first, second, third, single_seed])).lines
    assert (bert.entrant, bert.seeds) == ("bert", [0, 1, 2])
    assert bert.mean(DATASET, "MRR@10") == pytest.approx(0.12, abs=1e-15)
    assert bert.deviation(DATASET, "MRR@10") == pytest.approx(0.02, abs=1e-15)
    assert bert.deviation(DATASET, "nDCG@10") == 0.0
    assert mlm.deviation(DATASET, "MRR@10") is None


def test_cost_is_summed_over_stages_and_averaged_over_seeds() -> None:
    slow = {"tokenise": {"seconds": 5.0}, "pretrain": {"seconds": 110.0, "tokens_per_second": 15000.0}}
    line = only(compare([row(seed=0), row(seed=1, cost=slow)])).lines[0]
    assert line.seconds() == (215 + 115) / 2
    assert line.seconds("pretrain") == (90 + 110) / 2
    assert line.speed() == 20000
    assert line.peak_memory() == 2**31
    bare = only(compare([row("bm25", None, cost={"search": {"seconds": 4.0}})])).lines[0]
    assert bare.seconds() == 4
    assert bare.seconds("pretrain") is None
    assert bare.speed() is None
    assert bare.peak_memory() is None


def test_a_later_row_of_a_seed_takes_the_place_of_the_earlier() -> None:
    rows = [row(values=[0.9]), row(values=[0.1], artifacts={"score": "new"}), row(seed=1, values=[0.3])]
    table = only(compare(rows))
    assert table.lines[0].mean(DATASET, "MRR@10") == pytest.approx(0.2)
    assert table.superseded == 1
    assert "a later one has the same entrant and seed: 1." in render(rows, "md")


def test_one_line_for_each_entrant_representation_and_settings() -> None:
    rows = [
        row("dupmae", representation="cls+terms", values=[0.4]),
        row("dupmae", values=[0.3]),
        row("dupmae", settings={"mask_ratio": 0.5}, values=[0.2]),
        row("dupmae", seed=1, settings={"mask_ratio": 0.5}, values=[0.2]),
        row("bert", values=[0.1]),
    ]
    table = only(compare(rows))
    lines = [(line.entrant, line.representation, len(line.rows)) for line in table.lines]
    assert lines == [
        ("dupmae", "cls+terms", 1),
        ("dupmae (mask_ratio=0.3)", "cls", 1),
        ("dupmae (mask_ratio=0.5)", "cls", 2),
        ("bert", "cls", 1),
    ]
    assert table.baseline == 3


CHECKPOINT = {"name": "authors/model", "label": "model@aaaaaaaa", "revision": ""}
# Fields in which two rows of one name and equal settings differ, and the name of that difference.
NAMESAKES: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "source": ({"objective_source": "a" * 64}, {"objective_source": "b" * 64}),
    "checkpoint": (
        {"checkpoint": {**CHECKPOINT, "hash": "a" * 20}},
        {"checkpoint": {**CHECKPOINT, "hash": "b" * 20}},
    ),
    "base": ({"content": {"base": "a" * 20}}, {"content": {"base": "b" * 20}}),
    "wiki passages": ({"content": {"wiki passages": "a" * 20}}, {"content": {"wiki passages": "b" * 20}}),
}


@pytest.mark.parametrize("name", NAMESAKES)
def test_rows_of_one_name_that_are_of_different_things_are_lines_of_their_own(name: str) -> None:
    first, second = NAMESAKES[name]
    rows = [
        row("dupmae", 0, [0.4], **first),
        row("dupmae", 0, [0.2], **second),
        row("dupmae", 1, [0.2], **second),
    ]
    table = only(compare(rows))
    assert entrants_of(table) == [f"dupmae ({name}=aaaaaaaa)", f"dupmae ({name}=bbbbbbbb)"]
    assert [line.seeds for line in table.lines] == [[0], [0, 1]]
    assert table.superseded == 0
    same = only(compare(rows[1:]))
    assert entrants_of(same) == ["dupmae"], "nothing to tell apart"


def test_a_checkpoint_and_a_training_of_one_name_are_lines_of_their_own() -> None:
    released = row("dupmae", 0, [0.4], checkpoint={**CHECKPOINT, "hash": "a" * 20})
    table = only(compare([released, row("dupmae", 0, [0.2])]))
    assert [line.seeds for line in table.lines] == [[0], [0]]
    assert entrants_of(table)[0] == "dupmae (checkpoint=aaaaaaaa)"


OVERRIDES = {"pretrain.steps": 20, "base": "tiny"}
UNLIKE_ROWS = [
    row("mlm", overrides=OVERRIDES, identity="fedcba9876543210"),
    row("bert"),
    row("dupmae", identity="9999999999999999"),
]


def test_unlike_tracks_share_no_table() -> None:
    dupmae, bert, mlm = compare(UNLIKE_ROWS)
    assert dupmae.heading == "Track mini as it is (identity 99999999)"
    assert entrants_of(dupmae) == ["dupmae"]
    assert bert.heading == "Track mini as it is (identity 01234567)"
    assert entrants_of(bert) == ["bert"]
    assert mlm.heading == "Track mini with base=tiny, pretrain.steps=20 (identity fedcba98)"
    assert entrants_of(mlm) == ["mlm"]


@pytest.mark.parametrize("format", ["text", "md", "latex"])
def test_unlike_tracks_have_headings_of_their_own(format: str) -> None:
    assert render(UNLIKE_ROWS, format).count("Track mini") == 3


def test_records_of_unlike_tracks_name_the_overrides() -> None:
    csv_file = io.StringIO(render(UNLIKE_ROWS, "csv"))
    dupmae, bert, mlm = csv.DictReader(csv_file)
    assert dupmae["overrides"] == bert["overrides"] == ""
    assert mlm["overrides"] == "base=tiny, pretrain.steps=20"
    dupmae, bert, mlm = json.loads(render(UNLIKE_ROWS, "json"))["tables"]
    assert dupmae["overrides"] == bert["overrides"] == {}
    assert mlm["overrides"] == OVERRIDES


def test_the_t_test_is_the_one_known_by_hand() -> None:
    # The differences are .5, 0, .5, 0: t = .25 / (sqrt(1/12) / 2) = sqrt(3) with 3 degrees of freedom, where
    # Student's distribution has the closed form 1/2 + (x / (1 + x^2) + arctan x) / pi, x = t / sqrt(3) = 1.
    a = {"1": 0.5, "2": 0.5, "3": 1.0, "4": 1.0}
    b = {"4": 1.0, "3": 0.5, "2": 0.5, "1": 0.0}  # another order of the same queries
    (pair,) = paired_tests([[a], [b]])
    assert pair.difference == 0.25
    assert pair.p == pair.corrected == pytest.approx(0.5 - 1 / math.pi, abs=1e-12)
    assert pair.winner() is None


def test_seeds_are_averaged_before_the_test() -> None:
    seeds = [{"1": 0.0, "2": 0.5, "3": 0.3}, {"1": 1.0, "2": 0.5, "3": 0.5}]
    single = {"1": 0.4, "2": 0.1, "3": 0.2}
    (pair,) = paired_tests([seeds, [single]])
    expected = ttest_rel([0.5, 0.5, 0.4], [0.4, 0.1, 0.2]).pvalue
    assert pair.p == pytest.approx(expected, abs=1e-12)


def test_differences_without_spread_are_decided_without_dividing_by_it() -> None:
    low = {"1": 0.25, "2": 0.5}
    high = {"1": 0.5, "2": 0.75}
    equal, first_and_high, second_and_high = paired_tests([[low], [low], [high]])
    assert equal.p == 1.0
    assert first_and_high.p == 0.0
    assert second_and_high.p == 0.0
    (single_query,) = paired_tests([[{"1": 0.1}], [{"1": 0.9}]])
    assert single_query.p == 1.0


def test_holm_by_hand() -> None:
    # 3 x .01 = .03; 2 x .03 = .06; 1 x .04 = .04 is raised to the .06 before it.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06], abs=1e-15)
    assert holm([0.5, 0.2, 0.9]) == pytest.approx([1.0, 0.6, 1.0], abs=1e-15)
    assert holm([]) == []


def p_value(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    result = ttest_rel(list(a.values()), list(b.values()))
    return float(result.pvalue)


def test_every_pair_is_tested_and_corrected(mini: Path) -> None:
    table = compare_folder(mini)
    assert entrants_of(table) == ["retromae", "mlm", "bert"]
    assert table.beaten(0) == [1, 2]
    assert table.beaten(1) == table.beaten(2) == []
    assert table.queries == 30
    p_values = [p_value(RETROMAE, MLM), p_value(RETROMAE, BERT), p_value(MLM, BERT)]
    assert [pair.p for pair in table.pairs] == pytest.approx(p_values, rel=1e-9)
    assert [pair.corrected for pair in table.pairs] == pytest.approx(holm(p_values), rel=1e-9)


def test_notes_name_the_test_and_entrants_that_do_not_beat_bert(mini: Path) -> None:
    text = render_folder(mini, "md")
    p = p_value(MLM, BERT)
    assert f"mlm does not beat bert at this size: +0.0010, p = {p:.2g}." in text
    assert "retromae does not beat" not in text
    assert (
        f"paired two-sided t-test over 30 queries of {DATASET}, values averaged over seeds first, p Holm-corrected "
        "over all 3 pairs, alpha 0.05."
    ) in text
    assert "(n = 1 per entrant)" in text


def test_notes_name_lines_worse_than_the_baseline_and_near_the_best(tmp_path: Path) -> None:
    near = shifted(RETROMAE, 1e-4, -1e-4)
    filled(tmp_path, {"bert": RETROMAE, "mlm": near, "bow-mae": BERT})
    text = render_folder(tmp_path, "text")
    assert "bow-mae does not beat bert at this size: -0.2000, p < 0.001. It is significantly worse." in text
    assert "mlm does not beat bert at this size: +0.0000, p = 1." in text
    assert "Not significantly different from the best, " in text


def test_each_round_is_a_line_and_is_compared_with_bert_after_its_round() -> None:
    rows = [
        row("bert", values=[0.30], round="in-batch"),
        row("bert", values=[0.34], round="mined"),
        row("mlm", values=[0.31], round="in-batch"),
        row("mlm", values=[0.33], round="mined"),
    ]

    def load(scored: Row) -> PerQuery:
        mean = scored.measures[DATASET]["MRR@10"]
        return {DATASET: {"MRR@10": around(mean, 0.001)}}

    table = only(compare(rows, load))
    assert entrants_of(table) == ["bert, mined", "mlm, mined", "mlm, in-batch", "bert, in-batch"]
    assert table.rival(0) == table.rival(1) == 0
    assert table.rival(2) == table.rival(3) == 3
    text = "\n".join(notes(table))
    assert "mlm, mined does not beat bert, mined at this size: -0.0100" in text
    assert "mlm, in-batch does not beat" not in text
    rerun = row("bert", values=[0.2], round="mined", artifacts={"score": "new"})
    assert only(compare([*rows, rerun])).superseded == 1, "the row of its round"


BEIR = "beir (mean of 14 public sets)"


@pytest.fixture
def averaged(tmp_path: Path) -> Path:
    """Return a track whose table begins with a mean of datasets, which has no values by query."""
    for name, values in (("bert", BERT), ("retromae", RETROMAE)):
        average = mean(values)
        measures = {BEIR: {"nDCG@10": average / 2}, DATASET: {"MRR@10": average}}
        append(tmp_path, row(name, measures=measures), {DATASET: {"MRR@10": values}})
    return tmp_path


def test_the_first_column_with_values_by_query_is_tested(averaged: Path) -> None:
    table = compare_folder(averaged)
    assert table.columns[0] == (BEIR, "nDCG@10")
    assert table.tested == (DATASET, "MRR@10")
    assert entrants_of(table) == ["retromae", "bert"]
    assert table.beaten(0) == [1]
    assert table.beaten(1) == []


def test_the_tested_column_is_named(averaged: Path) -> None:
    text = render_folder(averaged, "text")
    assert "Letters beside MRR@10 name" in text
    assert f"t-test over 30 queries of {DATASET}" in text
    markdown = render_folder(averaged, "md")
    assert "0.4500 ± -<sup>b</sup> |" in markdown, "beside the number that was tested"
    assert "0.2250 ± -<sup>" not in markdown
    table = json.loads(render_folder(averaged, "json"))["tables"][0]
    assert table["main"] == [BEIR, "nDCG@10"]
    assert table["tested"] == [DATASET, "MRR@10"]


UNLIKE_FACTS = [("corpus", "a" * 64), ("qrels", "b" * 64), ("documents", 7)]


@pytest.mark.parametrize(("name", "value"), UNLIKE_FACTS)
def test_rows_on_unlike_files_share_no_table(name: str, value: object) -> None:
    usual = facts()
    changed = usual | {name: value}
    first = row(facts={DATASET: usual})
    second = row("mlm", 3, facts={DATASET: changed})
    with pytest.raises(UnlikeError) as raised:
        compare([first, second])
    message = str(raised.value)
    assert message.startswith("bert (seed 0) of 2026-01-02T03:04:05Z and mlm (seed 3) of 2026-01-02T03:04:05Z cannot ")
    assert f"on {DATASET} their {name} differ, " in message
    assert str(usual[name])[:8] in message
    assert str(value)[:8] in message
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(("name", "value"), UNLIKE_FACTS)
def test_unlike_files_are_no_fault_in_two_tables_or_without_facts(name: str, value: object) -> None:
    first = row(facts={DATASET: facts()})
    second = row("mlm", 3, facts={DATASET: facts(**{name: value})})
    unlike_identity = replace(second, identity="f" * 16)
    assert len(compare([first, unlike_identity])) == 2
    early = replace(second, facts={})
    assert len(compare([first, early])) == 1


def test_unlike_queries_are_refused(tmp_path: Path) -> None:
    filled(tmp_path, {"bert": BERT, "mlm": {**MLM, "q30": 0.5}})
    with pytest.raises(RetrobenchError, match=r"bert \(seed 0\) has 30 queries and mlm \(seed 0\) 31, .* q30\."):
        compare_folder(tmp_path)


def test_without_per_query_values_nothing_is_tested_and_a_note_says_so(mini: Path) -> None:
    rows = read(mini)
    (mini / rows[1].per_query).unlink()
    assert per_query_loader(mini, rows) is None
    assert "Differences are not tested" in show_track("mini", mini.parent)
    assert only(compare(rows)).pairs == ()
