"""
Tables of a leaderboard: text for the terminal, Markdown, CSV, JSON and LaTeX.

* show_track       the text that `retrobench leaderboard` prints
* render           rows in one format
* compare_board    the comparisons of a board's rows
* page_sections    a page's sections, from comparisons
* summarise_run    the tables at the end of a run
* lay_out          any sections of tables and sentences, as text, Markdown or LaTeX
* FORMATS          the names of the formats
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from retrobench.core import Table, escape_latex, escape_markdown
from retrobench.errors import printable, unknown
from retrobench.leaderboard.comparison import BASELINES, Board, Comparison, compare
from retrobench.leaderboard.rows import Row
from retrobench.leaderboard.tables.cells import Commands, Section, notes, sections
from retrobench.leaderboard.tables.formatting import one_line, shell_block
from retrobench.leaderboard.tables.variants import expectation_sections, read_variants
from retrobench.leaderboard.tables.view import View, select_columns
from retrobench.scoring import Pair

FORMATS = ("text", "md", "csv", "json", "latex")
EVERYTHING = View()

__all__ = ["FORMATS", "compare_board", "lay_out", "page_sections", "render", "show_track", "summarise_run"]


def show_track(track: str, leaderboard: Path | None = None, format: str = "text", view: View = EVERYTHING) -> str:
    """Return the tables of one track as the reader chose: the user's rows beside the shipped."""
    board = Board.gather(track, leaderboard)
    text = render(board, format, view)
    if format != "text":
        return text
    if not board.rows:
        return f"Track {track} has no rows yet. `retrobench run --objective NAME --track {track}` appends one."
    return f"{text}\n\nRows: {', '.join(map(str, board.places))}"


def render(board: Board, format: str, view: View = EVERYTHING) -> str:
    """Return the rows of a board in one of `FORMATS`, as the reader chose.

    Rows of different identities share no table. CSV and JSON hold fractions, seconds and bytes, unrounded. A CSV
    record begins with the track and identity of its table.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    view.check(format)
    comparisons = compare_board(board, view)
    if format == "csv":
        return _csv(comparisons)
    if format == "json":
        return _json(comparisons)
    page = [select_columns(section, view.columns) for section in page_sections(board, comparisons, view)]
    if format == "latex":
        return _in_latex(page, view)
    return lay_out(page, format)


def page_sections(board: Board, comparisons: Sequence[Comparison], view: View = EVERYTHING) -> list[Section]:
    """Return a section for each identity, and the tables that the folder declares in place of those that they cover."""
    baselines = BASELINES if view.baseline is None else (view.baseline,)
    variants = read_variants(board, baselines)
    shown = [table for table in comparisons if not all(row.id in variants.covered for row in table.rows)]
    unchanged = [table for table in shown if not table.is_changed]
    claims = expectation_sections(unchanged[0] if unchanged else None, board.declared.expectations)
    return [*sections(shown), *claims, *variants.sections]


def compare_board(board: Board, view: View = EVERYTHING) -> list[Comparison]:
    """Return the comparisons of a board's rows, with tests where all values by query are at hand."""
    load = board.load if board.has_values else None
    clusters, changes, transfer = board.load_clusters, board.changes, board.transfer
    return compare(board.rows, load, clusters, view.baseline, changes, board.own, view.measures, transfer)


def summarise_run(rows: Sequence[Row], folder: Path, files: Mapping[str, Path]) -> str:
    """Return the tables of a run's rows, and below them the `files` by name.

    `folder` holds the rows and their values by query.
    """
    board = replace(Board.read(folder), rows=tuple(rows))
    paths = [(name, str(path)) for name, path in files.items()]
    listing = "\n".join(f"{name.ljust(max(map(len, files)))}  {path}" for name, path in paths)
    return f"{lay_out(sections(compare_board(board)), 'text')}\n\n{listing}"


def lay_out(page: Sequence[Section], format: str) -> str:
    """Return sections as `text`, `md` or `latex`."""
    if format == "md":
        return "\n\n".join(_in_markdown(section) for section in page)
    if format == "latex":
        return _in_latex(page, EVERYTHING)
    return "\n\n".join(_in_text(section) for section in page)


def _in_text(section: Section) -> str:
    lines = [section.heading]
    for block in _printed(section):
        lines.append(block.text() if isinstance(block, Table) else block)
    return "\n".join(lines)


def _printed(section: Section) -> list[Table | str]:
    """Return the lines a terminal shows below the heading. Empty lines surround every table."""
    printed: list[Table | str] = []
    for block in section.blocks:
        if isinstance(block, Table):
            for table in _stacked(block):
                if not printed or printed[-1] != "":
                    printed.append("")
                printed += [table, ""]
        elif isinstance(block, Commands):
            printed.append("Run it:")
            printed += [f"    {line}" for line in block.lines]
        else:
            printed.append(block)
    if printed and printed[-1] == "":
        printed.pop()
    return printed


