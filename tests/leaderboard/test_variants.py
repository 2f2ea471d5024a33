"""Tables beside those of single tracks: transfer, grids, tables across tracks, and the papers' expectations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from leaderboard_rows import BERT, DATASET, MLM, RETROMAE, around, mean, row

from retrobench.config import read_track, resolve
from retrobench.core import Table
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.comparison import Board
from retrobench.leaderboard.pages import render_readme
from retrobench.leaderboard.rows import append, keep_track
from retrobench.leaderboard.tables import compare_board, render, sections

HERE = "cranfield"
ABSENT = "beir/scifact/test"
VAL = 'evaluate.datasets=["retrobench/squad/val"]'

TRACK = f"""
[model]
base = "retrobench/base"
[pretrain]
corpus = ["retrobench/squad/train"]
steps = 100
batch = 8
learning_rate = 1e-3
[finetune]
queries = "retrobench/squad/fit"
steps = 10
batch = 8
learning_rate = 1e-3
[evaluate]
datasets = ["{DATASET}"]
transfer = ["{HERE}", "{ABSENT}", "beir/arguana"]
measures = ["MRR@10", "nDCG@10"]
"""

TABLES = f"""
[[grid]]
title = "Rates"
key = "pretrain.learning_rate"
overrides = ['{VAL}', "evaluate.transfer=[]"]

[[across]]
title = "Equal cost"
key = "pretrain.steps"
entrants = ["mlm", "retromae (cls)"]
text = "As long as RetroMAE."

[[expectation]]
claim = "RetroMAE beats BERT"
paper = "a paper"
better = "retromae"
worse = "bert"

[[expectation]]
claim = "BERT beats RetroMAE"
paper = "b paper"
better = "bert"
worse = "retromae"

[[expectation]]
claim = "MLM beats BERT"
paper = "c paper"
better = "mlm (cls)"
worse = "bert"

[[expectation]]
claim = "Condenser beats BERT"
paper = "d paper"
better = "condenser"
worse = "bert"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a track's folder with three entrants, each with three equal seeds, and what its tables need."""
    board = tmp_path / "small"
    board.mkdir()
    (board / "track.toml").write_text(TRACK)
    (board / "tables.toml").write_text(TABLES)
    for seed in range(3):
        measure(board, "bert", seed, {DATASET: BERT, HERE: around(0.30, 0.01), "beir/arguana": around(0.1, 0.01)})
        measure(board, "mlm", seed, {DATASET: MLM, HERE: around(0.30, 0.02), "beir/arguana": around(0.1, 0.02)})
        measure(board, "retromae", seed, {DATASET: RETROMAE, HERE: around(0.35, 0.01), "beir/arguana": around(0.1, 0)})
    return board


def measure(
    board: Path, entrant: str, seed: int, values: Mapping[str, Mapping[str, float]], overrides: Sequence[str] = ()
) -> None:
    """Append a row of the folder's track under overrides. Both measures have the values by dataset and query."""
    track = read_track(board / "track.toml", "small", overrides)
    measures = {name: {"MRR@10": mean(by_query), "nDCG@10": mean(by_query)} for name, by_query in values.items()}
    measured = replace(
        row(entrant, seed),
        track="small",
        identity=track.identity,
        track_toml=keep_track(board, track.identity, resolve(track)),
        overrides=dict(track.overrides),
        measures=measures,
        artifacts={"score": f"{entrant}-{seed}-{overrides}"},
    )
    append(board, measured, {name: {"MRR@10": dict(v), "nDCG@10": dict(v)} for name, v in values.items()})


def tables(board: Path) -> list[Table]:
    (comparison,) = compare_board(Board.read(board))
    (section,) = sections([comparison])
    return [block for block in section.blocks if isinstance(block, Table)]


def records(table: Table) -> list[dict[str, object]]:
    """Return the rows of a table by column name; repeated names are numbered."""
    names: list[str] = []
    for column in table.columns:
        repeats = sum(name.split("#")[0] == column.name for name in names)
        names.append(f"{column.name}#{repeats}" if repeats else column.name)
    return [dict(zip(names, cells, strict=True)) for cells in table.rows]


