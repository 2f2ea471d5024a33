"""Run the benchmarks by name, each in a process of its own, and append the results to a leaderboard."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

from retrobench.bench.process import Worker
from retrobench.bench.setting import Setting
from retrobench.core import atomic_write, say
from retrobench.errors import RetrobenchError, unknown
from retrobench.leaderboard import BenchmarkResult, performance, track_folders

__all__ = ["BENCHMARKS", "Benched", "BenchmarkRun", "bench", "choose_device", "read_aims", "run_benchmark"]

# Name -> module of `benchmarks`, and the function in it that yields the cases.
BENCHMARKS: dict[str, str] = {
    "collation": "collation:cases",
    "objectives": "objectives:cases",
    "retromae": "pretraining:retromae_cases",
    "bow-mae": "pretraining:bow_mae_cases",
    "dupmae": "dupmae:cases",
    "contrastive": "contrastive:cases",
    "encode": "encode:cases",
    "search": "search:cases",
    "merge": "merge:cases",
    "scale": "scale:cases",
}
# They take longer than the rest together.
BY_NAME_ONLY = ("scale",)
DEVICES = ("cpu", "cuda")
FOLDER = "performance"


class Benched(NamedTuple):
    """The results as the terminal shows them, and exit code 1 where a benchmark failed."""

    text: str
    exit_code: int


def bench(
    names: Sequence[str] = (),
    device: str | None = None,
    smoke: bool = False,
    json_file: Path | None = None,
    leaderboard: Path | None = None,
    rounds: int = 0,
    seconds: float | None = None,
) -> Benched:
    """Run the named benchmarks, or all but the longest, and append the results under `performance` of a leaderboard.

    `device` is "cpu" or "cuda"; without it the first GPU if there is one. With `smoke` sizes are small, only
    equality counts, and nothing is appended. `rounds` of each side are timed, by default each case's own number. After
    `seconds` no other case or round begins. Every result is appended when it comes, and `json_file` then gets an array
    of `performance.public` results, so that a run cut short leaves its first results. RetrobenchError for an unknown
    name or device.
    """
    chosen = _choose_benchmarks(names)
    device = choose_device(device)
    folder = (leaderboard or Path("leaderboards")) / FOLDER
    deadline = None if seconds is None else time.time() + seconds
    setting = Setting(device, smoke, rounds, deadline)
    results: list[BenchmarkResult] = []
    lock = Lock()

    def keep(result: BenchmarkResult) -> None:
        with lock:
            results.append(result)
            _write(json_file, results)
            if not smoke:
                performance.append(folder, [result])

    # Timed benchmarks run alone. In a smoke run time does not count, and imports are most of the work.
    workers = 1
    if smoke:
        workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        runs = list(pool.map(lambda name: run_benchmark(name, setting, keep), chosen))
    in_order = [result for run in runs for result in run.results]
    _write(json_file, in_order)
    aims = [] if smoke else read_aims(leaderboard)
    lines = [performance.format_results(in_order, aims), ""]
    if smoke:
        lines.append("Smoke: equality alone was checked, and nothing is kept.")
    else:
        lines.append(f"Kept in {folder / performance.RESULTS}")
    lines += [f"Not reached within the time: {case}" for run in runs for case in run.not_reached]
    failed = [run.name for run in runs if run.failed]
    if failed:
        lines.append(f"Failed: {', '.join(failed)}; the reason stands above.")
    return Benched("\n".join(lines), 1 if failed else 0)


@dataclass
class BenchmarkRun:
    """The results of one benchmark, and its cases that the time was too short for."""

    name: str
    results: list[BenchmarkResult] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)
    failed: bool = False


def run_benchmark(name: str, setting: Setting, keep: Callable[[BenchmarkResult], None]) -> BenchmarkRun:
    """Run a benchmark in a process of its own; `keep` is called with every result as it comes."""
    run = BenchmarkRun(name)
    if setting.is_over():
        run.not_reached.append(name)
        return run
    suffix = ", smoke" if setting.smoke else ""
    say(f"== {name} on {setting.device}{suffix}")
    words = [BENCHMARKS[name], name, json.dumps(asdict(setting))]
    worker = Worker("retrobench.bench.worker", words, setting.device, setting.deadline)
    for line in worker.run():
        if "not_reached" in line:
            run.not_reached.append(f"{name}, {line['not_reached']}")
            continue
        result = BenchmarkResult(**line)
        run.results.append(result)
        keep(result)
    if worker.stopped:
        run.not_reached.append(f"{name}, after {len(run.results)} cases")
    run.failed = worker.exit_code != 0 and not worker.stopped
    return run


def _choose_benchmarks(names: Sequence[str]) -> list[str]:
    """Return the named benchmarks once each, or all but the longest; RetrobenchError for an unknown name."""
    for name in names:
        if name not in BENCHMARKS:
            raise unknown("benchmark", name, BENCHMARKS)
    if names:
        return list(dict.fromkeys(names))
    return [name for name in BENCHMARKS if name not in BY_NAME_ONLY]


def choose_device(name: str | None) -> Literal["cpu", "cuda"]:
    """Return the named device, or the first GPU if there is one; RetrobenchError where the machine lacks it."""
    import torch

    if name is not None and name not in DEVICES:
        raise unknown("device", name, DEVICES)
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RetrobenchError("--device is cuda, and torch finds no GPU here. Leave it out, or take cpu.")
    if name == "cuda" or (name is None and available):
        return "cuda"
    return "cpu"


def read_aims(leaderboard: Path | None) -> list[performance.Aim]:
    """Read the aims of the first folder with any."""
    for folder in track_folders(leaderboard):
        aims = performance.read_aims(folder / FOLDER)
        if aims:
            return aims
    return []


def _write(file: Path | None, results: Sequence[BenchmarkResult]) -> None:
    if file is None:
        return
    text = json.dumps(performance.public(results), indent=2)
    try:
        atomic_write(file, text + "\n")
    except OSError as error:
        raise RetrobenchError(
            f"Cannot write {file}: {error.strerror}. Give --json a file that can be written."
        ) from error