def _stacked(table: Table) -> list[Table]:
    """Return the measures and then the costs: 80 columns do not hold both."""
    if all(column.kind != "cost" for column in table.columns):
        return [table]
    return [table.without("cost"), table.only("text", "cost")]


def _in_markdown(section: Section) -> str:
    paragraphs = [f"### {escape_markdown(one_line(section.heading))}"]
    for block in section.blocks:
        if isinstance(block, Table):
            paragraphs.append(block.markdown())
        elif isinstance(block, Commands):
            paragraphs += ["Run it:", shell_block(block.lines)]
        else:
            paragraphs.append(escape_markdown(printable(block)))
    return "\n\n".join(paragraphs)


def _in_latex(page: Sequence[Section], view: View) -> str:
    lines = [r"% needs \usepackage{booktabs}"]
    for number, section in enumerate(page, 1):
        caption = view.caption or section.heading
        lines += ["", r"\begin{table}", r"\centering", rf"\caption{{{escape_latex(caption)}}}"]
        if view.label:
            suffix = f"-{number}" if number > 1 else ""  # a label may stand once
            lines.append(rf"\label{{{view.label}{suffix}}}")
        for block in section.blocks:
            if isinstance(block, Table):
                lines.append(block.latex())
            elif isinstance(block, Commands):
                lines.append("% Run it:")
                lines += [f"% {one_line(line)}" for line in block.lines]
            else:
                lines.append(rf"\par\footnotesize {escape_latex(block)}")
        lines.append(r"\end{table}")
    return "\n".join(lines)


def _record(comparison: Comparison, index: int) -> dict[str, Any]:
    line = comparison.lines[index]
    first_rank, last_rank = comparison.ranks(index)
    return {
        "line": comparison.letter(index),
        "entrant": line.entrant,
        "representation": line.representation,
        "round": line.rows[0].round,
        "seeds": len(line.seeds),
        "beats": comparison.beaten_letters(index),
        "first_rank": first_rank if comparison.pairs else None,
        "last_rank": last_rank if comparison.pairs else None,
        "seconds": line.seconds(),
        "pretrain_seconds": line.seconds("pretrain"),
        "tokens_per_second": line.speed(),
        "peak_memory_bytes": line.peak_memory(),
    }


def _csv(comparisons: Sequence[Comparison]) -> str:
    records = []
    for comparison in comparisons:
        for index, line in enumerate(comparison.lines):
            row = line.rows[0]
            record: dict[str, Any] = {"track": row.track, "overrides": comparison.overrides, "identity": row.identity}
            record |= _record(comparison, index)
            for column in comparison.columns:
                name = " ".join(column)
                record[name] = line.mean(*column)
                record[f"{name} sd"] = line.deviation(*column)
            records.append(record)
    return Table.from_records(records).csv()


def _json(comparisons: Sequence[Comparison]) -> str:
    return json.dumps({"tables": [_document(comparison) for comparison in comparisons]}, indent=2)


def _document(comparison: Comparison) -> dict[str, Any]:
    return {
        "track": comparison.rows[0].track,
        "identity": comparison.rows[0].identity,
        "overrides": comparison.rows[0].overrides,
        "main": comparison.columns[0] if comparison.columns else None,
        "tested": comparison.tested,
        "baseline": None if comparison.baseline is None else comparison.letter(comparison.baseline),
        "queries": comparison.queries,
        "clusters": comparison.test.clusters,
        "clustered_by": comparison.clustered_by,
        "lines": [_line_document(comparison, index) for index in range(len(comparison.lines))],
        "pairs": [_pair_document(comparison, pair) for pair in comparison.pairs],
        "notes": notes(comparison),
        "rows": [asdict(row) for row in comparison.rows],
    }


def _line_document(comparison: Comparison, index: int) -> dict[str, Any]:
    line = comparison.lines[index]
    measures: dict[str, dict[str, Any]] = {}  # dataset -> measure -> mean and deviation
    for dataset, measure in comparison.columns:
        scores = measures.setdefault(dataset, {})
        scores[measure] = {"mean": line.mean(dataset, measure), "sd": line.deviation(dataset, measure)}
    return _record(comparison, index) | {"measures": measures}


def _pair_document(comparison: Comparison, pair: Pair) -> dict[str, Any]:
    letters = {"first": comparison.letter(pair.first), "second": comparison.letter(pair.second)}
    return asdict(pair) | {"significant": pair.significant} | letters
