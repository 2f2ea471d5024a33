"""
Tables of a leaderboard as text: for the terminal, Markdown, CSV, JSON and LaTeX.

* show        the whole of `retrobench leaderboard`
* render      rows in one format
* summary     what is shown at the end of a run
* FORMATS     the formats by name
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrobench.cells import Grid, grid, markdown, notes
from retrobench.comparison import Table, compare
from retrobench.errors import unknown
from retrobench.leaderboard import PerQuery, Row, load_per_query, locate, places, read, track_name

if TYPE_CHECKING:
    from rich.console import JustifyMethod, RenderableType

__all__ = ["FORMATS", "Load", "loader", "render", "show", "summary"]

Load = Callable[[Row], PerQuery]


def show(track: str, leaderboard: Path | None = None, format: str = "text") -> str:
    """The tables of one track from the nearest folder that has rows of it."""
    name = track_name(Path(track)) if track.endswith(".toml") else track
    folders = [place / name for place in places(leaderboard) if (place / name / "rows.jsonl").is_file()]
    folder = folders[0] if folders else locate(track, leaderboard).parent
    rows = read(folder)
    text = render(rows, format, loader(folder, rows))
    if format != "text":
        return text
    if not rows:
        return f"Track {name} has no rows yet. `retrobench run --objective NAME --track {track}` appends one."
    return f"{text}\n\nRows: {folder / 'rows.jsonl'}"


def render(rows: Sequence[Row], format: str, load: Load | None = None) -> str:
    """Rows as one of `FORMATS`. `load` gives a row's per-query values; without it nothing is tested.

    Rows of unlike identity share no table. CSV and JSON hold fractions, seconds and bytes, unrounded; a CSV
    record begins with the table that it belongs to.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    return FORMATS[format](compare(rows, load))


def loader(folder: Path, rows: Sequence[Row]) -> Load | None:
    """How per-query values of `rows` are read, or None where they are not beside them, as in the wheel."""
    here = all((folder / row.per_query).is_file() for row in rows)
    return partial(load_per_query, folder) if here else None


def summary(rows: Sequence[Row], load: Load | None = None, where: Mapping[str, Path] | None = None) -> RenderableType:
    """What ends a run: the tables of its rows, and under each name in `where` the place to look at."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [part for table in compare(rows, load) for part in _rich(table)]
    width = max((len(name) for name in where or {}), default=0)
    places = [Text(f"{name:<{width}}  {path}", overflow="fold") for name, path in (where or {}).items()]
    return Group(*parts, *places)


def _rich(table: Table) -> list[RenderableType]:
    """Measures and cost one under the other, for a terminal of 80 columns cannot hold them side by side."""
    from rich.text import Text

    cells = grid(table)
    last = cells.header.index("time")
    measures = _laid(cells, range(last + 1))
    cost = _laid(cells, [*range(cells.numbers), *range(last + 1, len(cells.header))])
    return [Text(table.heading, "bold"), measures, cost, *map(Text, notes(table)), Text("")]


def _laid(cells: Grid, columns: Sequence[int]) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    laid = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        justify: JustifyMethod = "right" if column >= cells.numbers else "left"
        laid.add_column(Text(cells.header[column]), justify=justify, overflow="fold")
    for row in cells.body:
        laid.add_row(*(Text(row[column]) for column in columns))
    return laid


def _text(tables: Sequence[Table]) -> str:
    from rich.console import Console, Group

    out = io.StringIO()  # as wide as needs be: a pipe has no edge
    Console(file=out, width=1000, color_system=None).print(Group(*(part for table in tables for part in _rich(table))))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def _markdown(tables: Sequence[Table]) -> str:
    parts = []
    for table in tables:
        cells = grid(table, mark=lambda cell, beaten: f"{cell}<sup>{beaten}</sup>" if beaten else cell)
        parts += [f"### {table.heading}", markdown(cells), *notes(table)]
    return "\n\n".join(parts)


def _record(table: Table, place: int) -> dict[str, Any]:
    line = table.lines[place]
    return {
        "line": table.letter(place),
        "entrant": line.entrant,
        "representation": line.representation,
        "seeds": len(line.seeds),
        "beats": "".join(table.letter(beaten) for beaten in table.beaten(place)),
        "seconds": line.seconds(),
        "pretrain_seconds": line.seconds("pretrain"),
        "tokens_per_second": line.speed(),
        "peak_memory_bytes": line.peak_memory(),
    }


def _csv(tables: Sequence[Table]) -> str:
    records = []
    for table in tables:
        for place, line in enumerate(table.lines):
            row = line.rows[0]
            record = _record(table, place)
            record = {"track": row.track, "overrides": table.overrides, "identity": row.identity} | record
            for column in table.columns:
                name = " ".join(column)
                record |= {name: line.mean(*column), f"{name} sd": line.deviation(*column)}
            records.append(record)
    out = io.StringIO()
    names = dict.fromkeys(name for record in records for name in record)
    writer = csv.DictWriter(out, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().rstrip("\n")


def _json(tables: Sequence[Table]) -> str:
    return json.dumps({"tables": [_document(table) for table in tables]}, indent=2)


def _document(table: Table) -> dict[str, Any]:
    lines = []
    for place, line in enumerate(table.lines):
        scores: dict[str, dict[str, Any]] = {}
        for dataset, measure in table.columns:
            values = {"mean": line.mean(dataset, measure), "sd": line.deviation(dataset, measure)}
            scores.setdefault(dataset, {})[measure] = values
        lines.append(_record(table, place) | {"measures": scores})
    return {
        "track": table.rows[0].track,
        "identity": table.rows[0].identity,
        "overrides": table.rows[0].overrides,
        "main": table.columns[0] if table.columns else None,
        "baseline": table.letter(table.baseline),
        "queries": table.queries,
        "lines": lines,
        "pairs": [
            asdict(pair) | {"first": table.letter(pair.first), "second": table.letter(pair.second)}
            for pair in table.pairs
        ],
        "notes": notes(table),
        "rows": [asdict(row) for row in table.rows],
    }


def _latex(tables: Sequence[Table]) -> str:
    parts = [r"% needs \usepackage{booktabs}"]
    for table in tables:
        cells = grid(table, _escape, lambda cell, beaten: rf"{cell}$^{{\mathrm{{{beaten}}}}}$" if beaten else cell)
        header, *body = [" & ".join(row) + r" \\" for row in (cells.header, *cells.body)]
        layout = "l" * cells.numbers + "r" * (len(cells.header) - cells.numbers)
        parts += [
            "",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape(table.heading)}}}",
            rf"\begin{{tabular}}{{{layout}}}",
            *(r"\toprule", header, r"\midrule", *body, r"\bottomrule"),
            r"\end{tabular}",
            *(rf"\par\footnotesize {_escape(note)}" for note in notes(table)),
            r"\end{table}",
        ]
    return "\n".join(parts)


def _escape(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
    }
    return "".join(special.get(letter, rf"\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "text": _text,
    "md": _markdown,
    "csv": _csv,
    "json": _json,
    "latex": _latex,
}
