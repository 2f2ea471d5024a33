"""
A compared table in words: the cells of its grid, and the sentences that stand under it.

* sections, Section   grids and sentences under a heading, for any format to lay out
* Grid, markdown      cells ready to be laid out, and laid out in Markdown
* notes               what the numbers are, how they were tested, and what the test did not show
* spread, clock       a mean with its deviation; seconds as h:mm:ss
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retrobench.leaderboard.comparison import Line, Table
from retrobench.scoring import ALPHA, Pair

__all__ = ["Commands", "Grid", "Section", "clock", "grid", "markdown", "notes", "sections", "spread"]

WIDE = 8  # measures that stand side by side; more of them are turned into lines
ABREAST = 4  # entrants beside each other then


@dataclass(frozen=True)
class Grid:
    """Cells ready to be laid out; the columns from `numbers` on are numbers and stand to the right."""

    header: list[str]
    body: list[list[str]]
    numbers: int
    marks: tuple[str, ...] = ()  # for each line the letters of those it beats
    marked: int = 0  # the column that the marks belong to
    texts: tuple[int, ...] = ()  # columns further on that are no numbers

    def right(self, column: int) -> bool:
        """Whether a column's cells stand to the right."""
        return column >= self.numbers and column not in self.texts

    def take(self, columns: Sequence[int]) -> Grid:
        """Some of the columns, in their order."""
        marked = columns.index(self.marked) if self.marked in columns else 0
        return Grid(
            [self.header[column] for column in columns],
            [[row[column] for column in columns] for row in self.body],
            sum(column < self.numbers for column in columns),
            self.marks if self.marked in columns else (),
            marked,
            tuple(place for place, column in enumerate(columns) if column in self.texts),
        )


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """What stands under one heading, from top to bottom."""

    heading: str
    parts: tuple[Grid | Commands | str, ...]


def sections(tables: Sequence[Table]) -> list[Section]:
    """Each table with its notes. More measures than fit side by side are lines of a second grid, entrants columns."""
    return [
        Section(table.heading, (grid(table), *(_turned(table) if _wide(table) else []), *notes(table)))
        for table in tables
    ]


def grid(table: Table) -> Grid:
    """An entrant a line: seeds, measures and cost. Of many measures only the first, and the one that was tested."""
    alone = len({dataset for dataset, _ in table.columns}) == 1
    columns = [column for column in table.columns if column in (table.columns[0], table.tested) or not _wide(table)]
    header = [
        *("", "entrant", "representation", "seeds"),
        *(measure if alone else f"{dataset} {measure}" for dataset, measure in columns),
        *("time", "pre-training", "tokens/s", "peak memory"),
    ]
    body = [
        [table.letter(place), line.entrant, line.representation, *_scores(line, columns)]
        for place, line in enumerate(table.lines)
    ]
    marks = ["".join(map(table.letter, table.beaten(place))) for place in range(len(table.lines))]
    marked = 4 + columns.index(table.tested) if table.tested else 0
    return Grid(header, body, 3, tuple(marks) if table.pairs else (), marked)


def _wide(table: Table) -> bool:
    return len(table.columns) > WIDE


def _turned(table: Table) -> list[Grid]:
    """A measure a line, an entrant a column, as many entrants beside each other as a terminal holds."""
    found = []
    for first in range(0, len(table.lines), ABREAST):
        places = range(first, min(first + ABREAST, len(table.lines)))
        lines = [table.lines[place] for place in places]
        body = [
            [*column, *(spread(line.mean(*column), line.deviation(*column)) for line in lines)]
            for column in table.columns
        ]
        header = ["dataset", "measure", *(f"{table.letter(place)} {table.name(place)}" for place in places)]
        found.append(Grid(header, body, 2))
    return found


