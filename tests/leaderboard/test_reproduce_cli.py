"""`retrobench reproduce` as it is typed: what it prints, where, and what the shell sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from rows import board, measured

ROOT = Path(__file__).parents[2]


def typed(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from retrobench.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "reproduce", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})


def test_the_tables_of_all_three_papers_are_listed(tmp_path: Path) -> None:
    done = typed("--format", "json", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    listed = [each["table"] for each in json.loads(done.stdout)["tables"]]
    papers = {"retromae": range(1, 7), "dupmae": range(1, 5)}
    assert listed == sorted(
        [f"{paper}/table-{number}" for paper, numbers in papers.items() for number in numbers]
        + ["bow/table-3", "bow/speed"]
    )


def test_a_table_that_nobody_has_run_shows_every_cell(tmp_path: Path) -> None:
    done = typed("retromae/table-2", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "BERT 0.3170 0.3278 0.5801 0.8570 0.9598 NOT RUN [1]" in lines
    assert "RetroMAE 0.3553 0.3665 0.6356 0.8922 0.9763 NOT RUN [4]" in lines
    assert "RetroMAE 0.7704 0.8172 0.8399 0.8604 0.8812 NOT RUN [1]" in lines
    assert sum(" NOT RUN [" in line for line in lines) == 18, "9 models on each of the two collections"
    assert "90 cells: 0 PASS, 0 PASS (+), 0 FAIL, 90 NOT RUN, 0 N/A. Exit code 0." in " ".join(lines)
    document = json.loads(typed("retromae/table-2", "--format", "json", folder=tmp_path).stdout)
    found = [cell for part in document["parts"] for cell in part["cells"]]
    assert len(found) == 90
    assert {cell["verdict"] for cell in found} == {"NOT RUN"}
    assert all(cell["published"] and cell["source"] and cell["reason"] for cell in found)


def test_rows_of_the_mini_track_are_refused_by_their_identity(tmp_path: Path) -> None:
    rows = ROOT / "leaderboards" / "mini" / "rows.jsonl"
    done = typed("retromae/table-2", "--rows", rows, folder=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"Error: {rows}:1: the row of bm25, track mini, was measured on retrobench/squad/test, and retromae/table-2 "
        "is about msmarco-titled:dev. Numbers of unlike identity share no table.\n"
    )


def test_a_failed_claim_is_seen_by_the_shell(tmp_path: Path) -> None:
    done = typed("paper/table-1", "--leaderboard", board(tmp_path, measured(mrr=0.2)), folder=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert " FAIL " in done.stdout
    assert "Exit code 1." in done.stdout


def test_an_unknown_table_is_a_mistake_of_the_person(tmp_path: Path) -> None:
    done = typed("retromae/table-7", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: Unknown table 'retromae/table-7'. Did you mean 'retromae/table-")
