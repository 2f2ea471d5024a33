"""A run by two processes: one store, one row, and every artifact made once."""

from __future__ import annotations

import sys
from pathlib import Path

import tiny
from processes import launch

from retrobench.core import processes

SHARDS = ["--set", "pretrain.shards=2", "--set", "finetune.shards=2"]


def test_a_run_of_two_processes(tmp_path: Path) -> None:
    track = tiny.make(tmp_path)
    words = [sys.executable, "-c", "from retrobench.cli import main; main()", *track.options("retromae"), *SHARDS]
    first, second = launch(words)
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    (row,) = track.rows()
    assert row["measures"][f"{track.data}:test"]["MRR@10"] > 0
    assert "retromae" in first.stdout
    assert second.stdout == ""
    assert "pretrain retromae seed 0: new" in first.stderr
    assert "seed 0" not in second.stderr
    assert len(track.finished("pretrain")) == 1
    assert len(track.finished("finetune")) == 2
    assert not list(track.store.glob("*/*.partial"))
    rerun, _ = launch(words)
    assert "pretrain retromae seed 0: cached" in rerun.stderr
    assert len(track.rows()) == 1


def test_a_single_process_does_not_wait() -> None:
    processes.meet()
    assert processes.size() == 1
    assert processes.rank() == 0
    assert processes.leads()
    assert processes.agree(True)
    assert not processes.agree(False)
