"""
Rows of a leaderboard: each is one measured entrant, appended and never edited.

* places, locate, track_name, rows_folder   where tracks are looked up and where rows go
* Row                                       what one measurement was, by what, of what, at which cost
* append, read, already, load_per_query     `rows.jsonl` and `per_query/` in the folder of a track
* UnlikeError                               rows that may not stand in one table

Read on in `comparison`, which makes numbers of rows that may stand together, and `tables`, which lays them
out.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from retrobench.core import atomic_write
from retrobench.errors import RetrobenchError

__all__ = [
    "PerQuery",
    "Row",
    "UnlikeError",
    "already",
    "append",
    "load_per_query",
    "read",
    "read_file",
]


class UnlikeError(RetrobenchError):
    """Rows measured on unlike data, or not on what a table needs: nothing is tabulated."""

    exit_code = 3


PerQuery = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Dataset id -> measure -> query id -> value, a fraction."""


SCHEMA = 1  # of rows; a reader refuses rows of another


@dataclass(frozen=True, kw_only=True)
class Row:
    """One entrant measured once. The first dataset and measure in `measures` are the track's main ones."""

    track: str
    identity: str  # hash of the resolved track: everything but the objective
    overrides: dict[str, Any]  # what `--set` changed in the track
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
    # Dataset id -> what the numbers are of: documents, queries, hashes of both, titles, lengths, similarity.
    facts: dict[str, dict[str, Any]]
    round: str  # the fine-tuning round measured, where a track measures every one: in-batch, mined, distilled
    negatives: float  # passages that a training query of that round competed with, on average

    def to_json(self) -> str:
        """Return one line of JSON, keys sorted, save in `measures` and `cost`, whose order has a meaning."""
        names = sorted(field.name for field in fields(self))
        members = (f'"{name}": {_dumps(getattr(self, name), sort=name not in ("measures", "cost"))}' for name in names)
        return "{" + ", ".join(members) + "}"

    @property
    def id(self) -> str:
        """A name for the row's own files, made of all that the row says."""
        return hashlib.sha256(replace(self, per_query="").to_json().encode()).hexdigest()[:16]


def already(rows: Iterable[Row], row: Row) -> Row | None:
    """The row among `rows` that came of the same artifacts, track, entrant, seed and round, if there is one."""

    # The track too: an entrant that does not pre-train has the same artifacts under a changed `pretrain`.
    def key(of: Row) -> tuple[object, ...]:
        return of.artifacts, of.identity, of.entrant, of.seed, of.round

    return next((other for other in rows if key(other) == key(row)), None)


def append(folder: Path, row: Row, per_query: PerQuery) -> Row:
    """Write `per_query` and then the row into a track's folder; returns the row as it stands there.

    A fully cached rerun appends nothing and gets the earlier row back. Safe for several processes, and cut
    short at any moment it leaves either the old rows or the old rows and this one.
    """
    from filelock import FileLock

    file = folder / "rows.jsonl"
    row = replace(row, per_query=f"per_query/{row.id}.json.gz")
    try:
        (folder / "per_query").mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            earlier = already(read(folder), row)
            if earlier:
                return earlier
            atomic_write(folder / row.per_query, _compress(_dumps(per_query, sort=False)))
            # Appending in place could be killed between two pages of a line.
            text = file.read_text("utf-8") if file.exists() else ""
            if text and not text.endswith("\n"):
                text += "\n"
            atomic_write(file, f"{text}{row.to_json()}\n")
    except OSError as error:
        where = error.filename or folder
        raise RetrobenchError(
            f"Cannot write a row to {where}: {error.strerror}. Mend it, or give another --leaderboard DIR."
        ) from error
    return row


def read(folder: Path) -> list[Row]:
    """The rows of a track's folder in the order of appending; none if there is no `rows.jsonl`."""
    file = folder / "rows.jsonl"
    return list(read_file(file).values()) if file.exists() else []


def read_file(file: Path) -> dict[str, Row]:
    """`FILE:LINE` -> the row there, for a file of rows anywhere."""
    try:
        lines = file.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RetrobenchError(f"Cannot read rows from {file}: {error}. Name a rows.jsonl of a track.") from error
    return {f"{file}:{number}": _parse(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line}


def load_per_query(folder: Path, row: Row) -> PerQuery:
    """What `append` wrote beside the row: a value for each dataset, measure and query."""
    file = folder / row.per_query
    try:
        content: PerQuery = json.loads(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise RetrobenchError(
            f"Cannot read {file}, values of {row.entrant}: {error}. Restore it, or rerun: {row.command}"
        ) from error
    return content


def _parse(line: str, where: str) -> Row:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise RetrobenchError(
            f"{where}: not JSON ({error}). Restore the line: rows are appended, never edited."
        ) from error
    if not isinstance(document, dict):
        raise RetrobenchError(f"{where}: not a JSON object. Restore the line: rows are appended, never edited.")
    known = {of.name for of in fields(Row)}
    wrong = [f"unknown {name!r}" for name in sorted(document.keys() - known)]
    wrong += [f"missing {name!r}" for name in sorted(known - document.keys())]
    if wrong:
        raise RetrobenchError(
            f"{where}: {', '.join(wrong)}. Known keys: {', '.join(sorted(known))}. "
            "Read it with the version that wrote it."
        )
    if document["schema"] != SCHEMA:
        raise RetrobenchError(
            f"{where}: a row of schema {document['schema']}, and this version reads {SCHEMA}. "
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