def notes(table: Table) -> list[str]:
    """The sentences under a table: what the numbers are, how they were tested, what the test did not show."""
    if not table.columns:
        return []
    seeds = sorted({len(line.seeds) for line in table.lines if line.seeds})
    text = [
        f"Mean ± sample standard deviation over seeds{f' ({_span(seeds)} per entrant)' if seeds else ''}; "
        "a seed changes pre-training and fine-tuning alike. Time is the sum over all stages."
    ]
    if len({data for data, _ in table.columns}) == 1:
        text[0] = f"Dataset: {table.columns[0][0]}. {text[0]}"
    if table.superseded:
        text.append(f"Rows left out because a later one has the same entrant and seed: {table.superseded}.")
    if table.tested:
        dataset, measure = table.tested
        text.append(
            f"Letters beside {measure} name the lines that a line beats: paired two-sided t-test over "
            f"{table.queries} queries of {dataset}, each query's value averaged over seeds first, p "
            f"Holm-corrected over {_pairs(table)}, alpha {ALPHA}. "
            "It speaks of other queries, not of other seeds."
        )
        text += _unbeaten(table)
    elif len(table.lines) > 1:
        text.append("Differences are not tested: the per-query values are not at hand.")
    return text


def markdown(cells: Grid) -> str:
    """A Markdown table, padded so that its source reads well too."""
    body = cells.body
    if cells.marks:
        sup = [f"<sup>{mark}</sup>" if mark else "" for mark in cells.marks]
        body = [
            [cell + (mark if column == cells.marked else "") for column, cell in enumerate(row)]
            for row, mark in zip(body, sup, strict=True)
        ]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (cells.header, *body)]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(cells.header))]
    right = [cells.right(column) for column in range(len(widths))]
    rule = ["-" * (width - 1) + ":-"[not side] for side, width in zip(right, widths, strict=True)]
    sides = [str.rjust if side else str.ljust for side in right]
    lines = [
        [just(cell, width) for just, cell, width in zip(sides, row, widths, strict=True)]
        for row in (rows[0], rule, *rows[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def clock(seconds: float | None) -> str:
    """A duration as h:mm:ss, "-" for None."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _scores(line: Line, columns: Sequence[tuple[str, str]]) -> list[str]:
    """The cells of a line that are numbers."""
    speed, memory = line.speed(), line.peak_memory()
    return [
        str(len(line.seeds)) if line.seeds else "-",
        *(spread(line.mean(*column), line.deviation(*column)) for column in columns),
        clock(line.seconds()),
        clock(line.seconds("pretrain")),
        "-" if speed is None else f"{speed:.0f}",
        "-" if memory is None else f"{memory / 2**30:.2f} GiB",
    ]


def spread(mean: float | None, deviation: float | None) -> str:
    """A mean and its deviation, 4 decimals; "-" where there is none."""
    if mean is None:
        return "-"
    return f"{mean:.4f} ± {'-' if deviation is None else f'{deviation:.4f}'}"


def _span(counts: Sequence[int]) -> str:
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _pairs(table: Table) -> str:
    return "the one pair" if len(table.pairs) == 1 else f"all {len(table.pairs)} pairs"


def _unbeaten(table: Table) -> list[str]:
    """Who does not beat the baseline, and who cannot be told from the best line."""
    text = []
    for line in range(len(table.lines)):
        rival = table.rival(line)
        for other, pair in table.against(rival):
            if other == line and pair.winner() != line:
                worse = " It is significantly worse." if pair.significant else ""
                text.append(f"{table.name(line)} does not beat {table.name(rival)} at this size: {_test(pair)}.{worse}")
    near = [f"{table.name(line)} ({_test(pair)})" for line, pair in table.against(0) if not pair.significant]
    if near:
        text.append(f"Not told apart from the best, {table.name(0)}: {'; '.join(near)}.")
    return text


def _test(pair: Pair) -> str:
    p = "p < 0.001" if pair.corrected < 0.001 else f"p = {pair.corrected:.2g}"
    return f"{round(pair.difference, 4) + 0.0:+.4f}, {p}"  # the sum turns -0.0 into 0.0
