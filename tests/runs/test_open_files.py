"""Experiments of one process leave no file open."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
import tiny

from retrobench.runs import Request, sweep


def open_files(folder: Path) -> list[str]:
    """Return the files in `folder` that this process has open."""
    paths = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # the descriptor of the listing itself
            continue
        if path.startswith(str(folder)):
            paths.append(path)
    return paths


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_experiments_leave_no_file_open(tmp_path: Path) -> None:
    """The collector of cycles is off: a cycle would keep mapped files open until it happens to run."""
    track = tiny.make(tmp_path)
    objectives = ["dupmae", "cocondenser", "bm25"]
    request = Request(objectives, str(track.track), [0, 1], ["pretrain.steps=2"], track.store, track.boards)
    gc.disable()
    try:
        swept = sweep(request)
        assert open_files(tmp_path) == []
    finally:
        gc.enable()
    assert len(swept.rows) == 5
