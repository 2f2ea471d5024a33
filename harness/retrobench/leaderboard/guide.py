"""The part of the leaderboards' guide that is generated: every key of a track."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from retrobench.config import track_keys
from retrobench.core import Column, Table, atomic_write

__all__ = ["BEGIN", "END", "find_guide", "is_current", "key_tables", "write_keys"]

BEGIN, END = "<!-- keys: generated from the records of the package -->", "<!-- end of keys -->"


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


def find_guide(folder: Path) -> Path | None:
    """Return the README of a folder of leaderboards, if it has the marks between which the keys stand."""
    guide = folder / "README.md"
    if guide.exists() and BEGIN in guide.read_text("utf-8"):
        return guide
    return None


def is_current(guide: Path) -> bool:
    """Tell whether the guide holds the keys as the records have them now."""
    return guide.read_text("utf-8") == _with_keys(guide)


def write_keys(guide: Path) -> None:
    """Put the keys into the guide, between their two marks."""
    atomic_write(guide, _with_keys(guide))


def _with_keys(guide: Path) -> str:
    text = guide.read_text("utf-8")
    before, _, remainder = text.partition(BEGIN)
    _, _, after = remainder.partition(END)
    return f"{before}{BEGIN}\n\n{key_tables()}\n\n{END}{after}"
