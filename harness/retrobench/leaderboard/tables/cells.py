"""
Compared rows as sections of a page: tables of numbers, and the sentences below them.

* Section, sections   tables, commands and sentences under a heading, for any format to lay out
* notes               sentences about the numbers, their test, and the differences that it did not show
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retrobench.core import Column, Table
from retrobench.leaderboard.comparison import OWN, Comparison, DatasetMeasure, Line, find_namesakes
from retrobench.leaderboard.tables.differences import about_differences, difference_table, format_ranks
from retrobench.leaderboard.tables.footnotes import data_notes, machine_notes
from retrobench.leaderboard.tables.formatting import clock, format_number, spread
from retrobench.leaderboard.tables.transfer import transfer_blocks

__all__ = [
    "Block",
    "Commands",
    "Section",
    "entrant_table",
    "notes",
    "sections",
]

WIDE = 8  # measures side by side; a wider comparison shows every measure in a row of a second table
ABREAST = 4  # entrants side by side in that second table


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    lines: tuple[str, ...]


Block = Table | Commands | str


@dataclass(frozen=True)
class Section:
    """A heading, and the tables, commands and sentences below it."""

    heading: str
    blocks: tuple[Block, ...]


def sections(comparisons: Sequence[Comparison]) -> list[Section]:
    """Return a section for each comparison. A second table holds the measures where they are many."""
    return [_section(comparison) for comparison in comparisons]


def _section(comparison: Comparison) -> Section:
    blocks: list[Block] = [entrant_table(comparison)]
    if _wide(comparison):
        blocks += _by_measure(comparison)
    if comparison.against_baseline():
        blocks.append(difference_table(comparison))
    blocks += notes(comparison)
    blocks += transfer_blocks(comparison)
    return Section(comparison.heading, tuple(blocks))


def entrant_table(comparison: Comparison) -> Table:
    """Return a row for each entrant. Many measures are cut down to the main one and the tested one."""
    measures = _shown_measures(comparison)
    columns = [Column(""), Column("entrant"), Column("representation"), Column("seeds", "right", "number")]
    if comparison.varied:
        columns.append(Column(comparison.varied, "right", "number"))
    for measure in measures:
        columns.append(Column(_header(comparison, measure), "right", "measure"))
        if measure == comparison.tested:
            columns.append(Column("beats", "right", "marks"))
            columns.append(Column("rank", "right", "number"))
    # The whole time stands beside the measures; the kind "cost" is for its details.
    columns.append(Column("time", "right", "number"))
    columns += [Column(name, "right", "cost") for name in ("pre-training", "tokens/s", "peak memory")]
    rows = [_entrant_row(comparison, index, measures) for index in range(len(comparison.lines))]
    return Table(columns, rows)


def _entrant_row(comparison: Comparison, index: int, measures: Sequence[DatasetMeasure]) -> list[str]:
    line = comparison.lines[index]
    row = [comparison.letter(index), line.entrant, line.representation]
    row.append(format_number(len(line.seeds) or None, "d"))
    if comparison.varied:
        row.append(line.value)
    for measure in measures:
        row.append(spread(line.mean(*measure), line.deviation(*measure)))
        if measure == comparison.tested:
            row.append(comparison.beaten_letters(index))
            row.append(format_ranks(comparison, index))
    return [*row, *_costs(line)]


def _costs(line: Line) -> list[str]:
    time = clock(line.seconds())
    pretraining = clock(line.seconds("pretrain"))
    speed = format_number(line.speed(), ".0f")
    peak = line.peak_memory()
    memory = "-" if peak is None else f"{peak / 2**30:.2f} GiB"
    return [time, pretraining, speed, memory]


def _shown_measures(comparison: Comparison) -> list[DatasetMeasure]:
    if not _wide(comparison):
        return list(comparison.own_columns)
    measures = [comparison.own_columns[0]]
    if comparison.tested and comparison.tested not in measures:
        measures.append(comparison.tested)
    return measures


def _header(comparison: Comparison, column: DatasetMeasure) -> str:
    """Return the measure, with its dataset where the comparison has several."""
    dataset, measure = column
    return f"{dataset} {measure}" if len(_datasets(comparison)) > 1 else measure


def _datasets(comparison: Comparison) -> set[str]:
    return {dataset for dataset, _ in comparison.own_columns}


def _wide(comparison: Comparison) -> bool:
    return len(comparison.own_columns) > WIDE


def _by_measure(comparison: Comparison) -> list[Table]:
    """Return a row for each measure and a column for each entrant, in tables that a terminal can hold."""
    tables = []
    for first in range(0, len(comparison.lines), ABREAST):
        lines = comparison.lines[first : first + ABREAST]
        columns = [Column("dataset"), Column("measure")]
        for index in range(first, first + len(lines)):
            columns.append(Column(f"{comparison.letter(index)} {comparison.name(index)}", "right", "measure"))
        rows = []
        for dataset, measure in comparison.own_columns:
            scores = [spread(line.mean(dataset, measure), line.deviation(dataset, measure)) for line in lines]
            rows.append([dataset, measure, *scores])
        tables.append(Table(columns, rows))
    return tables


def notes(comparison: Comparison) -> list[str]:
    """Return the sentences under a comparison: its numbers, its test, and the differences the test did not show."""
    if not comparison.own_columns:
        return []
    sentences = [_about_means(comparison), *machine_notes(comparison), *data_notes(comparison)]
    if comparison.superseded:
        sentences.append(f"Rows left out because a later one has the same entrant and seed: {comparison.superseded}.")
    for entrant, names in find_namesakes(comparison.lines).items():
        sentences.append(f"{entrant} stands in lines that differ in {', '.join(names)}. Their rows are not averaged.")
    if any(line.entrant.endswith(OWN) for line in comparison.lines):
        sentences.append(f"{OWN} measured here; the other lines were shipped.")
    if comparison.tested:
        sentences += about_differences(comparison)
    elif len(comparison.lines) > 1:
        sentences.append("Differences are not tested, because the files of values by query are missing.")
    return sentences


def _about_means(comparison: Comparison) -> str:
    counts = sorted({len(line.seeds) for line in comparison.lines} - {0})
    span = f" ({_span(counts)} per entrant)" if counts else ""
    sentence = (
        f"Mean ± sample standard deviation over seeds{span}. "
        "A seed changes pre-training and fine-tuning. Time is the sum over all stages."
    )
    if len(_datasets(comparison)) > 1:
        return sentence
    return f"Dataset: {comparison.own_columns[0][0]}. {sentence}"


def _span(counts: Sequence[int]) -> str:
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
