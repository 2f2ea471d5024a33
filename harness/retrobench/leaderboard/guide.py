"""The generated parts of the leaderboards' guide: every key of a track, and the simulated coverage of intervals."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from retrobench.config import track_keys
from retrobench.core import Column, Table, atomic_write

__all__ = ["BEGIN", "END", "coverage_table", "find_guide", "is_current", "key_tables", "write_generated"]

BEGIN, END = "<!-- keys: generated from the records of the package -->", "<!-- end of keys -->"
COVERAGE = "coverage.json"  # beside the guide, written by `python -m retrobench.scoring.coverage`
BEGIN_COVERAGE, END_COVERAGE = f"<!-- coverage: generated from {COVERAGE} -->", "<!-- end of coverage -->"


def key_tables() -> str:
    """Return a heading and a Markdown table for each section of a track."""
    blocks = []
    columns = [Column("key"), Column("type"), Column("default"), Column("meaning")]
    for section, keys in groupby(track_keys(), key=lambda key: key.section):
        if section == "adapt":  # the keys of [pretrain]
            continue
        rows = [[f"`{key.key}`", key.type, f"`{key.default}`" if key.default else "", key.meaning] for key in keys]
        blocks += [f"#### `[{section}]`", Table(columns, rows).markdown()]
    return "\n\n".join(blocks)


def coverage_table(file: Path) -> str:
    """Return the simulated coverage as Markdown, with the command that made the file."""
    results: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))
    repetitions = results[0]["repetitions"]
    seeds = sorted({result["setting"]["seeds"] for result in results})
    columns = [Column("values"), Column("questions"), Column("seed / question variance", "right")]
    columns += [Column(f"{number} seeds: one pair, all pairs", "right") for number in seeds]
    rows: dict[tuple[str, str, float], list[str]] = {}
    for result in results:
        setting = result["setting"]
        questions = "in 50 clusters" if setting["clustered"] else "independent"
        shares = rows.setdefault((setting["values"], questions, setting["ratio"]), [])
        shares.append(f"{result['pair']:.1%}, {result['simultaneous']:.1%}")
    table = Table(columns, [[*key, *shares] for key, shares in rows.items()])
    command = f"`python -m retrobench.scoring.coverage {repetitions} leaderboards/{COVERAGE}`"
    return "\n\n".join(
        [
            f"Shares of {repetitions} simulated tables of 7 lines, by {command}:",
            table.markdown(),
            _about_coverage(results),
        ]
    )


def _about_coverage(results: list[dict[str, Any]]) -> str:
    """Return in how many settings the coverage is not nominal, for the intervals and for those not chosen."""
    wide = sum(result["simultaneous"] > 0.97 for result in results)
    short = sum(result["simultaneous"] < 0.93 for result in results)
    rejected = sum(result["games_howell"] < 0.93 for result in results)
    return (
        f"Of {len(results)} settings, all pairs are covered in fewer than 93 % of the tables in {short}, and in more "
        f"than 97 % in {wide}. The intervals of Games and Howell cover all pairs in fewer than 93 % in {rejected}."
    )


def find_guide(folder: Path) -> Path | None:
    """Return the README of a folder of leaderboards, if it has the marks between which the keys stand."""
    guide = folder / "README.md"
    if guide.exists() and BEGIN in guide.read_text("utf-8"):
        return guide
    return None


def is_current(guide: Path) -> bool:
    """Tell whether the guide holds its generated parts as records and files have them now."""
    return guide.read_text("utf-8") == _generated(guide)


def write_generated(guide: Path) -> None:
    """Put the generated parts into the guide, each between its two marks."""
    atomic_write(guide, _generated(guide))


def _generated(guide: Path) -> str:
    text = _between(guide.read_text("utf-8"), BEGIN, END, key_tables())
    if BEGIN_COVERAGE in text:
        text = _between(text, BEGIN_COVERAGE, END_COVERAGE, coverage_table(guide.parent / COVERAGE))
    return text


def _between(text: str, begin: str, end: str, content: str) -> str:
    before, _, remainder = text.partition(begin)
    _, _, after = remainder.partition(end)
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
