"""
The README of a track's folder, rendered from the files beside it and from nothing else.

`python -m retrobench.leaderboard DIR` writes it, for a track's folder or for all below DIR. With `--check` it
writes nothing, names each README that is not current, and exits with 1 if there is one.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from retrobench.core import Column, Table, atomic_write
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import claims, performance
from retrobench.leaderboard.cells import clock
from retrobench.leaderboard.comparison import Comparison, compare
from retrobench.leaderboard.reproduce import section
from retrobench.leaderboard.rows import Row, load_per_query, read
from retrobench.leaderboard.tables import render

__all__ = ["check", "readme", "write_readme"]

PUBLISHED = (
    "What the papers print, from [`claims.toml`](claims.toml), beside the rows of this folder. "
    "`retrobench reproduce TABLE` prints a whole table."
)


def readme(folder: Path) -> str:
    """The README of a track's folder, of claims that no track measures, or of benchmarks: equal files, equal text."""
    if (folder / performance.AIMS).exists():
        return performance.page(folder)
    rows, track, claimed = read(folder), _track(folder / "track.toml"), (folder / "claims.toml").exists()
    about = track or (claims.heading(folder / "claims.toml") if claimed else {})
    measurable = bool(track or rows or not claimed)
    sources = ["claims.toml"] * claimed + ["rows.jsonl", "track.toml"] * measurable
    parts = [
        f"# {about.get('title', f'Track {folder.resolve().name}')}",
        f"<!-- Rendered by `python -m retrobench.leaderboard` from {_listed(sources)}: edits are lost. -->",
        str(about.get("description", "")).strip(),
        "[`track.toml`](track.toml) fixes everything but the objective." if track else "",
        "## Results" if measurable else "",
        "No rows yet." if measurable and not rows else "",
        render(rows, "md", partial(load_per_query, folder)) if rows else "",
    ]
    if claimed:
        parts += ["## Published and measured", PUBLISHED, section(folder)]
    if rows:
        comparisons = compare(rows)
        parts += ["## Cost", "Time of each stage as h:mm:ss, mean over seeds."]
        for comparison in comparisons:
            parts += [f"### {comparison.heading}", _costs(comparison).markdown()]
        parts += ["## Rows", "What each row was made by, and its values query by query."]
        for comparison in comparisons:
            parts += [f"### {comparison.heading}", *_provenance(comparison.rows)]
        parts += ["## Rerun", *_commands(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def write_readme(folder: Path) -> Path:
    """Render the README of a track's folder into it; returns its path."""
    file = folder / "README.md"
    atomic_write(file, readme(folder))
    return file


def check(folder: Path) -> list[str]:
    """The READMEs that are missing or not what the files beside them say, of the folder or those in it."""
    files = [(track, track / "README.md") for track in _tracks(folder)]
    return [str(file) for track, file in files if not file.exists() or file.read_text("utf-8") != readme(track)]


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    folders = [Path(argument) for argument in arguments if argument != "--check"]
    try:
        if not folders:
            raise RetrobenchError("No folder. Usage: python -m retrobench.leaderboard [--check] DIR ...")
        if "--check" not in arguments:
            for track in (track for folder in folders for track in _tracks(folder)):
                print(write_readme(track))
            return 0
        stale = [file for folder in folders for file in check(folder)]
    except RetrobenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for file in stale:
        print(f"{file} is not current: run python -m retrobench.leaderboard {Path(file).parent}", file=sys.stderr)
    return 1 if stale else 0


def _tracks(folder: Path) -> list[Path]:
    found = [track for track in (folder, *sorted(folder.glob("*/"))) if _is_track(track)]
    if not found:
        raise RetrobenchError(
            f"No track in {folder}. Name a folder that holds a track.toml, a rows.jsonl or a claims.toml."
        )
    return found


def _is_track(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("track.toml", "rows.jsonl", "claims.toml", performance.AIMS))


def _track(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RetrobenchError(f"{file} is not TOML: {error}. Mend it there.") from error


def _costs(comparison: Comparison) -> Table:
    """Return the time of every stage, a row for each entrant."""
    # The row with the most stages leads, so that an entrant which skips some does not set the order of all.
    rows = sorted(comparison.rows, key=lambda row: -len(row.cost))
    stages = list(dict.fromkeys(stage for row in rows for stage in row.cost))
    columns = [Column(""), Column("entrant"), Column("representation")]
    columns += [Column(stage, "right", "cost") for stage in stages]
    body = []
    for index, line in enumerate(comparison.lines):
        times = [clock(line.seconds(stage)) for stage in stages]
        body.append([comparison.letter(index), line.entrant, line.representation, *times])
    return Table(columns, body)


def _provenance(rows: Sequence[Row]) -> list[str]:
    """A table and its legend: machines and sets of libraries are numbered, for most rows share them."""
    machines = _numbered([row.hardware for row in rows])
    libraries = _numbered([row.libraries for row in rows])
    records = [
        {
            "entrant": row.entrant,
            "representation": row.representation,
            "seed": "-" if row.seed is None else str(row.seed),
            "validation": ", ".join(f"{name} {value:.4f}" for name, value in row.selection.items()) or "-",
            "chosen": row.chosen or "-",
            "negatives": f"{row.negatives:,.0f}" if row.negatives else "-",
            "plugin": " ".join(map(str, row.plugin.values())) or "-",
            "version": row.version,
            "commit": row.commit[:10],
            "machine": str(machines[_pairs(row.hardware)]),
            "libraries": str(libraries[_pairs(row.libraries)]),
            "date": row.date,
            "per query": f"[values]({row.per_query})",
        }
        for row in rows
    ]
    legend = [f"- Machine {number}: {text}" for text, number in machines.items()]
    legend += [f"- Libraries {number}: {text}" for text, number in libraries.items()]
    return [Table.from_records(records).markdown(), "\n".join(legend)]


def _numbered(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {text: number for number, text in enumerate(dict.fromkeys(map(_pairs, records)), 1)}


def _pairs(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in record.items())


def _commands(rows: Sequence[Row]) -> list[str]:
    text = "\n".join(dict.fromkeys(row.command for row in rows))
    return ["One command for each row, shown once where rows share it.", f"```sh\n{text}\n```"]
