"""Means, spreads and tests equal those worked out by hand, and rows on different data are not compared."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from leaderboard_rows import (
    BERT,
    DATASET,
    MLM,
    RETROMAE,
    TRACK,
    around,
    entrants,
    facts,
    filled,
    mean,
    row,
    tracked,
    write_track,
)
from scipy.stats import ttest_rel

from retrobench.errors import RetrobenchError
from retrobench.leaderboard.comparison import Board, Comparison, compare
from retrobench.leaderboard.rows import PerQuery, Row, UnlikeError, append, load_per_query, per_query_loader, read
from retrobench.leaderboard.tables import compare_board, notes, render, show_track


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    return entrants(tmp_path / "leaderboards" / "toy")


def only(comparisons: Sequence[Comparison]) -> Comparison:
    assert len(comparisons) == 1
    return comparisons[0]


def compare_folder(track: Path) -> Comparison:
    """Compare the rows of a track's folder by their values by query."""
    load = partial(load_per_query, track)
    return only(compare(read(track), load))


def render_folder(track: Path, format: str) -> str:
    """Render the rows of a track's folder with tests of their values by query."""
    return render(Board.read(track), format)


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
    assert "a later one has the same entrant and seed: 1." in render(Board(tuple(rows)), "md")


def test_times_of_several_machines_name_the_machine_of_each_line() -> None:
    slow = {"cpu": "slow", "cores": 2}
    fast = {"cpu": "fast", "cores": 8}
    rows = [
        row("bert", 0, [0.2], hardware=slow),
        row("bert", 1, [0.2], hardware=fast),
        row("mlm", 0, [0.1], hardware=fast),
    ]
    (sentence,) = [text for text in notes(only(compare(rows))) if "machine" in text]
    assert sentence.endswith("within a machine only: a on cpu slow, cores 2; a, b on cpu fast, cores 8.")
    one_machine = [row("bert", 0, [0.2], hardware=fast), row("mlm", 0, [0.1], hardware=fast)]
    assert not [text for text in notes(only(compare(one_machine))) if "machine" in text]


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


@pytest.mark.parametrize(
    ("entrants", "name", "expected"),
    [
        (["bert", "mlm", "dupmae"], None, "mlm"),
        (["dupmae", "bert"], None, "bert"),
        (["dupmae", "bert", "mlm"], "dupmae", "dupmae"),
        (["dupmae", "retromae"], None, None),
    ],
)
def test_the_baseline_is_the_one_named_or_mlm_or_bert(
    entrants: list[str], name: str | None, expected: str | None
) -> None:
    table = only(compare([row(entrant) for entrant in entrants], baseline=name))
    baseline = None if table.baseline is None else table.lines[table.baseline].entrant
    assert baseline == expected


def test_the_baseline_is_read_as_most_lines_are() -> None:
    rows = [
        row("mlm", values=[0.34], representation="terms"),
        row("mlm", values=[0.31]),
        row("retromae", values=[0.33]),
        row("lexmae", values=[0.35], representation="terms"),
        row("bow-mae", values=[0.32]),
    ]
    table = only(compare(rows))
    assert table.baseline is not None
    assert table.name(table.baseline) == "mlm (cls)"
    assert {table.rival(index) for index in range(len(rows))} == {table.baseline}


def test_without_a_baseline_nothing_is_said_about_one(tmp_path: Path) -> None:
    filled(tmp_path, {"retromae": RETROMAE, "bow-mae": BERT})
    text = render(Board.read(tmp_path), "text")
    assert "does not beat" not in text
    assert "minus" not in text
    assert "beats" in text
    with pytest.raises(RetrobenchError, match=r"Unknown baseline 'mlm'.* Known: bow-mae, retromae"):
        compare(read(tmp_path), baseline="mlm")


CHECKPOINT = {"name": "authors/model", "label": "model@aaaaaaaa", "revision": ""}


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
    assert render(Board(tuple(UNLIKE_ROWS)), format).count("Track mini") == 3


def test_records_of_unlike_tracks_name_the_overrides() -> None:
    csv_file = io.StringIO(render(Board(tuple(UNLIKE_ROWS)), "csv"))
    dupmae, bert, mlm = csv.DictReader(csv_file)
    assert dupmae["overrides"] == bert["overrides"] == ""
    assert mlm["overrides"] == "base=tiny, pretrain.steps=20"
    dupmae, bert, mlm = json.loads(render(Board(tuple(UNLIKE_ROWS)), "json"))["tables"]
    assert dupmae["overrides"] == bert["overrides"] == {}
    assert mlm["overrides"] == OVERRIDES


