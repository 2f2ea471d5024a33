"""
Rows that were compared, as sections of a page: tables of numbers, and the sentences below them.

* Section, sections   tables, commands and sentences under a heading, for any format to lay out
* notes               sentences about the numbers, the test, and the differences it did not show
* spread, clock       a mean with its deviation; seconds as h:mm:ss
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retrobench.core import Column, Table
from retrobench.leaderboard.comparison import Comparison, DatasetMeasure, Line
from retrobench.scoring import ALPHA, Pair

__all__ = ["Commands", "Section", "clock", "notes", "sections", "spread"]

WIDE = 8  # measures side by side; a comparison of more shows each of them in a row of a second table
ABREAST = 4  # entrants side by side in that second table


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A heading, and the tables, commands and sentences below it."""

    heading: str
    blocks: tuple[Table | Commands | str, ...]


def sections(comparisons: Sequence[Comparison]) -> list[Section]:
    """Return a section for each comparison. A second table holds the measures where they are many."""
    return [_section(comparison) for comparison in comparisons]


def _section(comparison: Comparison) -> Section:
    blocks: list[Table | Commands | str] = [_by_entrant(comparison)]
    if _wide(comparison):
        blocks += _by_measure(comparison)
    blocks += notes(comparison)
    return Section(comparison.heading, tuple(blocks))


def _by_entrant(comparison: Comparison) -> Table:
    """Return a row for each entrant. Many measures are cut down to the main one and the tested one."""
    measures = _shown_measures(comparison)
    columns = [Column(""), Column("entrant"), Column("representation"), Column("seeds", "right", "number")]
    for measure in measures:
        columns.append(Column(_header(comparison, measure), "right", "measure"))
        if measure == comparison.tested:
            columns.append(Column("beats", "right", "marks"))
    # The whole time stands beside the measures; the kind "cost" is for its details.
    columns.append(Column("time", "right", "number"))
    columns += [Column(name, "right", "cost") for name in ("pre-training", "tokens/s", "peak memory")]
    return Table(columns, [_entrant_row(comparison, index, measures) for index in range(len(comparison.lines))])


def _entrant_row(comparison: Comparison, index: int, measures: Sequence[DatasetMeasure]) -> list[str]:
    line = comparison.lines[index]
    cells = [comparison.letter(index), line.entrant, line.representation]
    cells.append(str(len(line.seeds)) if line.seeds else "-")
    for measure in measures:
        cells.append(spread(line.mean(*measure), line.deviation(*measure)))
        if measure == comparison.tested:
            cells.append("".join(map(comparison.letter, comparison.beaten(index))))
    return [*cells, *_costs(line)]


def _costs(line: Line) -> list[str]:
    speed, memory = line.speed(), line.peak_memory()
    return [
        clock(line.seconds()),
        clock(line.seconds("pretrain")),
        "-" if speed is None else f"{speed:.0f}",
        "-" if memory is None else f"{memory / 2**30:.2f} GiB",
    ]


def _shown_measures(comparison: Comparison) -> list[DatasetMeasure]:
    if not _wide(comparison):
        return list(comparison.columns)
    return [column for column in comparison.columns if column in (comparison.columns[0], comparison.tested)]


def _header(comparison: Comparison, column: DatasetMeasure) -> str:
    """Return the measure, with its dataset where the comparison has several."""
    dataset, measure = column
    datasets = {name for name, _ in comparison.columns}
    return measure if len(datasets) == 1 else f"{dataset} {measure}"


def _wide(comparison: Comparison) -> bool:
    return len(comparison.columns) > WIDE


def _by_measure(comparison: Comparison) -> list[Table]:
    """Return a row for each measure and a column for each entrant, in tables that a terminal can hold."""
    tables = []
    for first in range(0, len(comparison.lines), ABREAST):
        indices = range(first, min(first + ABREAST, len(comparison.lines)))
        columns = [Column("dataset"), Column("measure")]
        for index in indices:
            columns.append(Column(f"{comparison.letter(index)} {comparison.name(index)}", "right", "measure"))
        rows = []
        for dataset, measure in comparison.columns:
            lines = [comparison.lines[index] for index in indices]
            scores = [spread(line.mean(dataset, measure), line.deviation(dataset, measure)) for line in lines]
            rows.append([dataset, measure, *scores])
        tables.append(Table(columns, rows))
    return tables


def notes(comparison: Comparison) -> list[str]:
    """The sentences under a comparison: what the numbers are, how they were tested, what the test did not show."""
    if not comparison.columns:
        return []
    seeds = sorted({len(line.seeds) for line in comparison.lines if line.seeds})
    text = [
        f"Mean ± sample standard deviation over seeds{f' ({_span(seeds)} per entrant)' if seeds else ''}; "
        "a seed changes pre-training and fine-tuning alike. Time is the sum over all stages."
    ]
    if len({data for data, _ in comparison.columns}) == 1:
        text[0] = f"Dataset: {comparison.columns[0][0]}. {text[0]}"
    if comparison.superseded:
        text.append(f"Rows left out because a later one has the same entrant and seed: {comparison.superseded}.")
    if comparison.tested:
        dataset, measure = comparison.tested
        text.append(
            f"Letters beside {measure} name the lines that a line beats: paired two-sided t-test over "
            f"{comparison.queries} queries of {dataset}, each query's value averaged over seeds first, p "
            f"Holm-corrected over {_pairs(comparison)}, alpha {ALPHA}. "
            "It speaks of other queries, not of other seeds."
        )
        text += _unbeaten(comparison)
    elif len(comparison.lines) > 1:
        text.append("Differences are not tested: the per-query values are not at hand.")
    return text


def clock(seconds: float | None) -> str:
    """A duration as h:mm:ss, "-" for None."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def spread(mean: float | None, deviation: float | None) -> str:
    """A mean and its deviation, 4 decimals; "-" where there is none."""
    if mean is None:
        return "-"
    return f"{mean:.4f} ± {'-' if deviation is None else f'{deviation:.4f}'}"


def _span(counts: Sequence[int]) -> str:
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _pairs(comparison: Comparison) -> str:
    return "the one pair" if len(comparison.pairs) == 1 else f"all {len(comparison.pairs)} pairs"


def _unbeaten(comparison: Comparison) -> list[str]:
    """Name the lines that do not beat the baseline, and those not told apart from the best line."""
    text = []
    for line in range(len(comparison.lines)):
        rival = comparison.rival(line)
        for other, pair in comparison.against(rival):
            if other == line and pair.winner() != line:
                names = f"{comparison.name(line)} does not beat {comparison.name(rival)}"
                worse = " It is significantly worse." if pair.significant else ""
                text.append(f"{names} at this size: {_test(pair)}.{worse}")
    near = [f"{comparison.name(line)} ({_test(pair)})" for line, pair in comparison.against(0) if not pair.significant]
    if near:
        text.append(f"Not told apart from the best, {comparison.name(0)}: {'; '.join(near)}.")
    return text


def _test(pair: Pair) -> str:
    p = "p < 0.001" if pair.corrected < 0.001 else f"p = {pair.corrected:.2g}"
    return f"{round(pair.difference, 4) + 0.0:+.4f}, {p}"  # the sum turns -0.0 into 0.0
