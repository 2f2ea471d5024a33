"""
The papers' claims, read from `leaderboards/<track>/claims.toml`: a file for each track that could measure them.

* read_tables(leaderboard)   every table of every paper, its excerpts joined from the files
* read_excerpts(file)        the excerpts in one file
* ClaimedTable, Excerpt      a table of a paper; the columns and systems of it that one track measures
* ClaimedColumn              a measure on a dataset
* ClaimedDataset             the facts that identify a dataset
* System, Cell               a line of an excerpt; a published number

A file holds, all but `[[table]]` optional:

    title, description     of the folder, where it has no track.toml
    [reasons]              WORD = "why a number is missing, or not measured". The word may stand for the sentence below
    [dataset."ID"]         the facts that a row must have: documents, queries, judgements, corpus and qrels (SHA-256),
                           titles, query_length, passage_length, similarity. `label` is the name shown. `reason` says
                           why no row can be compared with the dataset's numbers. "*" holds the defaults of all
    [[table]]              id, title, paper, source and note. `set` and `round` are the recipe, as `--set` is typed;
                           `KEY=*` admits any value. `reason` says why no track measures the table. Units other than
                           fractions need `fractions = false`
      columns, headers     "DATASET MEASURE" for each; the paper's own headers where they are wrong
      system               the system of all rows, in a table of its variants
      rows                 model, system (where the model's name is not the system's), entrant, checkpoint (released by
                           the authors), set, round, reason, note, source and values: a number for each column, or the
                           reason why it is missing
      corrections          model, column, printed, source and note, where `values` corrects the printed number
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from retrobench.core import build_record, read_toml, take_table, take_tables
from retrobench.errors import RetrobenchError, clip, quote, unknown
from retrobench.leaderboard.rows import nearest_files

__all__ = [
    "Cell",
    "ClaimedColumn",
    "ClaimedDataset",
    "ClaimedTable",
    "Excerpt",
    "System",
    "read_excerpts",
    "read_tables",
]


@dataclass(frozen=True)
class ClaimedDataset:
    """The facts that identify a dataset's numbers. None and "" are unknown, and rows need not match them."""

    label: str = ""
    reason: str = ""  # why no row can be compared with its numbers
    documents: int | None = None
    queries: int | None = None  # with judgements
    judgements: int | None = None
    corpus: str = ""  # SHA-256, as rows have it
    qrels: str = ""
    titles: str = ""  # "space" or "[SEP]" between title and text, or "none"
    query_length: int | None = None
    passage_length: int | None = None
    similarity: str = ""

    @property
    def needs(self) -> dict[str, Any]:
        """Return the facts that a row must have, by their names in the row."""
        needs = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("label", "reason") and value not in (None, ""):
                needs[field.name] = value
        return needs


@dataclass(frozen=True)
class ClaimedColumn:
    """A measure on a dataset, both named as in rows. `header` is the paper's own header where that is wrong."""

    dataset: str
    measure: str
    header: str = ""

    @property
    def name(self) -> str:
        return f"{self.dataset} {self.measure}"

    @property
    def key(self) -> tuple[str, str]:
        """Return dataset and measure, as comparisons take them."""
        return self.dataset, self.measure


@dataclass(frozen=True)
class Cell:
    """A published number, or the reason why it is missing."""

    column: ClaimedColumn
    published: float | None  # corrected, where the print is wrong
    source: str
    reason: str = ""
    printed: float | str | None = None  # the wrong print
    note: str = ""


@dataclass(frozen=True)
class System:
    """One line of a table: a model as the paper names it, and the entrant that would measure it."""

    model: str
    name: str  # of the system, alike in all tables: "RetroMAE" for the model "RetroMAE (stage 3)"
    cells: tuple[Cell, ...]
    entrant: str = ""  # NAME[:PRESET]; without it `reason` says why
    checkpoint: str = ""  # released by the authors; fine-tuning it is a reproduction
    set: tuple[str, ...] = ()  # in addition to the table's
    round: str = ""
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class Excerpt:
    """The columns and systems of a table that one track measures."""

    id: str  # of the table
    title: str
    paper: str
    source: str
    track: str  # empty where no track measures it, and `reason` says why
    track_file: Path | None  # beside the claims; None where there is none
    columns: tuple[ClaimedColumn, ...]
    systems: tuple[System, ...]
    datasets: Mapping[str, ClaimedDataset]
    set: tuple[str, ...] = ()
    reason: str = ""
    note: str = ""
    fractions: bool = True

    @property
    def cells(self) -> int:
        """Return the number of cells."""
        return sum(len(system.cells) for system in self.systems)


