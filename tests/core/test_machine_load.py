"""Threads sleep while they wait where other processes are busy, unless the user chose."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from retrobench.core import machine_load

CODE = """
import os
from retrobench.core.machine_load import sleep_when_busy
sleep_when_busy()
print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
"""

pytestmark = pytest.mark.skipif(not machine_load.STATISTICS.exists(), reason="the load is read from /proc")


@pytest.fixture
def busy_processes() -> Iterator[None]:
    """Keep every processor busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    yield
    for process in processes:
        process.kill()
        process.wait()


def policy(**variables: str) -> tuple[str, str]:
    """Return the variables that a process sets, and its standard error."""
    environment = {name: value for name, value in os.environ.items() if name not in machine_load.CHOICES}
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-c", CODE]
    result = subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=True)
    return result.stdout.strip(), result.stderr


def test_threads_sleep_beside_busy_processes(busy_processes: None) -> None:
    variables, message = policy()
    assert variables == "passive 0"
    assert "of the processors, so this run's threads sleep" in message


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OMP_WAIT_POLICY": "active"}, "active None"),
        ({"GOMP_SPINCOUNT": "100"}, "None 100"),
        ({"OMP_NUM_THREADS": "1"}, "None None"),
    ],
)
def test_the_user_and_a_single_thread_are_left_alone(
    variables: dict[str, str], expected: str, busy_processes: None
) -> None:
    assert policy(**variables) == (expected, "")


def test_the_share_is_the_time_that_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 ticks, 25 pass idle and 15 in waiting for a disk. Guests' times, the last two, are counted elsewhere."""
    readings = iter(["cpu  10 0 10 100 5 0 0 0 7 7\ncpu0 1", "cpu  50 5 20 125 20 5 0 0 99 9\ncpu0 1"])

    class Statistics:
        def read_text(self) -> str:
            return next(readings)

    monkeypatch.setattr(machine_load, "STATISTICS", Statistics())
    assert machine_load.busy_share() == pytest.approx(0.6)
