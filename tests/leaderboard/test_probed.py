"""Probes beside rows: the table and plot of coverage against retrieval over the checkpoints of a run."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from leaderboard_rows import row
from scipy.stats import spearmanr

from retrobench.core import Table
from retrobench.leaderboard.comparison import Board
from retrobench.leaderboard.report.plots import checkpoints
from retrobench.leaderboard.rows import append
from retrobench.leaderboard.tables import probed_sections, read_probed

RISING = ([0.10, 0.20, 0.15], [0.01, 0.03, 0.02])  # coverages, and scores in the same order
FALLING = ([0.4, 0.3, 0.2], [0.05, 0.06, 0.07])


def with_probes(folder: Path, entrant: str, values: Sequence[Sequence[float]], **changed: Any) -> None:
    """Append a row to a track's folder, with a curve whose last line and probes are those of `values`."""
    key = f"key-{entrant}-{len(changed)}"
    append(folder, row(entrant, 1, artifacts={"score": key, "pretrain": key}, **changed), {})
    records: list[dict[str, object]] = [{"step": 0, "mlm": 5.0, "gradient_norm": 1.0}]
    for number, (coverage, score) in enumerate(zip(*values, strict=True), 1):
        records.append({"step": 100 * number, "probe": score, "probe_coverage": coverage})
    records.insert(1, {"step": 50, "probe": None, "probe_coverage": 0.9})
    file = folder / "curves" / f"{key}.json.gz"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(gzip.compress(json.dumps(records).encode()))


@pytest.fixture
def board(tmp_path: Path) -> Board:
    folder = tmp_path / "toy"
    folder.mkdir()
    with_probes(folder, "bow", RISING)
    with_probes(folder, "mlm", FALLING)
    with_probes(folder, "short", ([0.1], [0.1]))
    return Board.read(folder)


def test_a_row_has_the_probes_of_its_pretraining_that_are_whole(board: Board) -> None:
    first, second = read_probed(board)
    assert (first.line, first.seed, first.measure) == ("bow (cls)", 1, "MRR@10")
    assert first.steps == (100, 200, 300), "a probe without a score is left out"
    assert (list(first.coverages), list(first.scores)) == RISING
    assert second.line == "mlm (cls)"


def test_rows_that_share_a_pretraining_count_once(board: Board, tmp_path: Path) -> None:
    shared = row("bow", 1, representation="cls+terms", artifacts={"score": "terms", "pretrain": "key-bow-0"})
    append(tmp_path / "toy", shared, {})
    again = Board.read(tmp_path / "toy")
    assert len(again.rows) == len(board.rows) + 1
    assert [probed.line for probed in read_probed(again)] == ["bow (cls)", "mlm (cls)"]


def test_correlations_are_within_runs_and_over_all(board: Board) -> None:
    (section,) = probed_sections(board)
    about, table, pooled = section.blocks
    assert isinstance(table, Table) and isinstance(pooled, str) and isinstance(about, str)
    assert "the track as it is" in about
    text = table.markdown()
    assert "coverage, step 100" in text and "MRR@10, step 300" in text
    bow, mlm = (line.split("|")[1:-1] for line in text.splitlines()[2:])
    assert [cell.strip() for cell in bow] == ["bow (cls)", "1", "3", "0.1000", "0.1500", "0.0100", "0.0200", "+1.00"]
    assert mlm[-1].strip() == "-1.00"
    overall = spearmanr(RISING[0] + FALLING[0], RISING[1] + FALLING[1]).statistic
    assert f"all 6 checkpoints of 2 runs the correlation is {overall:+.2f}" in pooled
    assert pooled.endswith("last checkpoints -."), "two runs are too few"


def test_a_changed_track_has_a_table_of_its_own(board: Board, tmp_path: Path) -> None:
    changed = {"overrides": {"pretrain.learning_rate": 2e-3}, "identity": "fedcba9876543210"}
    with_probes(tmp_path / "toy", "bow", FALLING, **changed)
    (section,) = probed_sections(Board.read(tmp_path / "toy"))
    assert len(section.blocks) == 6
    assert "the track with pretrain.learning_rate=0.002" in str(section.blocks[3])


def test_the_plot_is_a_path_for_each_run(board: Board) -> None:
    spec = checkpoints(read_probed(board))
    assert spec is not None
    values = spec["data"]["values"]
    assert {value["line"] for value in values} == {"bow (cls), seed 1", "mlm (cls), seed 1"}
    assert values[0] == {"line": "bow (cls), seed 1", "step": 100, "coverage": 0.1, "score": 0.01}
    assert checkpoints([]) is None
    assert probed_sections(Board()) == []
