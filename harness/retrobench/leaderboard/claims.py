"""
What the papers claim, read from `leaderboards/<track>/claims.toml`: one file for each track that could measure it.

* claims(leaderboard)   every table of every paper, its parts joined from the files
* read_claims(file)     the parts in one file
* ClaimedTable, Part    a table of a paper; the part of it that one track measures
* ClaimedColumn         a measure on a dataset
* System, Cell          one line of the part; one published number

A file holds, all but `[[table]]` optional:

    title, description     of the folder, where it has no track.toml
    [reasons]              WORD = "why a number is not there, or not measured": used by its word below
    [dataset."ID"]         label, documents, queries, judgements, corpus and qrels (SHA-256), titles, query_length,
                           passage_length, similarity: what a row must have been measured on; or reason: why no row
                           can be held against it. What stands under "*" goes for all
    [[table]]              id, title, paper, source, note; set, round: the recipe, as `--set` is typed (`KEY=*` is any
                           value); reason: why no track here measures it; fractions = false for other units
      columns, headers     "DATASET MEASURE" each; the paper's own headers where they are wrong
      rows                 model, entrant, checkpoint (released by the authors), set, round, reason, note, source and
                           values: a number for each column, or the reason why there is none
      corrections          model, column, printed, source, note: where `values` holds something else than is printed
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from retrobench.core import build_record
from retrobench.errors import RetrobenchError, unknown
from retrobench.leaderboard.folders import places

__all__ = ["Cell", "ClaimedColumn", "ClaimedTable", "Known", "Part", "System", "claims", "heading", "read_claims"]


@dataclass(frozen=True)
class Known:
    """What identifies the numbers of a dataset; None and "" are not known, and not asked for."""

    label: str = ""
    reason: str = ""  # why no row here can be held against its numbers
    documents: int | None = None
    queries: int | None = None  # judged ones
    judgements: int | None = None
    corpus: str = ""  # SHA-256, as rows have it
    qrels: str = ""
    titles: str = ""  # "space" or "[SEP]" between title and text, or "none"
    query_length: int | None = None
    passage_length: int | None = None
    similarity: str = ""

    @property
    def needs(self) -> dict[str, Any]:
        """What a row's facts must say, by its name there."""
        known = {of.name: getattr(self, of.name) for of in fields(self) if of.name not in ("label", "reason")}
        return {name: value for name, value in known.items() if value not in (None, "")}


@dataclass(frozen=True)
class ClaimedColumn:
    """A measure on a dataset, both named as rows name them; `header` is the paper's own where that is wrong."""

    dataset: str
    measure: str
    header: str = ""

    @property
    def name(self) -> str:
        return f"{self.dataset} {self.measure}"


@dataclass(frozen=True)
class Cell:
    """A published number, or the reason why there is none."""

    column: ClaimedColumn
    published: float | None  # corrected, where the print is wrong
    source: str
    reason: str = ""
    printed: float | str | None = None  # what stands there, where that is something else
    note: str = ""


@dataclass(frozen=True)
class System:
    """One line of a table: a model as the paper names it, and what would measure it here."""

    model: str
    cells: tuple[Cell, ...]
    entrant: str = ""  # NAME[:PRESET]; without one `reason` says why
    checkpoint: str = ""  # released by the authors: fine-tuned, it is a reproduction
    set: tuple[str, ...] = ()  # beside the table's own
    round: str = ""
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class Part:
    """The part of a table that one track measures."""

    id: str
    title: str
    paper: str
    source: str
    track: str  # empty where none does, and `reason` says why
    columns: tuple[ClaimedColumn, ...]
    systems: tuple[System, ...]
    datasets: Mapping[str, Known]
    set: tuple[str, ...] = ()
    reason: str = ""
    note: str = ""
    fractions: bool = True


@dataclass(frozen=True)
class ClaimedTable:
    """One table of one paper."""

    id: str
    parts: tuple[Part, ...]

    @property
    def title(self) -> str:
        return "; ".join(dict.fromkeys(part.title for part in self.parts))

    @property
    def cells(self) -> int:
        return sum(len(system.cells) for part in self.parts for system in part.systems)


@dataclass(frozen=True)
class _Document:
    """The plain keys of a file."""

    title: str = ""
    description: str = ""


@dataclass(frozen=True)
class _TableKeys:
    """The plain keys of `[[table]]`."""

    id: str
    title: str
    paper: str
    source: str
    columns: tuple[str, ...]
    headers: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    round: str = ""
    reason: str = ""
    note: str = ""
    fractions: bool = True


@dataclass(frozen=True)
class _SystemKeys:
    model: str
    values: tuple[float | str, ...]
    entrant: str = ""
    checkpoint: str = ""
    set: tuple[str, ...] = ()
    round: str = ""
    reason: str = ""
    note: str = ""
    source: str = ""


@dataclass(frozen=True)
class _Correction:
    model: str
    column: str
    printed: float | str
    source: str
    note: str = ""


@dataclass(frozen=True)
class _File:
    """A file being read: what its tables share."""

    where: str
    track: str
    reasons: Mapping[str, str]
    datasets: Mapping[str, Known]


