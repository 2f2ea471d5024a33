"""The benchmarks by name, each run in a process of its own, and the results kept."""

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
# Run only by name: they take longer than all others together.
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
    """Run the benchmarks named, or all but the longest, and append the results under `performance` of a leaderboard.

    `device` is "cpu" or "cuda"; without it the first GPU if there is one. With `smoke` sizes are small, only
    equality counts, and nothing is kept. `json_file` gets an array of `performance.public` results after every
    case, so that a run cut short leaves its first ones. RetrobenchError for an unknown name or device.
    """
    chosen = list(dict.fromkeys(names)) or [name for name in BENCHMARKS if name not in BY_NAME_ONLY]
    for name in chosen:
        if name not in BENCHMARKS:
            raise unknown("benchmark", name, BENCHMARKS)
    device = _device(device)
    folder = (leaderboard or Path("leaderboards")) / FOLDER
    done: list[BenchmarkResult] = []
    lock = Lock()

    def run(name: str) -> _Process:
        say(f"== {name} on {device}{', smoke' if smoke else ''}")
        process = _Process(name, device, smoke)
        for result in process.run():
            with lock:
                done.append(result)
                _write(json_file, done)
        if not (process.exit_code or smoke):
            performance.append(folder, process.results)
        return process

    # Where time counts nothing else may run; where it does not, imports are most of the work.
    with ThreadPoolExecutor((os.cpu_count() or 1) if smoke else 1) as pool:
        processes = list(pool.map(run, chosen))
    results = [result for process in processes for result in process.results]
    _write(json_file, results)  # in the order of the names, whichever ended first
    lines = [performance.format_results(results, [] if smoke else _aims(leaderboard)), ""]
    if smoke:
        lines.append("Smoke: equality alone was checked, and nothing is kept.")
    else:
        lines.append(f"Kept in {folder / performance.RESULTS}")
    failed = [process.name for process in processes if process.exit_code]
    if failed:
        lines.append(f"Failed: {', '.join(failed)}; the reason stands above.")
    return Benched("\n".join(lines), 1 if failed else 0)


def _aims(leaderboard: Path | None) -> list[performance.Aim]:
    """Read the aims of the first folder that has some."""
    for folder in track_folders(leaderboard):
        aims = performance.read_aims(folder / FOLDER)
        if aims:
            return aims
    return []


def _device(name: str | None) -> str:
    """Return the device named, or the first GPU if there is one; RetrobenchError where it is not there."""
    import torch

    if name is not None and name not in DEVICES:
        raise unknown("device", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise RetrobenchError("--device is cuda, and torch finds no GPU here. Leave it out, or take cpu.")
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _write(file: Path | None, results: Sequence[BenchmarkResult]) -> None:
    if file is None:
        return
    try:
        atomic_write(file, json.dumps(performance.public(results), indent=2) + "\n")
    except OSError as error:
        raise RetrobenchError(
            f"Cannot write {file}: {error.strerror}. Give --json a file that can be written."
        ) from error


class _Process:
    """One benchmark at work: its results are lines on its standard output, all else goes to standard error."""

    def __init__(self, name: str, device: str, smoke: bool) -> None:
        self.name = name
        self.words = [sys.executable, "-m", "retrobench.bench.worker", BENCHMARKS[name], name, device, str(int(smoke))]
        self.environment = dict(os.environ)
        if device == "cpu":
            self.environment["CUDA_VISIBLE_DEVICES"] = ""  # ours would take a GPU that it sees
        self.results: list[BenchmarkResult] = []
        self.exit_code = 0

    def run(self) -> Iterator[BenchmarkResult]:
        """Run it, and yield every result as it comes."""
        with subprocess.Popen(self.words, stdout=subprocess.PIPE, text=True, env=self.environment) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    self.results.append(BenchmarkResult(**json.loads(line)))
                    yield self.results[-1]
            except BaseException:
                process.kill()  # an interrupted or failing parent leaves no worker behind
                raise
        self.exit_code = process.returncode
