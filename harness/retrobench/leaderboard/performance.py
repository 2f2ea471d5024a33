"""
Measured speed as data: a line for each case of a benchmark on one machine, and the tables made of these lines.

* BenchmarkResult       one case: retrobench beside a peer, the share of the floor, memory, the check of equality
* append, read, latest  `results.jsonl` in the folder `performance` of a leaderboard
* Aim, read_aims        the least numbers expected of each case, `aims.toml` beside the results
* format_results        the table of a run, for a terminal
* render_page           the README of the folder

Results are appended and never edited. The page shows a case without a result as not measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from retrobench.core import Column, Table, atomic_write, build_record, read_toml
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.tables import list_facts, shell_block

__all__ = [
    "AIMS",
    "RESULTS",
    "Aim",
    "BenchmarkResult",
    "append",
    "format_results",
    "latest",
    "public",
    "read",
    "read_aims",
    "render_page",
    "result_tables",
]

RESULTS = "results.jsonl"
AIMS = "aims.toml"
# In `results.jsonl`, but not in `bench --json`.
PRIVATE = ("command", "date", "hardware", "smoke", "says", "rounds", "spread")
GIB = 2**30
COLUMNS = (
    Column("benchmark"),
    Column("case"),
    Column("peer"),
    Column("unit"),
    Column("retrobench", "right", "measure"),
    Column("of the peer", "right", "measure"),
    Column("ratio", "right", "measure"),
    Column("aim", "right", "measure"),
    Column("floor", "right", "measure"),
    Column("memory", "right", "cost"),
    Column("of peer", "right", "cost"),
)
ABOUT = (
    "Each benchmark of `retrobench bench` is one process. In it a peer and retrobench take turns on the same seeded "
    "data, after their results were found equal. A ratio above 1 means that retrobench is that many times better. The "
    "table shows the median ratio of the rounds, with the least and the largest in brackets. The floor is the time of "
    "the matrix products, or copies, measured in the same run. Where the peer does other work, the share of the floor "
    "is the ratio divided by the ratio that arithmetic allows.",
    "Memory is the peak above the memory in use before. The system allocates it, as in a user's process. So a block "
    "of more than 32 MiB, such as the logits of every position, is returned and faulted in again each time. That is "
    "part of the cost of such a step. Times are noisy and hold for the machine named. Ratios carry over best.",
)


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """One case. `ratio` is above 1 where retrobench is better, whether `unit` is a rate, a time or bytes."""

    benchmark: str
    case: str
    device: str  # "cpu" or "cuda"
    ours: float
    peer: float | None
    peer_name: str | None
    unit: str
    ratio: float | None
    floor_share: float | None  # of the speed of the machine's own matrix products or copies, measured in the same run
    memory: dict[str, float] | None  # side -> peak bytes above those in use before
    equal: str  # the quantities compared before timing, and their largest differences
    versions: dict[str, str]
    commit: str
    command: str
    date: str  # UTC, ISO 8601
    hardware: dict[str, str | int | float]
    smoke: bool = False  # equality alone counts
    says: str = ""  # a sentence made of the numbers
    rounds: int = 0  # the ratio is their median; 0 in early lines, which lack it
    spread: tuple[float, float] | None = None  # the least and the largest ratio of a round


Key = tuple[str, str]  # benchmark, case


@dataclass(frozen=True)
class Aim:
    """The least `ratio`, share of the floor or rate in the case's unit, expected of a case on one device."""

    benchmark: str
    case: str
    device: str
    ratio: float = 0.0
    floor_share: float = 0.0
    rate: float = 0.0

    def __str__(self) -> str:
        texts = []
        if self.ratio:
            texts.append(f"{self.ratio:g}x")
        if self.floor_share:
            texts.append(f"{100 * self.floor_share:g} % of the floor")
        if self.rate:
            texts.append(f"{self.rate:,.0f} a second")
        return " and ".join(texts)

    def met(self, result: BenchmarkResult) -> bool:
        """Return whether the result reaches the aim."""
        ratio = result.ratio or 0.0
        floor_share = result.floor_share or 0.0
        return ratio >= self.ratio and floor_share >= self.floor_share and result.ours >= self.rate


def public(results: Iterable[BenchmarkResult]) -> list[dict[str, Any]]:
    """Return the objects of `bench --json`."""
    records = []
    for result in results:
        record = asdict(result)
        for name in PRIVATE:
            del record[name]
        records.append(record)
    return records


