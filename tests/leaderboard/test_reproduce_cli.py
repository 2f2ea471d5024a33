"""`retrobench reproduce` in a process of its own: its output, its errors and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from leaderboard_rows import board, measured

ROOT = Path(__file__).parents[2]


def run_reproduce(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from retrobench.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "reproduce", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_the_tables_of_all_papers_are_listed(tmp_path: Path) -> None:
    process = run_reproduce("--format", "json", folder=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    listed = [table["table"] for table in json.loads(process.stdout)["tables"]]
    retromae = [f"retromae/table-{number}" for number in range(1, 7)]
    dupmae = [f"dupmae/table-{number}" for number in range(1, 5)]
    cot_mae = ["cot-mae-qc/readme", "cot-mae/readme"]
    simlm = ["simlm/model-card", "simlm/readme"]
    assert listed == ["bow/speed", "bow/table-3", *cot_mae, *dupmae, "lexmae/abstract", *retromae, *simlm]


def test_a_table_that_nobody_has_run_shows_every_cell(tmp_path: Path) -> None:
    process = run_reproduce("retromae/table-2", folder=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in process.stdout.splitlines()]
    assert "BERT 0.3170 0.3278 0.5801 0.8570 0.9598 NOT RUN [1]" in lines
    assert "Condenser 0.3357 0.3471 0.6082 0.8770 0.9683 NOT RUN [4]" in lines
    assert "RetroMAE 0.3553 0.3665 0.6356 0.8922 0.9763 NOT RUN [5]" in lines
    assert any("--objective bert --objective condenser --objective retromae" in line for line in lines)
    assert "RetroMAE 0.7704 0.8172 0.8399 0.8604 0.8812 NOT RUN [1]" in lines
    assert sum(" NOT RUN [" in line for line in lines) == 18, "9 models on each of the two collections"
    assert "90 cells: 0 PASS, 0 FAIL, 90 NOT RUN. Exit code 0." in " ".join(lines)
    document = json.loads(run_reproduce("retromae/table-2", "--format", "json", folder=tmp_path).stdout)
    passages, questions = document["parts"]
    cells = [*passages["cells"], *questions["cells"]]
    assert len(cells) == 90
    for cell in cells:
        assert cell["verdict"] == "NOT RUN"
        assert cell["published"] and cell["source"] and cell["reason"]


def test_rows_of_the_mini_track_are_refused_by_their_identity(tmp_path: Path) -> None:
    rows = ROOT / "leaderboards" / "mini" / "rows.jsonl"
    process = run_reproduce("retromae/table-2", "--rows", rows, folder=tmp_path)
    assert (process.returncode, process.stdout) == (3, "")
    assert process.stderr.count("\n") == 1
    first = json.loads(rows.read_text().partition("\n")[0])["entrant"]
    assert process.stderr.startswith(
        f"Error: {rows}:1: the row of {first}, track mini, was measured on retrobench/squad/test"
    )
    assert "retromae/table-2 is about msmarco-titled:dev" in process.stderr


def test_a_failed_claim_exits_with_1(tmp_path: Path) -> None:
    folder = board(tmp_path, measured(mrr=0.2, seed=0), measured(mrr=0.201, seed=1))
    process = run_reproduce("paper/table-1", "--leaderboard", folder, folder=tmp_path)
    assert (process.returncode, process.stderr) == (1, "")
    assert " FAIL " in process.stdout
    assert "Exit code 1." in process.stdout


def test_an_unknown_table_is_one_line_with_a_suggestion(tmp_path: Path) -> None:
    process = run_reproduce("retromae/table-7", folder=tmp_path)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("Error: Unknown table 'retromae/table-7'. Did you mean 'retromae/table-")
