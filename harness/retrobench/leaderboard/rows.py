"""
Rows of a leaderboard: each is one measured entrant, appended and never edited.

* Row                     one measurement, with its recipe, provenance and cost
* append, read            the rows in `rows.jsonl` of a track's folder
* read_file               the rows of any file, by `FILE:LINE`
* find_duplicate          the earlier row of a measurement
* per_query_loader        the reader of the values by query in `per_query/`
* UnlikeError             raised for rows that may not share a table

`comparison` groups rows into lines, and `tables` renders them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from retrobench.core import atomic_write
from retrobench.errors import RetrobenchError

__all__ = [
    "Load",
    "PerQuery",
    "Row",
    "UnlikeError",
    "append",
    "find_duplicate",
    "load_per_query",
    "per_query_loader",
    "read",
    "read_file",
]


class UnlikeError(RetrobenchError):
    """Raised where rows were measured on different data, or on other data than a table needs."""

    exit_code = 3


PerQuery = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Dataset id -> measure -> query id -> value, a fraction."""


SCHEMA = 1  # of rows; a reader refuses rows of another
ORDERED = ("measures", "cost")  # fields whose keys have an order with a meaning


@dataclass(frozen=True, kw_only=True)
class Row:
    """One entrant measured once. The first dataset and measure in `measures` are the track's main ones."""

    track: str
    identity: str  # hash of the resolved track: everything but the objective
    overrides: dict[str, Any]  # the track's keys changed by `--set`
    entrant: str  # as shown: "dupmae", "dupmae:paper", "bm25"
    objective: str
    settings: dict[str, Any]  # of the objective
    representation: str
    checkpoint: str | None  # a released checkpoint that was fine-tuned instead of pre-training
    seed: int | None  # None where nothing is drawn at random
    chosen: str  # the fine-tuning round that did best on the validation set
    measures: dict[str, dict[str, float]]  # dataset id -> measure -> fraction, unrounded
    selection: dict[str, float]  # round -> validation measure
    artifacts: dict[str, str]  # role, such as `finetune mined` -> key in the store
    commit: str
    version: str
    plugin: dict[str, Any]  # distribution and version that gave the objective
    libraries: dict[str, str]
    hardware: dict[str, str | int | float]
    cost: dict[str, dict[str, float]]  # stage -> seconds, tokens_per_second, peak_memory_bytes
    date: str  # UTC, ISO 8601
    command: str  # reruns this row
    schema: int = SCHEMA
    per_query: str = ""  # relative to the track's folder; `append` fills it in
    # Dataset id -> its identity: counts and hashes of documents and judgements, titles, lengths, similarity.
    facts: dict[str, dict[str, Any]]
    round: str  # the fine-tuning round measured, where a track measures every one: in-batch, mined, distilled
    negatives: float  # passages that a training query of that round competed with, on average

    def to_json(self) -> str:
        """Return one line of JSON. Keys are sorted, except in `measures` and `cost`."""
        members = []
        for name in sorted(field.name for field in fields(self)):
            value = _dumps(getattr(self, name), sort=name not in ORDERED)
            members.append(f'"{name}": {value}')
        return "{" + ", ".join(members) + "}"

    @property
    def id(self) -> str:
        """Return the name of the row's own files, a hash of all its fields."""
        content = replace(self, per_query="").to_json()
        return hashlib.sha256(content.encode()).hexdigest()[:16]


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
    row = replace(row, per_query=f"per_query/{row.id}.json.gz")
    try:
        (folder / "per_query").mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            earlier = find_duplicate(read(folder), row)
            if earlier:
                return earlier
            atomic_write(folder / row.per_query, _compress(_dumps(per_query, sort=False)))
            _append_line(file, row.to_json())
    except OSError as error:
        raise RetrobenchError(
            f"Cannot write a row to {error.filename or folder}: {error.strerror}. "
            "Mend it, or give another --leaderboard DIR."
        ) from error
    return row


def _append_line(file: Path, line: str) -> None:
    # The whole file is written anew, since an append in place can be cut short within a line.
    text = file.read_text("utf-8") if file.exists() else ""
    if text and not text.endswith("\n"):
        text += "\n"
    atomic_write(file, f"{text}{line}\n")


def read(folder: Path) -> list[Row]:
    """Return the rows of a track's folder in the order of appending, none without a `rows.jsonl`."""
    file = folder / "rows.jsonl"
    return list(read_file(file).values()) if file.exists() else []


def read_file(file: Path) -> dict[str, Row]:
    """Return `FILE:LINE` -> row, for any file of rows."""
    try:
        lines = file.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RetrobenchError(f"Cannot read rows from {file}: {error}. Name a rows.jsonl of a track.") from error
    rows = {}
    for number, line in enumerate(lines, 1):
        if line:
            location = f"{file}:{number}"
            rows[location] = _parse(line, location)
    return rows


Load = Callable[[Row], PerQuery]


def per_query_loader(folder: Path, rows: Iterable[Row]) -> Load | None:
    """Return the function that loads a row's values by query; None where a file is missing, as in the wheel."""
    for row in rows:
        if not (folder / row.per_query).is_file():
            return None
    return partial(load_per_query, folder)


def load_per_query(folder: Path, row: Row) -> PerQuery:
    """Return a row's values by dataset, measure and query, as `append` wrote them."""
    file = folder / row.per_query
    try:
        content: PerQuery = json.loads(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise RetrobenchError(
            f"Cannot read {file}, values of {row.entrant}: {error}. Restore it, or rerun: {row.command}"
        ) from error
    return content


def _parse(line: str, location: str) -> Row:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise RetrobenchError(
            f"{location}: not JSON ({error}). Restore the line: rows are appended, never edited."
        ) from error
    if not isinstance(document, dict):
        raise RetrobenchError(f"{location}: not a JSON object. Restore the line: rows are appended, never edited.")
    keys = {field.name for field in fields(Row)}
    faults = [f"unknown {name!r}" for name in sorted(document.keys() - keys)]
    faults += [f"missing {name!r}" for name in sorted(keys - document.keys())]
    if faults:
        raise RetrobenchError(
            f"{location}: {', '.join(faults)}. Known keys: {', '.join(sorted(keys))}. "
            "Read it with the version that wrote it."
        )
    if document["schema"] != SCHEMA:
        raise RetrobenchError(
            f"{location}: a row of schema {document['schema']}, and this version reads {SCHEMA}. "
            "Read it with the version that wrote it."
        )
    return Row(**document)


def _dumps(value: Any, sort: bool) -> str:
    return json.dumps(value, sort_keys=sort, allow_nan=False)


def _compress(text: str) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:  # equal values, equal bytes
        file.write(text.encode())
    return buffer.getvalue()