def test_datasets_of_transfer_stand_in_tables_of_their_own(folder: Path) -> None:
    first, _, scores, gains = tables(folder)
    assert [column.name for column in first.columns if column.kind == "measure"] == ["MRR@10", "nDCG@10"]
    retromae = records(scores)[0]
    assert retromae["entrant"] == "retromae"
    assert retromae[f"{HERE} nDCG@10"] == "0.3500 ± 0.0000"
    assert retromae[f"{ABSENT} nDCG@10"] == "NOT RUN"
    assert retromae["mean of 2"] == "0.2250 ± 0.0000", "of .35 and .1"
    line = {record["minus mlm"]: record for record in records(gains)}["retromae"]
    assert str(line[DATASET]).startswith("+0.1990 ["), ".2 over bert, and mlm has .001 of them"
    assert str(line[HERE]).startswith("+0.0500 [")
    assert line["effect ratio"] == "+0.25", ".05 of .199"
    assert line["effect ratio#1"] == "+0.00"


def test_an_effect_ratio_needs_a_gain(folder: Path) -> None:
    *_, gains = tables(folder)
    line = {record["minus mlm"]: record for record in records(gains)}["bert"]
    assert line["effect ratio"] == "-", "bert may equal mlm on the main dataset"


def test_a_user_without_a_dataset_of_transfer_keeps_the_first_table(folder: Path) -> None:
    measure(folder, "condenser", 0, {DATASET: BERT})
    first, _, scores, gains = tables(folder)
    assert len(first.rows) == 4
    by_entrant = {record["entrant"]: record for record in records(scores)}
    assert by_entrant["condenser"][f"{HERE} nDCG@10"] == "NOT RUN"
    assert by_entrant["bert"][f"{HERE} nDCG@10"] == "0.3000 ± 0.0000"
    assert by_entrant["condenser"]["mean of 2"] == "NOT RUN"
    of_lines = {record["minus mlm"]: record for record in records(gains)}
    assert of_lines["condenser"][HERE] == "NOT RUN"
    assert of_lines["retromae"]["effect ratio"] == "+0.25", "the other lines keep their gains"


def test_a_grid_shows_every_value_and_the_best(folder: Path) -> None:
    for rate, value in {"5e-4": 0.2, "1e-3": 0.3, "2e-3": 0.1}.items():
        overrides = [VAL, "evaluate.transfer=[]", f"pretrain.learning_rate={rate}"]
        measure(folder, "mlm", 0, {"retrobench/squad/val": around(value, 0.01)}, overrides)
    page = render(Board.read(folder), "md")
    assert "### Rates" in page
    assert "pretrain.learning_rate = 0.0005 | pretrain.learning_rate = 0.001 | pretrain.learning_rate = 0.002" in page
    line = page[page.index("### Rates") :].split("\n\n")[1].splitlines()[2]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == ["mlm", "cls", "0", "0.2000", "0.3000", "0.1000", "0.001"]
    assert "with evaluate.datasets" not in page, "the grid stands in place of a table for each of its tracks"
    assert len(Board.read(folder).rows) == 12


def test_a_table_across_tracks_prefers_the_values_set_for_an_entrant(folder: Path) -> None:
    for seed in range(3):
        measure(folder, "mlm", seed, {DATASET: around(0.4, 0.1)}, ["pretrain.steps=300"])
        measure(folder, "bert", seed, {DATASET: around(0.9, 0.1)}, ["pretrain.steps=300"])
    page = render(Board.read(folder), "md")
    table = page[page.index("### Equal cost") :].split("\n\n")
    assert table[1] == "As long as RetroMAE."
    cells = [[cell.strip() for cell in line.split("|")[2:6]] for line in table[2].splitlines()[2:]]
    assert cells == [["retromae", "cls", "3", "100"], ["mlm", "cls", "3", "300"]], "bert is not among its entrants"
    assert "with pretrain.steps=300" in page, "no table shows bert's row, so the table of its track stays"


def test_expectations_have_verdicts(folder: Path) -> None:
    page = render_readme(folder)
    assert "RetroMAE beats BERT (a paper). Here retromae - bert: shown, +0.2000, [" in page
    assert "BERT beats RetroMAE (b paper). Here bert - retromae: the reverse, -0.2000, [" in page
    assert "MLM beats BERT (c paper). Here mlm (cls) - bert: not shown, +0.0010, [" in page
    assert "Condenser beats BERT (d paper). Here condenser - bert: not measured." in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[grids]]\ntitle = 'a'", "grids"),
        ("[[grid]]\ntitle = 'a'", "key is missing"),
        ("[[across]]\ntitle = 'a'\nkey = 'b'\nentrant = 'c'", "entrant"),
        ("[grid]\ntitle = 'a'", r"\[\[grid\]\]"),
    ],
)
def test_a_fault_of_the_file_is_named(text: str, message: str, folder: Path) -> None:
    (folder / "tables.toml").write_text(text)
    with pytest.raises(RetrobenchError, match=message):
        Board.read(folder)
