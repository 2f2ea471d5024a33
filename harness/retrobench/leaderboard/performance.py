"""
Measured speed as data: one line for each case of a benchmark on one machine, and the tables made of these lines.

* Result                one case: ours beside a peer, the share of the floor, memory, what was equal
* append, read, latest  `results.jsonl` in the folder `performance` of a leaderboard
* Aim, aims             what each case is to show, `aims.toml` beside the results
* text, page            the table of a run, and the rendered README of the folder

Results are appended and never edited. A case that no line speaks of stands in the page as not measured.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from retrobench.core import Column, Table, atomic_write, build_record
from retrobench.errors import RetrobenchError

__all__ = ["AIMS", "RESULTS", "Aim", "Result", "aims", "append", "latest", "page", "public", "read", "text"]

RESULTS, AIMS = "results.jsonl", "aims.toml"
# Kept, but no part of `bench --json`.
_OF_THE_RUN = ("command", "date", "hardware", "smoke", "says", "rounds", "spread")
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Result:
    """One case. `ratio` is above 1 where ours is better, whether `unit` is a rate, a time or bytes."""

    benchmark: str
    case: str
    device: str  # "cpu" or "cuda"
    ours: float
    peer: float | None
    peer_name: str | None
    unit: str
    ratio: float | None
    floor_share: float | None  # of what the machine's own matrix products or copies allow, measured in the same run
    memory: dict[str, float] | None  # side -> peak bytes above what was held before
    equal: str  # what was compared before timing, and how far apart it was
    versions: dict[str, str]
    commit: str
    command: str
    date: str  # UTC, ISO 8601
    hardware: dict[str, str | int | float]
    smoke: bool = False  # equality alone counts
    says: str = ""  # what the numbers mean, made of them
    rounds: int = 0  # whose median counts; 0 where a line of before does not say
    spread: tuple[float, float] | None = None  # the least and the largest ratio of a round


@dataclass(frozen=True)
class Aim:
    """What a case is to show on one device: the least `ratio`, or the least share of the floor."""

    benchmark: str
    case: str
    device: str
    ratio: float = 0.0
    floor_share: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.ratio:g}x"] if self.ratio else []
        return " and ".join([*parts, *([f"{100 * self.floor_share:g} % of the floor"] if self.floor_share else [])])

    def met(self, result: Result) -> bool:
        """Whether the result shows it."""
        return (result.ratio or 0.0) >= self.ratio and (result.floor_share or 0.0) >= self.floor_share


def public(results: Iterable[Result]) -> list[dict[str, Any]]:
    """The objects of `bench --json`."""
    return [{name: value for name, value in asdict(of).items() if name not in _OF_THE_RUN} for of in results]


def append(folder: Path, results: Sequence[Result]) -> Path:
    """Put lines behind those of `results.jsonl` in `folder`; cut short, the file holds the old ones or all."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RESULTS
    before = file.read_text("utf-8") if file.exists() else ""
    lines = [json.dumps(asdict(result), allow_nan=False) + "\n" for result in results]
    atomic_write(file, [before, *lines])
    return file