@dataclass(frozen=True)
class ClaimedTable:
    """One table of one paper."""

    id: str
    excerpts: tuple[Excerpt, ...]

    @property
    def title(self) -> str:
        titles = dict.fromkeys(excerpt.title for excerpt in self.excerpts)
        return "; ".join(titles)

    @property
    def paper(self) -> str:
        return self.excerpts[0].paper

    @property
    def cells(self) -> int:
        """Return the number of cells."""
        return sum(excerpt.cells for excerpt in self.excerpts)


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
    system: str = ""
    set: tuple[str, ...] = ()
    round: str = ""
    reason: str = ""
    note: str = ""
    fractions: bool = True


@dataclass(frozen=True)
class _SystemKeys:
    model: str
    values: tuple[float | str, ...]
    system: str = ""
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


Corrections = Mapping[tuple[str, str], _Correction]  # by model and column


@dataclass(frozen=True)
class _File:
    """The contents of a file that its tables share."""

    path: str
    track: str
    track_file: Path | None
    reasons: Mapping[str, str]
    datasets: Mapping[str, ClaimedDataset]

    def expand_reason(self, text: str, label: str) -> str:
        """Return the sentence that a word of `[reasons]` stands for. A text of several words is a sentence itself."""
        if not text or " " in text:
            return text
        if text not in self.reasons:
            raise unknown(f"reason in {label}", text, self.reasons)
        return self.reasons[text]


@dataclass(frozen=True)
class _TableContext:
    """A table while its systems are read. `label` names it in errors."""

    file: _File
    label: str
    keys: _TableKeys
    columns: tuple[ClaimedColumn, ...]
    corrections: Corrections


def read_tables(leaderboard: Path | None = None) -> tuple[ClaimedTable, ...]:
    """Return every table, from the nearest file of each track. Excerpts that a track measures stand first."""
    files = nearest_files("claims.toml", leaderboard)
    measurable: dict[str, list[Excerpt]] = {}
    unmeasurable: dict[str, list[Excerpt]] = {}
    for name in sorted(files, reverse=True):
        for excerpt in read_excerpts(files[name]):
            group = measurable if excerpt.track else unmeasurable
            group.setdefault(excerpt.id, []).append(excerpt)
    tables = []
    for id in sorted(measurable.keys() | unmeasurable.keys()):
        excerpts = measurable.get(id, []) + unmeasurable.get(id, [])
        tables.append(ClaimedTable(id, tuple(excerpts)))
    return tuple(tables)


def read_excerpts(file: Path) -> tuple[Excerpt, ...]:
    """Return the excerpts in one file. Raises RetrobenchError in one line that names the file and the fault."""
    document = read_toml(file)
    reasons = take_table(document, "reasons", str(file))
    datasets = take_table(document, "dataset", str(file))
    tables = take_tables(document, "table", str(file))
    build_record(_Document, document, str(file))
    for word, sentence in reasons.items():
        if not isinstance(sentence, str):
            raise RetrobenchError(f"{file}: the reason {quote(word)} is {quote(sentence)}. Give a sentence.")
    defaults = take_table(datasets, "*", str(file))
    claimed = {}
    for name in list(datasets):
        facts = take_table(datasets, name, str(file))
        claimed[name] = build_record(ClaimedDataset, {**defaults, **facts}, f'{file} [dataset."{clip(name)}"]')
    track_file = file.with_name("track.toml")
    shared = _File(
        str(file), file.resolve().parent.name, track_file if track_file.is_file() else None, reasons, claimed
    )
    return tuple(_read_table(shared, table) for table in tables)


