"""
The load of this machine at the start of a run.

OpenMP's threads spin while they wait for each other. Where other processes need the same processors, a thread that
spins keeps its own partner from running, and two threads finish later than one. Threads that sleep cost a fifth of the
speed where nothing else runs. So the load at the start decides.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from retrobench.core import processes
from retrobench.core.progress import say

__all__ = ["busy_share", "sleep_when_busy"]

SECONDS = 0.2  # over which the load is measured
BUSY = 0.25  # share of the processors' time; one of two processors at work is .5
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # variables by which a user chooses
STATISTICS = Path("/proc/stat")
IDLE_COLUMNS = (3, 4)  # of a line of processor times: idle, and waiting for a disk


def sleep_when_busy() -> None:
    """Let OpenMP's threads sleep while they wait, if other processes keep this machine busy.

    Call it before torch loads. Nothing happens where the user set a policy, with one thread, for one of several ranks,
    which are busy themselves, and on systems other than Linux. Results do not change.
    """
    chosen = any(name in os.environ for name in CHOICES)
    alone = os.environ.get("OMP_NUM_THREADS") == "1"
    if chosen or alone or processes.size() > 1 or not STATISTICS.exists():
        return
    share = busy_share()
    if share < BUSY:
        return
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ["GOMP_SPINCOUNT"] = "0"
    say(
        f"Other processes use {share:.0%} of the processors, so this run's threads sleep while they wait for each "
        "other (OMP_WAIT_POLICY=passive)."
    )


def busy_share() -> float:
    """Return the share of all processors' time that processes used, 0 to 1, in the next fifth of a second."""
    before = _processor_times()
    time.sleep(SECONDS)
    spent = [after - earlier for earlier, after in zip(before, _processor_times(), strict=True)]
    idle = sum(spent[column] for column in IDLE_COLUMNS)
    return 1 - idle / max(1, sum(spent))


def _processor_times() -> list[int]:
    """Return the times of all processors together, in ticks: user, nice, system, idle, and further columns."""
    first_line = STATISTICS.read_text().partition("\n")[0]
    return [int(column) for column in first_line.split()[1:9]]  # later columns repeat guests' times
