"""
Rows of a leaderboard in `rows.jsonl` of a track's folder: appended and never edited.

* append, read      the rows of a folder
* inspect           every line of a file of rows, with the faults of damaged or edited lines
* find_duplicate    the earlier row of a measurement
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from retrobench.core import atomic_write, parse_json, say
from retrobench.errors import RetrobenchError, clip, quote
from retrobench.leaderboard.rows import evidence
from retrobench.leaderboard.rows.evidence import PerQuery
from retrobench.leaderboard.rows.row import FIELDS, SCHEMA, TYPES, Row
from retrobench.leaderboard.rows.values import check_typed, find_fault

__all__ = ["Inspected", "append", "find_duplicate", "inspect", "read", "read_file"]

ROUNDING = 1e-9  # between a measure and the mean of its values by query


class Inspected(NamedTuple):
    """A line of a file of rows. A sound row has no faults; a line that cannot be read has no row."""

    location: str  # FILE:LINE
    row: Row | None
    faults: tuple[str, ...]


def inspect(file: Path) -> list[Inspected]:
    """Return every line of a file of rows, checked: types, id, kept files, means over the values by query."""
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise RetrobenchError(
            f"Cannot read rows from {file}: {error.strerror}. Name a rows.jsonl of a track."
        ) from error
    inspected = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row, fault = _parse(line)
        faults: tuple[str, ...] = (fault,)
        if row is not None:
            faults = tuple(_faults(file.parent, row))
        inspected.append(Inspected(f"{file}:{number}", row, faults))
    return inspected


def read_file(file: Path) -> dict[str, Row]:
    """Return the sound rows of any file by `FILE:LINE`. Each other row is named on standard error and left out."""
    rows = {}
    for location, row, faults in inspect(file):
        if faults or row is None:
            say(
                f"{location}: left out, because {'; '.join(faults)}. Restore the line: rows are appended, never edited."
            )
        else:
            rows[location] = row
    return rows


def read(folder: Path) -> list[Row]:
    """Return the sound rows of a track's folder in the order of appending, none without a `rows.jsonl`."""
    file = folder / "rows.jsonl"
    return list(read_file(file).values()) if file.exists() else []


def find_duplicate(rows: Iterable[Row], row: Row) -> Row | None:
    """Return the first of `rows` with the artifacts, track, entrant, seed and round of `row`, if there is one."""
    identity = _measurement(row)
    for candidate in rows:
        if _measurement(candidate) == identity:
            return candidate
    return None


def _measurement(row: Row) -> tuple[object, ...]:
    # Artifacts do not suffice: an entrant that does not pre-train keeps them when the track's `pretrain` changes.
    return row.artifacts, row.identity, row.entrant, row.seed, row.round


def append(folder: Path, row: Row, per_query: PerQuery) -> Row:
    """Write `per_query` and then the row into a track's folder; return the row as written.

    A fully cached rerun appends nothing and returns the earlier row. A lock admits one process at a time. An
    interruption leaves the old rows, with or without the new one.
    """
    from filelock import FileLock

    file = folder / "rows.jsonl"
    row.to_json()  # a non-finite number raises ValueError before any file is written
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            earlier = find_duplicate(read(folder), row)
            if earlier:
                return earlier
            row = replace(row, per_query=evidence.keep_per_query(folder, per_query))
            row = replace(row, id=row.digest())
            _append_line(file, row.to_json())
    except OSError as error:
        raise RetrobenchError(
            f"Cannot write a row to {error.filename or folder}: {error.strerror}. "
            "Mend it, or give another --leaderboard DIR."
        ) from error
    return row


def _append_line(file: Path, line: str) -> None:
    # The whole file is written anew, since an append in place can be cut short within a line.
    content = file.read_bytes() if file.exists() else b""
    if content and not content.endswith(b"\n"):
        content += b"\n"
    atomic_write(file, content + line.encode() + b"\n")


def _parse(line: bytes) -> tuple[Row | None, str]:
    """Return the row of a line, or None with the fault."""
    try:
        document = parse_json(line)
    except ValueError as error:
        return None, f"it is not JSON ({clip(error)})"
    if not isinstance(document, dict):
        return None, "it is not a JSON object"
    if document.get("schema", SCHEMA) != SCHEMA:
        return None, f"it is a row of schema {quote(document['schema'])}, and this version reads {SCHEMA}"
    missing = [repr(name) for name in sorted(set(FIELDS) - document.keys())]
    if missing:
        return None, f"it lacks {', '.join(missing)}"
    for name in FIELDS:
        fault = check_typed(name, document[name], TYPES[name])
        if fault:
            return None, fault
    fault = find_fault(document)
    if fault:
        return None, fault
    values = {name: document.pop(name) for name in FIELDS}
    return Row(**values, later=document), ""


def _faults(folder: Path, row: Row) -> Iterator[str]:
    """Yield the differences between a row and its own id, kept files and values by query."""
    if row.id != row.digest():
        yield f"its content does not have the id {quote(row.id)}"
    yield from evidence.kept_faults(folder, row)
    if not evidence.has_values(folder, row):
        return  # differences cannot be tested, which the table says
    try:
        values = evidence.load_per_query(folder, row)
    except RetrobenchError as error:
        yield str(error).rstrip(".")
        return
    for dataset, measures in values.items():
        for measure, by_query in measures.items():
            mean = fmean(by_query.values())
            measured = row.measures.get(dataset, {}).get(measure)
            if measured is None or abs(measured - mean) > ROUNDING:
                yield f"its {measure} on {dataset} is {measured}, and its values by query average to {mean}"