def read(folder: Path) -> list[Result]:
    """The lines of a folder in their order; none where there is no file. RetrobenchError names a faulty line."""
    file, known = folder / RESULTS, {of.name for of in fields(Result)}
    found = []
    for number, line in enumerate(file.read_text("utf-8").splitlines() if file.exists() else (), 1):
        try:
            found.append(Result(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise RetrobenchError(
                f"{file}:{number}: no result of a benchmark ({error}). Known keys: {', '.join(sorted(known))}. "
                "Restore the line: results are appended, never edited."
            ) from error
    return found


def latest(results: Iterable[Result]) -> dict[tuple[str, str, str], Result]:
    """(benchmark, case, device) -> its last line, of the cases that the benchmark has at the last commit measured."""
    found = list(results)
    last = {(of.benchmark, of.device): of.commit for of in found}
    kept = (of for of in found if of.commit == last[of.benchmark, of.device])
    return {(of.benchmark, of.case, of.device): of for of in kept}


def aims(folder: Path) -> list[Aim]:
    """The tables `[[aim]]` of `aims.toml` in a folder, in their order."""
    file = folder / AIMS
    try:
        document = tomllib.loads(file.read_text("utf-8")) if file.exists() else {}
    except tomllib.TOMLDecodeError as error:
        raise RetrobenchError(f"{file} is not TOML: {error}. Mend it there.") from error
    return [build_record(Aim, table, f"aim of {file}") for table in document.get("aim", [])]


def text(results: Sequence[Result], wanted: Sequence[Aim] = ()) -> str:
    """Return the table of one run for a terminal, and below it what was equal and what the numbers say."""
    if not results:
        return "Nothing was measured."
    table = _table([(of.benchmark, of.case, of) for of in results], wanted, results[0].device)
    equal = [f"{of.benchmark}, {of.case}: {of.equal}" for of in results]
    meaning = [f"{of.benchmark}, {of.case}: {of.says}" for of in results if of.says]
    parts = [table.text(), "", "Compared before timing:", *equal]
    return "\n".join([*parts, "", "What it says:", *meaning] if meaning else parts)


def page(folder: Path) -> str:
    """The README of the folder: a table for each device, cases that nobody measured among them."""
    found, wanted = latest(read(folder)), aims(folder)
    parts = [
        "# Performance",
        f"<!-- Rendered by `python -m retrobench.leaderboard` from {RESULTS} and {AIMS}: edits are lost. -->",
        "What `retrobench bench` gave: each benchmark is one process in which a peer and retrobench take turns on the "
        "same seeded data, after their results were seen to be equal. A ratio above 1 says how many times better "
        "retrobench is: the median of the rounds, with the least and the largest of so many. The share of the floor is "
        "of the matrix products, or copies, measured in the same run; where the peer is other work, it is the ratio's "
        "share of the one that arithmetic allows.",
        "Memory is the peak above what was held before. Its allocation is the system's, as in a user's process: a "
        "block of more than 32 MiB, as logits of every position are, is given back and faulted in anew each time, "
        "which is part of what such a step costs. Times are noisy and speak of the machine named; ratios carry over "
        "best.",
    ]
    for device, title in (("cpu", "CPU"), ("cuda", "GPU")):
        cases = dict.fromkeys((of.benchmark, of.case) for of in wanted if of.device == device)
        cases |= dict.fromkeys((benchmark, case) for benchmark, case, where in found if where == device)
        if cases:
            rows = [(*key, found.get((*key, device))) for key in cases]
            parts += [f"## {title}", _table(rows, wanted, device).markdown(), *_sources(of for *_, of in rows if of)]
    return "\n\n".join(parts) + "\n"


CaseResult = tuple[str, str, Result | None]  # benchmark, case, and its result if it was measured


def _table(results: Sequence[CaseResult], wanted: Sequence[Aim], device: str) -> Table:
    """Return a row for each case: both sides, ratio, aim, share of the floor, memory."""
    by_case = {(aim.benchmark, aim.case): aim for aim in wanted if aim.device == device}
    columns = [Column(name) for name in ("benchmark", "case", "peer", "unit")]
    columns += [Column(name, "right", "measure") for name in ("retrobench", "of the peer", "ratio", "aim", "floor")]
    columns += [Column(name, "right", "cost") for name in ("memory", "of peer")]
    rows = [_cells(benchmark, case, of, by_case.get((benchmark, case))) for benchmark, case, of in results]
    return Table(columns, rows)


def _cells(benchmark: str, case: str, of: Result | None, aim: Aim | None) -> list[str]:
    wanted = f"{aim}" if aim else "-"
    if of is None:
        return [benchmark, case, "-", "-", "not measured", "-", "-", wanted, "-", "-", "-"]
    if aim:
        wanted += "" if aim.met(of) else " (missed)"
    memory = of.memory or {}
    held = [f"{memory[side] / _GIB:.2f} GiB" if side in memory else "-" for side in ("ours", "peer")]
    ratio = "-" if of.ratio is None else f"{of.ratio:.3g}x"
    if of.spread and of.rounds > 1:
        ratio += f" ({of.spread[0]:.3g} to {of.spread[1]:.3g} in {of.rounds})"
    share = "-" if of.floor_share is None else f"{100 * of.floor_share:.0f} %"
    return [
        benchmark,
        case,
        of.peer_name or "-",
        of.unit,
        _number(of.ours),
        _number(of.peer),
        ratio,
        wanted,
        share,
        *held,
    ]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _sources(results: Iterable[Result]) -> Iterator[str]:
    """Which runs the lines of a table are of, and what was equal in them."""
    found = list(results)
    if not found:
        return
    runs: dict[str, list[str]] = {}
    for of in found:
        about = ", ".join(f"{key} {value}" for key, value in {**of.hardware, **of.versions}.items())
        runs.setdefault(f"commit {of.commit[:10] or 'unknown'}, {of.date[:10]}: {about}", []).append(of.benchmark)
    yield "\n".join(f"- {', '.join(dict.fromkeys(names))}: {run}" for run, names in runs.items())
    if meaning := [f"- {of.benchmark}, {of.case}: {of.says}" for of in found if of.says]:
        yield "What it says:"
        yield "\n".join(meaning)
    yield "Compared before timing:"
    yield "\n".join(f"- {of.benchmark}, {of.case}: {of.equal}" for of in found)
    yield "```sh\n" + "\n".join(dict.fromkeys(of.command for of in found)) + "\n```"
