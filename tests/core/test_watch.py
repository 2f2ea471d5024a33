"""A rank that is stopped or never comes ends the others within the stated time, and is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from processes import start

PATIENCE = 3.0
WORKER = """
import sys, time
from retrobench.core import processes
from retrobench.errors import RetrobenchError
try:
    processes.meet()
except RetrobenchError as error:
    print("Error:", error, file=sys.stderr)
    sys.exit(2)
print("met", flush=True)
if processes.rank() == int(sys.argv[1]):
    time.sleep(600)
processes.meet()
"""


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETROBENCH_PATIENCE", str(PATIENCE))


def launch(busy: int) -> list[subprocess.Popen[str]]:
    """Start two ranks. The other waits for the busy one, which does something else for ten minutes."""
    return start([sys.executable, "-c", WORKER, str(busy)])


@pytest.mark.parametrize("stopped", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stopped_rank_ends_the_other_and_a_busy_one_does_not(stopped: int) -> None:
    ranks = launch(stopped)
    for process in ranks:
        assert process.stdout and process.stdout.readline() == "met\n"
    time.sleep(1.5 * PATIENCE)
    assert [process.poll() for process in ranks] == [None, None]
    os.kill(ranks[stopped].pid, signal.SIGSTOP)
    begin = time.monotonic()
    errors = ranks[1 - stopped].communicate(timeout=60)[1]
    assert ranks[1 - stopped].returncode == 1
    assert PATIENCE / 2 < time.monotonic() - begin < 6 * PATIENCE
    assert f"Error: Rank {stopped} of 2 (pid {ranks[stopped].pid} on " in errors
    assert "has not answered for 3 seconds" in errors
    ranks[stopped].kill()
    ranks[stopped].communicate()


@pytest.mark.parametrize("absent", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_that_never_comes_is_named(absent: int) -> None:
    ranks = launch(0)
    ranks[absent].kill()
    ranks[absent].communicate()
    errors = ranks[1 - absent].communicate(timeout=60)[1]
    assert ranks[1 - absent].returncode == 2
    assert f"Error: Rank {absent} of 2 did not come within 3 seconds." in errors
