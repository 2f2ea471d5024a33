"""Run the checks and then benchmarks until the time is up; every result is written as it comes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from retrobench.bench.acceptance.check import CheckResult
from retrobench.bench.process import Worker
from retrobench.bench.run import FOLDER, BenchmarkRun, choose_device, read_aims, run_benchmark
from retrobench.bench.setting import Setting
from retrobench.core import Column, Table, atomic_write, provenance, say
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import BenchmarkResult, performance

__all__ = ["CHECKS", "Accepted", "accept"]

# Name -> module of this package, and the function in it that yields the checks; the most important first.
CHECKS = {
    "machine": "machine:checks",
    "steps": "steps:checks",
    "resume": "runs:killed_checks",
    "waits": "waits:checks",
    "search": "searches:checks",
    "processes": "runs:process_checks",
}
BENCHMARKS = ("retromae", "search", "encode", "dupmae", "contrastive", "bow-mae", "objectives")
# The released collators take most of this benchmark's time, on processors.
WITHOUT_RELEASED_FEED = ("objectives",)
FACTS = 160  # characters of a fact in the table


class Accepted(NamedTuple):
    """The results as the terminal shows them, and exit code 1 at a fault."""

    text: str
    exit_code: int


@dataclass
class Record:
    """All results so far, and the file that they are written to."""

    device: str
    minutes: float
    file: Path | None
    checks: list[CheckResult] = field(default_factory=list)
    benchmarks: list[BenchmarkResult] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)  # benchmarks, or cases of them
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def write(self) -> None:
        """Write the file anew. RetrobenchError if it cannot be written."""
        if self.file is None:
            return
        text = json.dumps(self.as_json(), indent=2, allow_nan=False)
        try:
            atomic_write(self.file, text + "\n")
        except OSError as error:
            raise RetrobenchError(
                f"Cannot write {self.file}: {error.strerror}. Give --json a file that can be written."
            ) from error

    def as_json(self) -> dict[str, Any]:
        """Return everything that the run found; benchmarks are lines of a leaderboard's `performance/results.jsonl`."""
        return {
            "command": f"retrobench accept --device {self.device} --minutes {self.minutes:g}",
            "started": self.started,
            "commit": provenance.commit(),
            "versions": {"retrobench": provenance.retrobench_version(), **provenance.libraries()},
            "hardware": provenance.hardware(),
            "checks": [asdict(result) for result in self.checks],
            "benchmarks": [asdict(result) for result in self.benchmarks],
            "not_reached": self.not_reached,
        }


def accept(
    device: str | None = None, minutes: float = 9.0, json_file: Path | None = None, leaderboard: Path | None = None
) -> Accepted:
    """Check that a device computes as a processor does, and run benchmarks for the rest of the minutes.

    `device` is "cpu" or "cuda"; without it the first GPU if there is one. `json_file` is written anew after every
    result, and the results of benchmarks are appended to `leaderboard` if one is given. RetrobenchError for an
    unknown device.
    """
    setting = Setting(choose_device(device), deadline=time.time() + 60 * minutes)
    record = Record(setting.device, minutes, json_file)
    record.write()
    for name in CHECKS:
        for result in _run_checks(name, setting):
            record.checks.append(result)
            record.write()
            say(f"{result.check}, {result.case}: {result.status}. {result.facts}")
    runs = []
    for name in BENCHMARKS:
        run = _run_benchmark(name, setting, record, leaderboard)
        record.not_reached += run.not_reached
        record.write()
        runs.append(run)
    failed = [run.name for run in runs if run.failed]
    faults = [result for result in record.checks if result.status == "fault"]
    return Accepted(_format(record, failed, leaderboard), 1 if faults or failed else 0)


def _run_checks(name: str, setting: Setting) -> Iterable[CheckResult]:
    """Yield the results of the checks of a name; a process that dies is a fault."""
    if setting.is_over():
        yield CheckResult(name, "all", "not reached")
        return
    words = [CHECKS[name], name, json.dumps(asdict(setting))]
    worker = Worker("retrobench.bench.acceptance.worker", words, setting.device, setting.deadline)
    for line in worker.run():
        yield CheckResult(**line)
    if worker.stopped:
        yield CheckResult(name, "the rest", "not reached", "the time was up")
    elif worker.exit_code:
        yield CheckResult(name, "the rest", "fault", f"its process ended with exit code {worker.exit_code}")


def _run_benchmark(name: str, setting: Setting, record: Record, leaderboard: Path | None) -> BenchmarkRun:
    def keep(result: BenchmarkResult) -> None:
        record.benchmarks.append(result)
        record.write()
        if leaderboard is not None:
            performance.append(leaderboard / FOLDER, [result])

    if name in WITHOUT_RELEASED_FEED:
        setting = replace(setting, released_feed=False)
    return run_benchmark(name, setting, keep)


def _format(record: Record, failed: Iterable[str], leaderboard: Path | None) -> str:
    columns = (Column("check"), Column("case"), Column("result"), Column("seconds", "right"), Column("facts"))
    rows = []
    for result in record.checks:
        facts = result.facts
        if len(facts) > FACTS:
            facts = facts[: FACTS - 3] + "..."
        rows.append([result.check, result.case, result.status, f"{result.seconds:.1f}", facts])
    lines = [Table(columns, rows).text(), ""]
    if record.benchmarks:
        lines += [performance.format_results(record.benchmarks, read_aims(leaderboard)), ""]
    lines += [f"Not reached within {record.minutes:g} minutes: {case}" for case in record.not_reached]
    faults = [f"{result.check}, {result.case}" for result in record.checks if result.status == "fault"]
    faults += failed
    if faults:
        lines.append(f"Faults: {'; '.join(faults)}. The reasons stand above.")
    else:
        lines.append("No fault.")
    return "\n".join(lines)