def p_value(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    result = ttest_rel(list(a.values()), list(b.values()))
    return float(result.pvalue)


def test_marks_and_sentences(mini: Path) -> None:
    table = only(compare(read(mini), partial(load_per_query, mini)))
    assert [line.entrant for line in table.lines] == ["retromae", "mlm", "bert"]
    assert [table.beaten(line) for line in range(3)] == [[1, 2], [], []]
    assert (table.queries, len(table.pairs)) == (30, 3)
    ps = [p_value(RETROMAE, MLM), p_value(RETROMAE, BERT), p_value(MLM, BERT)]
    corrected = [1 - (1 - p) ** 3 for p in ps]  # by Šidák over three pairs
    assert [pair.p for pair in table.pairs] == pytest.approx(corrected, abs=1e-9)
    assert [table.ranks(line) for line in range(3)] == [(1, 1), (2, 3), (2, 3)]
    text = render(Board.read(mini), "md")
    assert re.search(rf"bert does not beat mlm at this size: -0.0010, \[.*\], p = {corrected[2]:.2g}\.", text)
    assert "retromae does not beat" not in text
    assert "The simultaneous intervals hold for all 3 pairs together" in text
    assert f"Each of the 30 queries of {DATASET} is a cluster of its own" in text
    assert "(n = 3 per entrant)" in text


def test_notes_name_lines_worse_than_the_baseline_and_near_the_best(tmp_path: Path) -> None:
    near = {query: value + 1e-4 * (-1) ** i for i, (query, value) in enumerate(RETROMAE.items())}
    filled(tmp_path, {"mlm": RETROMAE, "retromae": near, "bow-mae": BERT})
    text = render(Board.read(tmp_path), "text")
    assert re.search(
        r"bow-mae does not beat mlm at this size: -0\.2000, .*, p < 0\.001\. It is significantly wor", text
    )
    assert re.search(r"retromae does not beat mlm at this size: \+0\.0000, \[.*\], p = 1\.", text)
    assert "Not significantly different from the best, " in text


def test_each_round_is_a_line_and_is_compared_with_the_baseline_after_its_round() -> None:
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
    assert [line.entrant for line in table.lines] == ["bert, mined", "mlm, mined", "mlm, in-batch", "bert, in-batch"]
    assert [table.rival(line) for line in range(4)] == [1, 1, 2, 2]
    text = "\n".join(notes(table))
    assert "bert, in-batch does not beat mlm, in-batch at this size: -0.0100" in text
    named = only(compare(rows, load, baseline="bert"))
    assert [named.rival(line) for line in range(4)] == [0, 0, 3, 3]
    assert "mlm, mined does not beat bert, mined at this size: -0.0100" in "\n".join(notes(named))
    rerun = row("bert", values=[0.2], round="mined", artifacts={"score": "new"})
    assert only(compare([*rows, rerun])).superseded == 1, "the row of its round"


BEIR = "beir (mean of 14 public sets)"


@pytest.fixture
def averaged(tmp_path: Path) -> Path:
    """Return a track whose table begins with a mean of datasets, which has no values by query."""
    for name, values in (("bert", BERT), ("retromae", RETROMAE)):
        average = mean(values)
        measures = {BEIR: {"nDCG@10": average / 2}, DATASET: {"MRR@10": average}}
        for seed in range(3):
            append(tmp_path, row(name, seed, measures=measures), {DATASET: {"MRR@10": values}})
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
    assert f"the 30 queries of {DATASET}" in text
    markdown = render_folder(averaged, "md")
    assert "0.4500 ± 0.0000<sup>b</sup> |" in markdown, "beside the number that was tested"
    assert "0.2250 ± 0.0000<sup>" not in markdown
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
    assert "Differences are not tested" in show_track("toy", mini.parent)
    assert only(compare(rows)).pairs == ()


def test_two_sources_of_a_plugin_and_two_checkpoints_are_lines_of_their_own() -> None:
    sources = [row("toy", 0, objective_source="a" * 64), row("toy", 1, objective_source="b" * 64)]
    table = only(compare(sources))
    assert entrants_of(table) == ["toy (source=aaaaaaaa)", "toy (source=bbbbbbbb)"]
    assert "toy stands in lines that differ in source. Their rows are not averaged." in notes(table)

    first = {"name": "there", "label": "there@cccccccc", "hash": "c" * 20, "revision": ""}
    second = {**first, "hash": "d" * 20}
    table = only(compare([row("there", 0, checkpoint=first), row("there", 1, checkpoint=second)]))
    assert entrants_of(table) == ["there (checkpoint=cccccccc)", "there (checkpoint=dddddddd)"]
    assert "there stands in lines that differ in checkpoint. Their rows are not averaged." in notes(table)


def test_two_bases_under_one_name_are_two_tables() -> None:
    bm25 = row("bm25", None, [0.4])
    old = row("bert", 0, content={"base": "a" * 20, "fit": "f" * 20})
    new = row("bert", 1, content={"base": "b" * 20, "fit": "f" * 20})
    second, first = compare([bm25, old, new])
    assert first.heading == "Track mini as it is, base aaaaaaaa (identity 01234567)"
    assert second.heading == "Track mini as it is, base bbbbbbbb (identity 01234567)"
    assert (entrants_of(first), first.lines[1].seeds) == (["bm25", "bert"], [0])
    assert (entrants_of(second), second.lines[1].seeds) == (["bm25", "bert"], [1])


def test_rows_that_read_the_same_content_share_a_table() -> None:
    trained = row("mlm", content={"base": "a" * 20, "fit": "f" * 20, "corpus passages": "c" * 20})
    untrained = row("bert", content={"base": "a" * 20, "fit": "f" * 20})
    table = only(compare([untrained, trained, row("bm25", None)]))
    assert table.heading == "Track mini as it is (identity 01234567)"
    assert sorted(entrants_of(table)) == ["bert", "bm25", "mlm"]


def test_a_changed_track_is_titled_by_its_changes(tmp_path: Path) -> None:
    """The rows stay, and the file of their track is edited."""
    file = write_track(tmp_path)
    append(file.parent, tracked(file, row()), {})
    (unchanged,) = compare_board(Board.read(file.parent))
    assert unchanged.heading.startswith("Track mini as it is (")
    write_track(tmp_path, TRACK.replace("steps = 100", "steps = 200"))
    (changed,) = compare_board(Board.read(file.parent))
    assert changed.heading.startswith("Track mini with pretrain.steps=100 (")
