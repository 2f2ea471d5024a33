"""Run the benchmarks by name, each in a process of its own, and append the results to a leaderboard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from retrobench.core import atomic_write, say
from retrobench.errors import RetrobenchError, unknown
from retrobench.leaderboard import BenchmarkResult, performance, track_folders

__all__ = ["BENCHMARKS", "Benched", "bench"]

# Name -> module of this package, and the function in it that yields the cases.
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
) -> Benched:
    """Run the named benchmarks, or all but the longest, and append the results under `performance` of a leaderboard.

    `device` is "cpu" or "cuda"; without it the first GPU if there is one. With `smoke` sizes are small, only
    equality counts, and nothing is appended. `json_file` gets an array of `performance.public` results after every
    case, so that a run cut short leaves its first results. RetrobenchError for an unknown name or device.
    """
    chosen = _choose_benchmarks(names)
    device = _choose_device(device)
    folder = (leaderboard or Path("leaderboards")) / FOLDER
    results: list[BenchmarkResult] = []
    lock = Lock()

    def run(name: str) -> _Process:
        suffix = ", smoke" if smoke else ""
        say(f"== {name} on {device}{suffix}")
        process = _Process(name, device, smoke)
        for result in process.run():
            with lock:
                results.append(result)
                _write(json_file, results)
        if not (process.exit_code or smoke):
            performance.append(folder, process.results)
        return process

    # Timed benchmarks run alone. In a smoke run time does not count, and imports are most of the work.
    workers = 1
    if smoke:
        workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        processes = list(pool.map(run, chosen))
    in_order = [result for process in processes for result in process.results]
    _write(json_file, in_order)
    aims = [] if smoke else _read_aims(leaderboard)
    lines = [performance.format_results(in_order, aims), ""]
    if smoke:
        lines.append("Smoke: equality alone was checked, and nothing is kept.")
    else:
        lines.append(f"Kept in {folder / performance.RESULTS}")
    failed = [process.name for process in processes if process.exit_code]
    if failed:
        lines.append(f"Failed: {', '.join(failed)}; the reason stands above.")
    return Benched("\n".join(lines), 1 if failed else 0)


def _choose_benchmarks(names: Sequence[str]) -> list[str]:
    """Return the named benchmarks once each, or all but the longest; RetrobenchError for an unknown name."""
    for name in names:
        if name not in BENCHMARKS:
            raise unknown("benchmark", name, BENCHMARKS)
    if names:
        return list(dict.fromkeys(names))
    return [name for name in BENCHMARKS if name not in BY_NAME_ONLY]


def _choose_device(name: str | None) -> str:
    """Return the named device, or the first GPU if there is one; RetrobenchError where the machine lacks it."""
    import torch

    if name is not None and name not in DEVICES:
        raise unknown("device", name, DEVICES)
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RetrobenchError("--device is cuda, and torch finds no GPU here. Leave it out, or take cpu.")
    if name is None and available:
        return "cuda"
    return name or "cpu"


def _read_aims(leaderboard: Path | None) -> list[performance.Aim]:
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


class _Process:
    """One benchmark at work: its results are lines on its standard output; its log goes to standard error."""

    def __init__(self, name: str, device: str, smoke: bool) -> None:
        self.name = name
        location = BENCHMARKS[name]
        self.command = [sys.executable, "-m", "retrobench.bench.worker", location, name, device, str(int(smoke))]
        self.environment = dict(os.environ)
        if device == "cpu":
            self.environment["CUDA_VISIBLE_DEVICES"] = ""  # our side would use a visible GPU
        self.results: list[BenchmarkResult] = []
        self.exit_code = 0

    def run(self) -> Iterator[BenchmarkResult]:
        """Run the benchmark, and yield every result as it comes."""
        with subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True, env=self.environment) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    result = BenchmarkResult(**json.loads(line))
                    self.results.append(result)
                    yield result
            except BaseException:
                process.kill()  # an interrupted or failing parent leaves no worker behind
                raise
        self.exit_code = process.returncode
