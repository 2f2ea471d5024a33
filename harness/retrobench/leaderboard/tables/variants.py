"""
Tables of rows whose tracks differ in one setting, as a folder's `tables.toml` declares them.

* read_variants          a section for each grid and each table across tracks
* expectation_sections   the papers' claims about pairs of lines
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from retrobench.config import as_in_toml
from retrobench.core import Column, Table
from retrobench.leaderboard.comparison import (
    Across,
    Board,
    Comparison,
    DatasetMeasure,
    Expectation,
    Grid,
    Line,
    add_tests,
    compare_lines,
    format_override,
    group_lines,
)
from retrobench.leaderboard.rows import Row, full_entrant
from retrobench.leaderboard.tables.cells import Block, Section, entrant_table
from retrobench.leaderboard.tables.differences import about_verdicts, difference_table, format_result
from retrobench.leaderboard.tables.footnotes import machine_notes
from retrobench.leaderboard.tables.formatting import format_number, one_line

__all__ = ["Variants", "expectation_sections", "read_variants"]


class Variants(NamedTuple):
    """The declared tables that have rows of changed tracks, and the ids of these rows."""

    sections: list[Section]
    covered: set[str]


def read_variants(board: Board, baselines: Sequence[str]) -> Variants:
    """Return a section for each grid and each table across tracks."""
    sections = []
    shown: list[Row] = []
    for grid in board.declared.grids:
        rows = _grid_rows(board, grid)
        if rows:
            sections.append(_grid(board, grid, rows))
            shown += rows
    for across in board.declared.across:
        lines = _across_lines(board, across)
        rows = [row for line in lines for row in line.rows]
        if any(board.differences(row) for row in rows):
            sections.append(_across(board, across, lines, baselines))
            shown += rows
    return Variants(sections, {row.id for row in shown if board.differences(row)})


def _grid_rows(board: Board, grid: Grid) -> list[Row]:
    """Return the rows that differ from the track in the grid's overrides and in nothing else but its key."""
    rows = []
    for row in board.rows:
        differences = board.differences(row)
        if differences is None:
            continue
        others = {format_override(key, value) for key, value in differences.items() if key != grid.key}
        if others == set(grid.overrides):
            rows.append(row)
    return rows


def _grid(board: Board, grid: Grid, rows: Sequence[Row]) -> Section:
    """Return a row for each entrant, a column for each value of the key, and the best value."""
    by_value: dict[Any, list[Row]] = {}
    for row in rows:
        by_value.setdefault(_value(board, row, grid.key), []).append(row)
    values = sorted(by_value)
    scores: dict[tuple[str, str], dict[Any, Line]] = {}
    for value in values:
        for line in group_lines(by_value[value]):
            scores.setdefault((line.entrant, line.representation), {})[value] = line
    column = _first_column(rows[0])
    columns = [Column("entrant"), Column("representation"), Column("seeds", "right", "number")]
    columns += [Column(f"{grid.key} = {as_in_toml(value)}", "right", "measure") for value in values]
    columns.append(Column("best", "right", "number"))
    body = []
    for (entrant, representation), lines in sorted(scores.items()):
        means = {value: line.mean(*column) or 0.0 for value, line in lines.items()}
        cells = [format_number(means.get(value), ".4f") for value in values]
        best = max(means, key=lambda value: means[value])
        seeds = ", ".join(sorted({str(seed) for line in lines.values() for seed in line.seeds}))
        body.append([entrant, representation, seeds, *cells, as_in_toml(best)])
    blocks: list[Block] = [one_line(grid.text.strip())] if grid.text else []
    blocks += [Table(columns, body), f"{column[1]} on {column[0]}."]
    return Section(grid.title, tuple(blocks))


def _first_column(row: Row) -> DatasetMeasure:
    dataset, scores = next(iter(row.measures.items()))
    return dataset, next(iter(scores))


def _across_lines(board: Board, across: Across) -> list[Line]:
    """Return the lines under the values set for an entrant; under the track's own where none was set."""
    changed: dict[tuple[str, str], list[Row]] = {}
    unchanged: dict[tuple[str, str], list[Row]] = {}
    for row in board.rows:
        differences = board.differences(row)
        if differences is None or not differences.keys() <= {across.key}:
            continue
        if across.entrants and not {row.entrant, full_entrant(row.entrant, row.representation)} & set(across.entrants):
            continue
        groups = changed if differences else unchanged
        groups.setdefault((row.entrant, row.representation), []).append(row)
    lines: list[Line] = []
    for rows in (unchanged | changed).values():
        lines += _lines_by_value(board, rows, across.key)
    return lines


def _lines_by_value(board: Board, rows: Iterable[Row], key: str) -> list[Line]:
    by_value: dict[str, list[Row]] = {}
    for row in rows:
        by_value.setdefault(as_in_toml(_value(board, row, key)), []).append(row)
    lines = []
    for value, members in by_value.items():
        lines += [replace(line, value=value) for line in group_lines(members, board.own)]
    return lines


def _value(board: Board, row: Row, key: str) -> Any:
    """Return the setting of a row's track."""
    differences = board.differences(row) or {}
    if key in differences:
        return differences[key]
    section, _, name = key.partition(".")
    return (board.settings or {}).get(section, {}).get(name)


def _across(board: Board, across: Across, lines: Sequence[Line], baselines: Sequence[str]) -> Section:
    first = lines[0].rows[0]
    columns = [(dataset, measure) for dataset, scores in first.measures.items() for measure in scores]
    comparison = compare_lines(lines, columns, baselines)
    comparison = replace(comparison, varied=across.key, transfer=tuple(board.transfer(first)))
    if board.has_values:
        comparison = add_tests(comparison, board.load, board.load_clusters)
    blocks: list[Block] = [one_line(across.text.strip())] if across.text else []
    blocks.append(entrant_table(comparison))
    if comparison.against_baseline():
        blocks.append(difference_table(comparison))
    blocks += machine_notes(comparison)
    blocks += about_verdicts(comparison)
    return Section(across.title, tuple(blocks))


def expectation_sections(main: Comparison | None, expectations: Sequence[Expectation]) -> list[Section]:
    """Return a section with a sentence for each claim: shown, not shown, or the reverse, with the difference.

    `main` is the comparison of the unchanged track. The list is empty without it, and without claims.
    """
    if main is None or not expectations:
        return []
    sentences: list[Block] = []
    for expected in expectations:
        verdict = "not measured"
        better = main.find(expected.better)
        worse = main.find(expected.worse)
        if better is not None and worse is not None:
            verdict = _verdict(main, better, worse)
        sentences.append(f"{expected.claim} ({expected.paper}). Here {expected.better} - {expected.worse}: {verdict}.")
    return [Section("The papers' claims at this size", tuple(sentences))]


def _verdict(main: Comparison, better: int, worse: int) -> str:
    pair = dict(main.against(worse)).get(better)
    if pair is None:
        return "not tested"
    verdict = "not shown"
    if pair.winner() == better:
        verdict = "shown"
    elif pair.winner() == worse:
        verdict = "the reverse"
    return f"{verdict}, {format_result(main, pair)}"