def append(folder: Path, results: Sequence[BenchmarkResult]) -> Path:
    """Append lines to `results.jsonl` in `folder`. An interruption leaves the old lines, or all."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RESULTS
    earlier = file.read_text("utf-8") if file.exists() else ""
    lines = [json.dumps(asdict(result), allow_nan=False) + "\n" for result in results]
    atomic_write(file, [earlier, *lines])
    return file


def read(folder: Path) -> list[BenchmarkResult]:
    """Return the results of a folder in their order, none without the file. RetrobenchError names a faulty line."""
    file = folder / RESULTS
    if not file.exists():
        return []
    results = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        try:
            results.append(BenchmarkResult(**json.loads(line)))
        except (ValueError, TypeError) as error:
            keys = sorted(field.name for field in fields(BenchmarkResult))
            raise RetrobenchError(
                f"{file}:{number}: no result of a benchmark ({error}). Known keys: {', '.join(keys)}. "
                "Restore the line: results are appended, never edited."
            ) from error
    return results


def latest(results: Sequence[BenchmarkResult]) -> dict[tuple[str, str, str], BenchmarkResult]:
    """Return (benchmark, case, device) -> its last result. Only the commit measured last counts for a benchmark."""
    commits = {(result.benchmark, result.device): result.commit for result in results}
    last = {}
    for result in results:
        if result.commit == commits[result.benchmark, result.device]:
            last[result.benchmark, result.case, result.device] = result
    return last


def read_aims(folder: Path) -> list[Aim]:
    """Return the tables `[[aim]]` of `aims.toml` in a folder, in their order."""
    file = folder / AIMS
    if not file.exists():
        return []
    tables = read_toml(file).get("aim", [])
    return [build_record(Aim, table, f"aim of {file}") for table in tables]


def format_results(results: Sequence[BenchmarkResult], aims: Sequence[Aim] = ()) -> str:
    """Return the table of one run for a terminal, with the checks of equality and the findings below it."""
    if not results:
        return "Nothing was measured."
    cases = [((result.benchmark, result.case), result) for result in results]
    lines = [_table(cases, aims, results[0].device).text()]
    lines += ["", "Compared before timing:", *_checks(results)]
    findings = _findings(results)
    if findings:
        lines += ["", "Findings:", *findings]
    return "\n".join(lines)


def render_page(folder: Path) -> str:
    """Return the README of the folder: a table for each device, with the cases that were not measured."""
    paragraphs = [
        "# Performance",
        f"<!-- Rendered by `python -m retrobench.leaderboard` from {RESULTS} and {AIMS}: edits are lost. -->",
        *ABOUT,
    ]
    for title, device, cases in _by_device(folder):
        paragraphs += [f"## {title}", _table(cases.items(), read_aims(folder), device).markdown()]
        paragraphs += _sources([result for result in cases.values() if result])
    return "\n\n".join(paragraphs) + "\n"


def result_tables(folder: Path) -> dict[str, Table]:
    """Return the tables of the page by their titles, one for each device with cases."""
    aims = read_aims(folder)
    return {title: _table(cases.items(), aims, device) for title, device, cases in _by_device(folder)}


def _by_device(folder: Path) -> Iterator[tuple[str, str, dict[Key, BenchmarkResult | None]]]:
    """Yield the title, the name and the cases of each device, a case without a result as None."""
    results = latest(read(folder))
    aims = read_aims(folder)
    for device, title in (("cpu", "CPU"), ("cuda", "GPU")):
        cases: dict[Key, BenchmarkResult | None] = {}
        for aim in aims:
            if aim.device == device:
                cases[aim.benchmark, aim.case] = None
        for result in results.values():
            if result.device == device:
                cases[result.benchmark, result.case] = result
        if cases:
            yield title, device, cases


def _table(cases: Iterable[tuple[Key, BenchmarkResult | None]], aims: Sequence[Aim], device: str) -> Table:
    """Return a row for each case: both sides, ratio, aim, share of the floor, memory."""
    aims_by_case = {(aim.benchmark, aim.case): aim for aim in aims if aim.device == device}
    rows = []
    for key, result in cases:
        aim = aims_by_case.get(key)
        cells = _measured(result, aim) if result else _unmeasured(aim)
        rows.append([*key, *cells])
    return Table(COLUMNS, rows)


def _unmeasured(aim: Aim | None) -> list[str]:
    expected = str(aim) if aim else "-"
    return ["-", "-", "not measured", "-", "-", expected, "-", "-", "-"]


def _measured(result: BenchmarkResult, aim: Aim | None) -> list[str]:
    share = "-" if result.floor_share is None else f"{100 * result.floor_share:.0f} %"
    return [
        result.peer_name or "-",
        result.unit,
        _number(result.ours),
        _number(result.peer),
        _ratio(result),
        _expected(result, aim),
        share,
        _memory(result, "ours"),
        _memory(result, "peer"),
    ]


def _ratio(result: BenchmarkResult) -> str:
    if result.ratio is None:
        return "-"
    text = f"{result.ratio:.3g}x"
    if result.spread and result.rounds > 1:
        least, largest = result.spread
        text += f" ({least:.3g} to {largest:.3g} in {result.rounds})"
    return text


def _expected(result: BenchmarkResult, aim: Aim | None) -> str:
    if aim is None:
        return "-"
    return str(aim) if aim.met(result) else f"{aim} (missed)"


def _memory(result: BenchmarkResult, side: str) -> str:
    if not result.memory or side not in result.memory:
        return "-"
    return f"{result.memory[side] / GIB:.2f} GiB"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _checks(results: Sequence[BenchmarkResult]) -> list[str]:
    """Return a line for each case: the quantities that were equal before timing."""
    return [f"{result.benchmark}, {result.case}: {result.equal}" for result in results]


def _findings(results: Sequence[BenchmarkResult]) -> list[str]:
    return [f"{result.benchmark}, {result.case}: {result.says}" for result in results if result.says]


def _sources(results: Sequence[BenchmarkResult]) -> Iterator[str]:
    """Yield the paragraphs below a table: its runs, findings, checks of equality, and commands."""
    if not results:
        return
    benchmarks: dict[str, list[str]] = {}  # by run
    for result in results:
        names = benchmarks.setdefault(_run(result), [])
        if result.benchmark not in names:
            names.append(result.benchmark)
    yield _bullets([f"{', '.join(names)}: {run}" for run, names in benchmarks.items()])
    findings = _findings(results)
    if findings:
        yield "Findings:"
        yield _bullets(findings)
    yield "Compared before timing:"
    yield _bullets(_checks(results))
    commands = dict.fromkeys(result.command for result in results)
    yield shell_block(commands)


def _run(result: BenchmarkResult) -> str:
    """Return the commit, day, machine and versions of a result."""
    environment = list_facts({**result.hardware, **result.versions})
    return f"commit {result.commit[:10] or 'unknown'}, {result.date[:10]}: {environment}"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
