"""`reproduce --run` beside the authors' run: ten topics whose numbers are known by hand, in every format."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from retrobench.errors import RetrobenchError
from retrobench.leaderboard.reproduce import RunFiles, reproduce

# The rank of each topic's one relevant document in each run of five documents.
THEIRS = (1, 1, 1, 1, 1, 1, 1, 1, 2, 2)  # RR: mean 0.9
OURS = (1, 1, 1, 1, 1, 1, 1, 1, 1, 5)  # mean 0.92; differs by 0.5 and 0.3
THEIR_BASELINE = (2, 2, 2, 2, 2, 2, 2, 2, 2, 2)  # mean 0.5
OUR_BASELINE = (1, 2, 2, 2, 2, 2, 2, 2, 2, 5)  # mean 0.52


def write_run(file: Path, ranks: tuple[int, ...]) -> Path:
    """Write a run that ranks the answer `a` at a topic's rank among `b` to `e`."""
    lines = []
    for topic, rank in enumerate(ranks):
        documents = list("bcde")
        documents.insert(rank - 1, "a")
        for position, document in enumerate(documents):
            lines.append(f"t{topic} Q0 {document} {position + 1} {5 - position} run\n")
    file.write_text("".join(lines))
    return file


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    qrels = tmp_path / "qrels"
    qrels.write_text("".join(f"t{topic} 0 a 1\n" for topic in range(10)))
    return RunFiles(
        run=write_run(tmp_path / "ours", OURS),
        against=write_run(tmp_path / "theirs", THEIRS),
        baseline_run=write_run(tmp_path / "our-baseline", OUR_BASELINE),
        baseline_against=write_run(tmp_path / "their-baseline", THEIR_BASELINE),
        qrels=qrels,
    )


def document(files: RunFiles) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(reproduce(format="json", files=files).text)
    return parsed


def test_the_measures_equal_those_worked_out_by_hand(files: RunFiles) -> None:
    reciprocal = document(files)["measures"]["RR"]
    assert reciprocal["theirs"] == pytest.approx(0.9, abs=1e-9)
    assert reciprocal["ours"] == pytest.approx(0.92, abs=1e-9)
    assert reciprocal["delta"] == pytest.approx(0.02, abs=1e-9)
    assert reciprocal["rmse"] == pytest.approx(math.sqrt((0.5**2 + 0.3**2) / 10), abs=1e-9)
    assert reciprocal["effect_ratio"] == pytest.approx((0.92 - 0.52) / (0.9 - 0.5), abs=1e-9)
    assert reciprocal["delta_relative_improvement"] == pytest.approx(0.4 / 0.5 - 0.4 / 0.52, abs=1e-9)


def test_the_rankings_equal_those_worked_out_by_hand(files: RunFiles) -> None:
    """Eight topics are equal. One has a and b swapped: 9 of 10 pairs in order. One has a moved from rank 2 to 5."""
    rankings = document(files)["rankings"]
    assert rankings["kendall_tau_union"] == pytest.approx((8 + 8 / 10 + 4 / 10) / 10, abs=1e-9)
    # Swapped, all but rank 1 agree: 1 - 0.2. Moved from 2 to 5, rank 1 agrees and ranks 2 to 4 lack one document.
    moved = 1 - 0.2 * (0.8 / 2 + 0.8**2 / 3 + 0.8**3 / 4)
    assert rankings["rbo"] == pytest.approx((8 + 0.8 + moved) / 10, abs=1e-9)
    assert (rankings["queries"], rankings["left_out"], rankings["rbo_p"]) == (10, 0, 0.8)


def test_a_run_equals_itself(files: RunFiles) -> None:
    same = RunFiles(run=files.run, against=files.run, qrels=files.qrels)
    rankings = document(same)["rankings"]
    assert (rankings["kendall_tau_union"], rankings["rbo"]) == (pytest.approx(1.0), pytest.approx(1.0))
    for numbers in document(same)["measures"].values():
        assert (numbers["rmse"], numbers["delta"], numbers["effect_ratio"]) == (0.0, 0.0, None)


def test_text_and_csv(files: RunFiles) -> None:
    text = reproduce(files=files).text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "measure theirs ours delta RMSE effect ratio delta RI" in lines
    assert "RR 0.9000 0.9200 +0.0200 0.1844 1.0000 +0.0308" in lines
    assert "Kendall's tau over the union 0.9200, rank-biased overlap 0.96" in text
    records = {row["measure"]: row for row in csv.DictReader(io.StringIO(reproduce(format="csv", files=files).text))}
    assert float(records["RR"]["kendall_tau_union"]) == pytest.approx(0.92)
    assert float(records["RR"]["effect_ratio"]) == pytest.approx(1.0)


def test_without_baselines_there_is_no_effect(files: RunFiles) -> None:
    pair = RunFiles(run=files.run, against=files.against, qrels=files.qrels)
    assert document(pair)["measures"]["RR"]["effect_ratio"] is None
    assert "effect ratio" not in reproduce(files=pair).text


@pytest.mark.parametrize(
    ("changed", "table", "message"),
    [
        ({"against": None}, "", r"Give --run FILE and --against FILE"),
        ({"run": None}, "", r"Give --run FILE and --against FILE"),
        ({"baseline_run": None}, "", r"Give --baseline-run FILE and --baseline-against FILE together"),
        ({"qrels": None}, "", r"Give either --dataset ID or --qrels FILE"),
        ({}, "retromae/table-2", r"--run compares two runs\. Leave out the table"),
    ],
)
def test_a_fault_is_one_line(files: RunFiles, changed: dict[str, Any], table: str, message: str) -> None:
    from dataclasses import replace

    with pytest.raises(RetrobenchError, match=message) as raised:
        reproduce(table, files=replace(files, **changed))
    assert "\n" not in str(raised.value)