def claims(leaderboard: Path | None = None) -> tuple[ClaimedTable, ...]:
    """Every table, from the nearest folder of each name; the parts that a track measures stand first."""
    found = {file.parent.name: file for place in reversed(places(leaderboard)) for file in place.glob("*/claims.toml")}
    parts = [part for name in sorted(found, reverse=True) for part in read_claims(found[name])]
    parts.sort(key=lambda part: not part.track)
    return tuple(
        ClaimedTable(name, tuple(part for part in parts if part.id == name))
        for name in sorted({part.id for part in parts})
    )


def read_claims(file: Path) -> tuple[Part, ...]:
    """The parts of tables in one file. Raises RetrobenchError in one line that names the file and the fault."""
    document = _load(file)
    reasons, datasets, tables = (document.pop(key, {}) for key in ("reasons", "dataset", "table"))
    build_record(_Document, document, str(file))
    every = datasets.pop("*", {})
    known = {name: build_record(Known, {**every, **of}, f'{file} [dataset."{name}"]') for name, of in datasets.items()}
    shared = _File(str(file), file.resolve().parent.name, reasons, known)
    return tuple(_part(shared, table) for table in tables)


def heading(file: Path) -> dict[str, Any]:
    """The title and the description in a file of claims."""
    document = _load(file)
    return {key: document[key] for key in ("title", "description") if key in document}


def _load(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RetrobenchError(f"Cannot read {file}: {error}. Mend it there.") from error


def _part(file: _File, document: dict[str, Any]) -> Part:
    rows, corrections = document.pop("rows", []), document.pop("corrections", [])
    label = f"{file.where} {document.get('id', 'table without id')}"
    table = _record(_TableKeys, document, label)
    if not re.fullmatch(r"[\w-]+/[\w-]+", table.id) or not (table.paper and table.title and table.source):
        raise RetrobenchError(f"{label}: needs an id PAPER/TABLE, a title, a paper and a source.")
    headers = table.headers or ("",) * len(table.columns)
    if len(headers) != len(table.columns):
        raise RetrobenchError(f"{label}: {len(headers)} headers for {len(table.columns)} columns; give one for each.")
    columns = tuple(_column(label, name, header) for name, header in zip(table.columns, headers, strict=True))
    mended = {(fix.model, fix.column): fix for fix in (_record(_Correction, each, label) for each in corrections)}
    systems = tuple(_system(file, label, table, columns, mended, _record(_SystemKeys, row, label)) for row in rows)
    names = [(system.model, column.name) for system in systems for column in columns]
    for wrong in mended.keys() - set(names):
        raise unknown(f"cell to correct in {label}", " of ".join(wrong[::-1]), [f"{b} of {a}" for a, b in names])
    if len(names) != len(set(names)):
        raise RetrobenchError(f"{label}: a model or a column stands twice; give each its own name.")
    return Part(
        id=table.id,
        title=table.title,
        paper=table.paper,
        source=table.source,
        track="" if table.reason else file.track,
        columns=columns,
        systems=systems,
        datasets=file.datasets,
        set=table.set,
        reason=_reason(file, label, table.reason),
        note=table.note,
        fractions=table.fractions,
    )


def _column(label: str, name: str, header: str) -> ClaimedColumn:
    dataset, _, measure = name.rpartition(" ")
    if not dataset:
        raise RetrobenchError(f"{label}: column {name!r} is not DATASET MEASURE. Write both, with a space between.")
    return ClaimedColumn(dataset, measure, header)


def _record(record: type, document: Mapping[str, Any], label: str) -> Any:
    try:
        return build_record(record, document, label)
    except TypeError as error:  # a field without default that nobody set
        raise RetrobenchError(f"{label} lacks a value: {error}.") from error


def _system(
    file: _File,
    label: str,
    table: _TableKeys,
    columns: tuple[ClaimedColumn, ...],
    mended: Mapping[tuple[str, str], _Correction],
    row: _SystemKeys,
) -> System:
    label = f"{label}, {row.model}"
    if len(row.values) != len(columns):
        raise RetrobenchError(f"{label}: {len(row.values)} values for {len(columns)} columns; give one for each.")
    if not (row.entrant or row.reason or table.reason):
        raise RetrobenchError(f"{label}: neither an entrant that measures it nor a reason why none does.")
    cells = []
    for column, value in zip(columns, row.values, strict=True):
        fix = mended.get((row.model, column.name))
        number = None if isinstance(value, str) else value
        if number is not None and table.fractions and not 0 <= number <= 1:
            raise RetrobenchError(f"{label}: {number} is no fraction. Divide percentages by 100.")
        cells.append(
            Cell(
                column,
                number,
                row.source or table.source,
                _reason(file, label, value) if isinstance(value, str) else "",
                fix.printed if fix else None,
                f"{fix.note} ({fix.source})".strip() if fix else "",
            )
        )
    return System(
        model=row.model,
        cells=tuple(cells),
        entrant=row.entrant,
        checkpoint=row.checkpoint,
        set=row.set,
        round=row.round or table.round,
        reason=_reason(file, label, row.reason),
        note=row.note,
    )


def _reason(file: _File, label: str, text: str) -> str:
    """The sentence that a word of `[reasons]` stands for; a text of several words is its own."""
    if text in file.reasons or not text or " " in text:
        return file.reasons.get(text, text)
    raise unknown(f"reason in {label}", text, file.reasons)
