"""
Compared rows as sections of a page: tables of numbers, and the sentences below them.

* Section, sections   tables, commands and sentences under a heading, for any format to lay out
* notes               sentences about the numbers, their test, and the differences that it did not show
* spread, clock       a mean with its deviation; seconds as h:mm:ss
* format_number       a number, or "-"
* list_facts          facts in one line
* shell_block         commands in Markdown
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrobench.core import Column, Table
from retrobench.leaderboard.comparison import Comparison, DatasetMeasure, Line
from retrobench.leaderboard.overlaps import overlap_notes
from retrobench.scoring import ALPHA, Pair

__all__ = [
    "Block",
    "Commands",
    "Section",
    "clock",
    "format_number",
    "list_facts",
    "notes",
    "sections",
    "shell_block",
    "spread",
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
    blocks: list[Block] = [_by_entrant(comparison)]
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
    rows = [_entrant_row(comparison, index, measures) for index in range(len(comparison.lines))]
    return Table(columns, rows)


def _entrant_row(comparison: Comparison, index: int, measures: Sequence[DatasetMeasure]) -> list[str]:
    line = comparison.lines[index]
    row = [comparison.letter(index), line.entrant, line.representation]
    row.append(format_number(len(line.seeds) or None, "d"))
    for measure in measures:
        row.append(spread(line.mean(*measure), line.deviation(*measure)))
        if measure == comparison.tested:
            row.append(comparison.beaten_letters(index))
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
        return list(comparison.columns)
    measures = [comparison.columns[0]]
    if comparison.tested and comparison.tested not in measures:
        measures.append(comparison.tested)
    return measures


def _header(comparison: Comparison, column: DatasetMeasure) -> str:
    """Return the measure, with its dataset where the comparison has several."""
    dataset, measure = column
    return f"{dataset} {measure}" if len(_datasets(comparison)) > 1 else measure


def _datasets(comparison: Comparison) -> set[str]:
    return {dataset for dataset, _ in comparison.columns}


def _wide(comparison: Comparison) -> bool:
    return len(comparison.columns) > WIDE


def _by_measure(comparison: Comparison) -> list[Table]:
    """Return a row for each measure and a column for each entrant, in tables that a terminal can hold."""
    tables = []
    for first in range(0, len(comparison.lines), ABREAST):
        lines = comparison.lines[first : first + ABREAST]
        columns = [Column("dataset"), Column("measure")]
        for index in range(first, first + len(lines)):
            columns.append(Column(f"{comparison.letter(index)} {comparison.name(index)}", "right", "measure"))
        rows = []
        for dataset, measure in comparison.columns:
            scores = [spread(line.mean(dataset, measure), line.deviation(dataset, measure)) for line in lines]
            rows.append([dataset, measure, *scores])
        tables.append(Table(columns, rows))
    return tables


def notes(comparison: Comparison) -> list[str]:
    """Return the sentences under a comparison: its numbers, its test, and the differences the test did not show."""
    if not comparison.columns:
        return []
    sentences = [_about_means(comparison), *overlap_notes(comparison)]
    if comparison.superseded:
        sentences.append(f"Rows left out because a later one has the same entrant and seed: {comparison.superseded}.")
    if comparison.tested:
        sentences.append(_about_test(comparison, comparison.tested))
        sentences += _not_better(comparison)
        sentences += _near_the_best(comparison)
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
    return f"Dataset: {comparison.columns[0][0]}. {sentence}"


def _about_test(comparison: Comparison, tested: DatasetMeasure) -> str:
    dataset, measure = tested
    pairs = "the one pair" if len(comparison.pairs) == 1 else f"all {len(comparison.pairs)} pairs"
    return (
        f"Letters beside {measure} name the lines that a line beats: paired two-sided t-test over "
        f"{comparison.queries} queries of {dataset}, values averaged over seeds first, p Holm-corrected over {pairs}, "
        f"alpha {ALPHA}. The test generalises to further queries, not to further seeds."
    )


def clock(seconds: float | None) -> str:
    """Return a duration as h:mm:ss, "-" for None."""
    if seconds is None:
        return "-"
    minutes, remainder = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{remainder:02}"


def spread(mean: float | None, deviation: float | None) -> str:
    """Return a mean and its deviation with 4 decimals, "-" for None."""
    if mean is None:
        return "-"
    return f"{mean:.4f} ± {format_number(deviation, '.4f')}"


def format_number(value: float | None, spec: str) -> str:
    """Return a number in the format `spec`, "-" for None."""
    if value is None:
        return "-"
    return format(value, spec)


def list_facts(facts: Mapping[str, Any]) -> str:
    """Return names and values in one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def shell_block(commands: Iterable[str]) -> str:
    """Return commands as a block of Markdown."""
    return "\n".join(["```sh", *commands, "```"])


def _span(counts: Sequence[int]) -> str:
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _not_better(comparison: Comparison) -> list[str]:
    """Return a sentence for each line that does not beat its baseline."""
    sentences = []
    for index in range(len(comparison.lines)):
        rival = comparison.rival(index)
        pair = dict(comparison.against(rival)).get(index)
        if pair is not None and pair.winner() != index:
            worse = " It is significantly worse." if pair.significant else ""
            sentences.append(
                f"{comparison.name(index)} does not beat {comparison.name(rival)} at this size: {_result(pair)}.{worse}"
            )
    return sentences


def _near_the_best(comparison: Comparison) -> list[str]:
    """Return a sentence that names the lines without a significant difference to the best."""
    names = []
    for index, pair in comparison.against(0):
        if not pair.significant:
            names.append(f"{comparison.name(index)} ({_result(pair)})")
    if not names:
        return []
    return [f"Not significantly different from the best, {comparison.name(0)}: {'; '.join(names)}."]


def _result(pair: Pair) -> str:
    p = "p < 0.001" if pair.corrected < 0.001 else f"p = {pair.corrected:.2g}"
    return f"{round(pair.difference, 4) + 0.0:+.4f}, {p}"  # the sum turns -0.0 into 0.0