def _read_table(file: _File, document: dict[str, Any]) -> Excerpt:
    label = f"{file.path} {clip(document.get('id', 'table without id'))}"
    rows = take_tables(document, "rows", label)
    corrections = _read_corrections(take_tables(document, "corrections", label), label)
    keys = build_record(_TableKeys, document, label)
    if not re.fullmatch(r"[\w-]+/[\w-]+", keys.id) or not (keys.paper and keys.title and keys.source):
        raise RetrobenchError(f"{label}: needs an id PAPER/TABLE, a title, a paper and a source.")
    columns = tuple(_read_columns(keys, label))
    context = _TableContext(file, label, keys, columns, corrections)
    systems = tuple(_read_system(context, row) for row in rows)
    _check_names(context, systems)
    return Excerpt(
        id=keys.id,
        title=keys.title,
        paper=keys.paper,
        source=keys.source,
        track="" if keys.reason else file.track,
        track_file=file.track_file,
        columns=columns,
        systems=systems,
        datasets=file.datasets,
        set=keys.set,
        reason=file.expand_reason(keys.reason, label),
        note=keys.note,
        fractions=keys.fractions,
    )


def _read_corrections(documents: list[dict[str, Any]], label: str) -> Corrections:
    corrections = {}
    for document in documents:
        correction = build_record(_Correction, document, label)
        corrections[correction.model, correction.column] = correction
    return corrections


def _read_columns(keys: _TableKeys, label: str) -> Iterator[ClaimedColumn]:
    headers = keys.headers or ("",) * len(keys.columns)
    if len(headers) != len(keys.columns):
        raise RetrobenchError(
            f"{label}: {len(headers)} headers for {len(keys.columns)} columns. Give every column one."
        )
    for name, header in zip(keys.columns, headers, strict=True):
        dataset, _, measure = name.rpartition(" ")
        if not dataset:
            raise RetrobenchError(
                f"{label}: column {quote(name)} is not DATASET MEASURE. Write both, with a space between."
            )
        yield ClaimedColumn(dataset, measure, header)


def _check_names(context: _TableContext, systems: tuple[System, ...]) -> None:
    """Refuse a model or a column that stands twice, and a correction of a cell that does not exist."""
    names = []
    for system in systems:
        names += [(system.model, column.name) for column in context.columns]
    for model, column in context.corrections.keys() - set(names):
        choices = [f"{column} of {model}" for model, column in names]
        raise unknown(f"cell to correct in {context.label}", f"{column} of {model}", choices)
    if len(names) != len(set(names)):
        raise RetrobenchError(f"{context.label}: a model or a column stands twice. Give every model and column a name.")


def _read_system(context: _TableContext, document: Mapping[str, Any]) -> System:
    keys = build_record(_SystemKeys, document, context.label)
    label = f"{context.label}, {clip(keys.model)}"
    if len(keys.values) != len(context.columns):
        raise RetrobenchError(
            f"{label}: {len(keys.values)} values for {len(context.columns)} columns. Give every column a value."
        )
    if not (keys.entrant or keys.reason or context.keys.reason):
        raise RetrobenchError(f"{label}: neither an entrant that measures it nor a reason for its absence. Add either.")
    cells = []
    for column, value in zip(context.columns, keys.values, strict=True):
        cells.append(_read_cell(context, keys, column, value))
    return System(
        model=keys.model,
        name=keys.system or context.keys.system or keys.model,
        cells=tuple(cells),
        entrant=keys.entrant,
        checkpoint=keys.checkpoint,
        set=keys.set,
        round=keys.round or context.keys.round,
        reason=context.file.expand_reason(keys.reason, label),
        note=keys.note,
    )


def _read_cell(context: _TableContext, keys: _SystemKeys, column: ClaimedColumn, value: float | str) -> Cell:
    label = f"{context.label}, {clip(keys.model)}"
    source = keys.source or context.keys.source
    printed = None
    note = ""
    correction = context.corrections.get((keys.model, column.name))
    if correction:
        printed = correction.printed
        note = f"{correction.note} ({correction.source})".strip()
    if isinstance(value, str):
        return Cell(column, None, source, context.file.expand_reason(value, label), printed, note)
    if context.keys.fractions and not 0 <= value <= 1:
        raise RetrobenchError(f"{label}: {value} is no fraction. Divide percentages by 100.")
    return Cell(column, value, source, "", printed, note)
