"""
Everything that one row stands on, as text or JSON. Only the files beside the row are read.

* show_row   the text of `retrobench show`
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retrobench.core import Column, Table
from retrobench.leaderboard.rows import Inspected, Row, find_row, missing_files, row_name

__all__ = ["show_row"]

# Headings of the text, with their fields in order. Fields of a later version follow.
SECTIONS = {
    "scores": ("measures", "per_query", "selection"),
    "entrant": ("entrant", "objective", "settings", "objective_source", "plugin", "representation", "checkpoint"),
    "recipe": ("track", "identity", "track_toml", "overrides", "seed", "round", "chosen", "processes", "negatives"),
    "data": ("facts", "content"),
    "artifacts, STAGE/KEY in the store": ("artifacts",),
    "program and machine": ("version", "commit", "libraries", "hardware", "cost", "energy"),
    "row": ("id", "schema", "date", "command"),
}


def show_row(name: str, leaderboard: Path | None = None, as_json: bool = False) -> str:
    """Return everything that the row of this name stands on. RetrobenchError for an unknown or ambiguous name."""
    folder, line = find_row(name, leaderboard)
    assert line.row is not None, "find_row returns only lines with a row"
    document = _document(folder, line, line.row)
    if as_json:
        return json.dumps(document, indent=2, ensure_ascii=False)
    blocks = [f"{row_name(line.row)}, {line.location}", *_remarks(document)]
    for heading, names in _sections(line.row).items():
        lines: list[tuple[str, str]] = []
        for field in names:
            lines += _lines(field, document["row"][field])
        blocks.append(f"{heading}\n{Table([Column(''), Column('')], lines).text()}")
    return "\n\n".join(blocks)


def _document(folder: Path, line: Inspected, row: Row) -> dict[str, Any]:
    """Return the document of `show --json`."""
    fields = json.loads(row.to_json()) | {"chosen": row.chosen}
    fields["artifacts"] = {role: f"{role.split()[0]}/{key}" for role, key in row.artifacts.items()}
    return {"location": line.location, "faults": line.faults, "missing": missing_files(folder, row), "row": fields}


def _remarks(document: Mapping[str, Any]) -> Iterator[str]:
    for fault in document["faults"]:
        yield f"DIFFERS: {fault}"
    for file in document["missing"]:
        yield f"MISSING: {file}"


def _sections(row: Row) -> dict[str, tuple[str, ...]]:
    if not row.later:
        return SECTIONS
    return SECTIONS | {"fields of a later version": tuple(row.later)}


def _lines(name: str, value: Any) -> list[tuple[str, str]]:
    """Return a field as lines of a name and a text. Nested names are joined by spaces."""
    if not isinstance(value, dict):
        return [(name, _text(value))]
    if not value:
        return [(name, "-")]
    lines = []
    for key, inner in value.items():
        label = key if name == "artifacts" else f"{name} {key}"
        lines += _lines(label, inner)
    return lines


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return value if isinstance(value, str) else json.dumps(value)
