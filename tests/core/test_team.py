"""The whole chain by two processes: one store, one row, and nothing made twice."""

from __future__ import annotations

import sys
from pathlib import Path

import tiny
from processes import launch

from retrobench.core import processes


def test_a_run_of_two_processes(tmp_path: Path) -> None:
    made = tiny.make(tmp_path)
    words = [sys.executable, "-c", "from retrobench.cli import main; main()", *made.options("retromae")]
    first, second = launch(words)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    (row,) = made.rows()
    assert row["measures"][f"{made.data}:test"]["MRR@10"] > 0
    assert "retromae" in first.stdout and second.stdout == ""
    assert "pretrain retromae seed 0: new" in first.stderr and "seed 0" not in second.stderr
    assert len(made.finished("pretrain")) == 1 and len(made.finished("finetune")) == 2
    assert not list(made.store.glob("*/*.partial"))
    again, _ = launch(words)
    assert "pretrain retromae seed 0: cached" in again.stderr and len(made.rows()) == 1


def test_alone_nothing_waits() -> None:
    assert (processes.size(), processes.rank(), processes.leads(), processes.agree(True), processes.agree(False)) == (
        1,
        0,
        True,
        True,
        False,
    )
    processes.meet()
