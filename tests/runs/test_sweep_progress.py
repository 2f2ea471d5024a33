"""A sweep in a pipe prints few lines, and names run and stage in all of its progress."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from retrobench import core
from retrobench.runs.sweep import Request, sweep


def test_a_sweep_in_a_pipe_prints_few_lines_and_counts_its_stages(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    track = tiny.make(tmp_path)
    words = [word for word in track.options("bert", "mlm") if word != "--verbose"]
    ended = subprocess.run([sys.executable, "-m", "retrobench", *words], capture_output=True, text=True, check=True)
    lines = (ended.stdout + ended.stderr).splitlines()
    assert len(lines) < 60
    assert "== run 1 of 2: bert, cls, seed 0, track tiny: 20 stages, 0 finished" in lines
    assert "== run 2 of 2: mlm, cls, seed 0, track tiny: 21 stages, 5 finished" in lines

    core.set_verbosity(2)
    sweep(Request(["bm25", "mlm"], str(track.track), (0, 1), (), track.store, track.boards))
    shown = capfd.readouterr().err
    positions = re.findall(r"run (\d) of 4, stage (\d+) of (\d+): ", shown)
    assert positions[0] == ("1", "1", "2"), "BM25 searches and scores"
    assert {run for run, _, _ in positions} == {"1", "4"}, "of the others every stage is finished"
    assert positions[-1] == ("4", "20", "21"), "the last search, before the last score"
    times = re.findall(r"run 4 of 4, stage .* about (.*) left in all", shown)
    assert len(times) == len(positions) - 1, "another seed tells the time of every stage"
