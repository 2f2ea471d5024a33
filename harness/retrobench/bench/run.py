"""Which benchmarks there are, each run in a process of its own, and what becomes of their numbers."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

from retrobench.core import atomic_write, say
from retrobench.errors import RetrobenchError, unknown
from retrobench.leaderboard import Result, performance, places

__all__ = ["BENCHMARKS", "Benched", "bench"]

# Name -> module of this package.
BENCHMARKS: dict[str, str] = {
    "collation": "collation",
    "objectives": "objectives",
    "retromae": "retromae",
    "bow-mae": "bow_mae",
    "dupmae": "dupmae",
    "contrastive": "contrastive",
    "encode": "encode",
    "search": "search",
    "merge": "merge",
    "scale": "scale",
}
# Run only by name: they take longer than all others together.
BY_NAME_ONLY = ("scale",)
DEVICES = ("cpu", "cuda")
FOLDER = "performance"


class Benched(NamedTuple):
    """What was measured, as the terminal shows it, and 1 where a benchmark failed."""

    text: str
    exit_code: int


def bench(
    names: Sequence[str] = (),
    device: str | None = None,
    smoke: bool = False,
    json_file: Path | None = None,
    leaderboard: Path | None = None,
) -> Benched:
    """Run the benchmarks named, or all but the longest, and keep what they gave under `performance` of a leaderboard.

    `device` is "cpu" or "cuda"; without it the first GPU if there is one. With `smoke` sizes are small, only
    equality counts, and nothing is kept. `json_file` gets an array of `performance.public` results after every
    case, so that a run cut short leaves what it had. RetrobenchError for a name or device that is not there.
    """
    chosen = list(dict.fromkeys(names)) or [name for name in BENCHMARKS if name not in BY_NAME_ONLY]
    for name in chosen:
        if name not in BENCHMARKS:
            raise unknown("benchmark", name, BENCHMARKS)
    where = _device(device)
    folder = (leaderboard or Path("leaderboards")) / FOLDER
    done: list[Result] = []
    lock = Lock()

    def run(name: str) -> tuple[list[Result], int]:
        say(f"== {name} on {where}{', smoke' if smoke else ''}")
        process, found = _Process(name, where, smoke, _command(name, where)), []
        for result in process.results():
            found.append(result)
            with lock:
                done.append(result)
                _write(json_file, done)
        if not (process.returned or smoke):
            performance.append(folder, found)
        return found, process.returned

    # Where time counts nothing else may run; where it does not, imports are most of the work.
    with ThreadPoolExecutor((os.cpu_count() or 1) if smoke else 1) as pool:
        ended = dict(zip(chosen, pool.map(run, chosen), strict=True))
    results = [result for found, _ in ended.values() for result in found]
    _write(json_file, results)  # in their order, whichever ended first
    failed = [name for name, (_, returned) in ended.items() if returned]
    table = performance.text(results, [] if smoke else _aims(leaderboard))
    kept = (
        "Smoke: equality alone was checked, and nothing is kept."
        if smoke
        else f"Kept in {folder / performance.RESULTS}"
    )
    told = [f"Failed: {', '.join(failed)}; the reason stands above."] if failed else []
    return Benched("\n".join([table, "", kept, *told]), 1 if failed else 0)


def _aims(leaderboard: Path | None) -> list[performance.Aim]:
    """Those of the first folder that has some."""
    folders = [place / FOLDER for place in places(leaderboard)]
    return next((found for found in map(performance.aims, folders) if found), [])


def _device(asked: str | None) -> Literal["cpu", "cuda"]:
    import torch

    if asked is not None and asked not in DEVICES:
        raise unknown("device", asked, DEVICES)
    if asked == "cuda" and not torch.cuda.is_available():
        raise RetrobenchError("--device is cuda, and torch finds no GPU here. Leave it out, or take cpu.")
    return "cuda" if asked == "cuda" or (asked is None and torch.cuda.is_available()) else "cpu"


def _command(name: str, device: str) -> str:
    return shlex.join(["retrobench", "bench", name, "--device", device])


def _write(file: Path | None, results: Sequence[Result]) -> None:
    if file is None:
        return
    try:
        atomic_write(file, json.dumps(performance.public(results), indent=2) + "\n")
    except OSError as error:
        raise RetrobenchError(
            f"Cannot write {file}: {error.strerror}. Give --json a file that can be written."
        ) from error


class _Process:
    """One benchmark at work; results come as lines on its standard output, all else goes to standard error."""

    def __init__(self, name: str, device: str, smoke: bool, command: str) -> None:
        words = [
            sys.executable,
            "-m",
            "retrobench.bench.worker",
            BENCHMARKS[name],
            name,
            device,
            str(int(smoke)),
            command,
        ]
        self.words, self.device, self.returned = words, device, 0

    def results(self) -> Iterator[Result]:
        environment = dict(os.environ)
        if self.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""  # a GPU that ours saw it would take
        with subprocess.Popen(self.words, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    yield Result(**json.loads(line))
            except BaseException:
                process.kill()  # an interrupted or failing parent leaves no worker behind
                raise
        self.returned = process.returncode
