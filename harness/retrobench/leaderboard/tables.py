"""
Tables of a leaderboard as text: for the terminal, Markdown, CSV, JSON and LaTeX.

* show        the whole of `retrobench leaderboard`
* render      rows in one format
* summary     what is shown at the end of a run
* lay_out     any sections of grids and sentences, as text, Markdown or LaTeX
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

from retrobench.errors import unknown
from retrobench.leaderboard.cells import Commands, Grid, Section, markdown, notes, sections
from retrobench.leaderboard.comparison import Load, Table, compare
from retrobench.leaderboard.folders import locate, places, track_name
from retrobench.leaderboard.rows import Row, load_per_query, read

if TYPE_CHECKING:
    from rich.console import JustifyMethod, RenderableType

__all__ = ["FORMATS", "lay_out", "loader", "render", "show", "summary"]


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

    parts: list[RenderableType] = [part for section in sections(compare(rows, load)) for part in _rich(section)]
    width = max((len(name) for name in where or {}), default=0)
    places = [Text(f"{name:<{width}}  {path}", overflow="fold") for name, path in (where or {}).items()]
    return Group(*parts, *places)


def lay_out(found: Sequence[Section], format: str, level: int = 3) -> str:
    """Sections as `text`, `md` with headings of `level`, or `latex`."""
    if format == "md":
        return "\n\n".join(part for section in found for part in _in_markdown(section, level))
    return _in_latex(found) if format == "latex" else _in_text(found)


def _rich(section: Section) -> list[RenderableType]:
    from rich.text import Text

    parts: list[RenderableType] = [Text(section.heading, "bold")]
    for part in section.parts:
        if isinstance(part, Grid):
            parts += [_laid(some) for some in _slices(_beside(part))]
        elif isinstance(part, Commands):
            parts += map(Text, ["Run it:", *(f"    {line}" for line in part.lines)])
        else:
            parts.append(Text(part))
    return [*parts, Text("")]


def _slices(cells: Grid) -> list[Grid]:
    """Measures and cost one under the other, for a terminal of 80 columns cannot hold them side by side."""
    if "time" not in cells.header:
        return [cells]
    last = cells.header.index("time")
    cost = [*range(cells.numbers), *range(last + 1, len(cells.header))]
    return [cells.take(range(last + 1)), cells.take(cost)]


def _beside(cells: Grid) -> Grid:
    """The marks as a column of their own."""
    if not cells.marks:
        return cells
    place = cells.marked + 1
    header, *body = [
        [*row[:place], letters, *row[place:]]
        for row, letters in zip([cells.header, *cells.body], ["beats", *cells.marks], strict=True)
    ]
    return Grid(header, body, cells.numbers, texts=tuple(text + (text >= place) for text in cells.texts))


def _laid(cells: Grid) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    laid = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column, name in enumerate(cells.header):
        justify: JustifyMethod = "right" if cells.right(column) else "left"
        laid.add_column(Text(name), justify=justify, overflow="fold")
    for row in cells.body:
        laid.add_row(*map(Text, row))
    return laid


def _in_text(found: Sequence[Section]) -> str:
    from rich.console import Console, Group

    out = io.StringIO()  # as wide as needs be: a pipe has no edge
    parts = (part for section in found for part in _rich(section))
    Console(file=out, width=1000, color_system=None).print(Group(*parts))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def _in_markdown(section: Section, level: int) -> list[str]:
    parts = [f"{'#' * level} {section.heading}"]
    for part in section.parts:
        if isinstance(part, Grid):
            parts.append(markdown(part))
        elif isinstance(part, Commands):
            parts += ["Run it:", "\n".join(["```sh", *part.lines, "```"])]
        else:
            parts.append(part)
    return parts


def _in_latex(found: Sequence[Section]) -> str:
    parts = [r"% needs \usepackage{booktabs}"]
    for section in found:
        parts += ["", r"\begin{table}", r"\centering", rf"\caption{{{_escape(section.heading)}}}"]
        for part in section.parts:
            if isinstance(part, Grid):
                parts += _tabular(part)
            elif isinstance(part, Commands):
                parts += [f"% {line}" for line in ("Run it:", *part.lines)]
            else:
                parts.append(rf"\par\footnotesize {_escape(part)}")
        parts.append(r"\end{table}")
    return "\n".join(parts)


def _tabular(cells: Grid) -> list[str]:
    header, *body = [[_escape(cell) for cell in row] for row in (cells.header, *cells.body)]
    for row, mark in zip(body, cells.marks, strict=False):
        row[cells.marked] += rf"$^{{\mathrm{{{mark}}}}}$" if mark else ""
    lines = [" & ".join(row) + r" \\" for row in (header, *body)]
    layout = "".join("lr"[cells.right(column)] for column in range(len(header)))
    return [
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        lines[0],
        r"\midrule",
        *lines[1:],
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _record(table: Table, place: int) -> dict[str, Any]:
    line = table.lines[place]
    return {
        "line": table.letter(place),
        "entrant": line.entrant,
        "representation": line.representation,
        "round": line.rows[0].round,
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
        "tested": table.tested,
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


def _escape(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "<": r"$<$",
        ">": r"$>$",
    }
    return "".join(special.get(letter, rf"\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "text": lambda tables: lay_out(sections(tables), "text"),
    "md": lambda tables: lay_out(sections(tables), "md"),
    "csv": _csv,
    "json": _json,
    "latex": lambda tables: lay_out(sections(tables), "latex"),
}
