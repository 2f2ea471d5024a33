"""
A compared table in words: the cells of its grid, and the sentences that stand under it.

* grid, Grid   header and cells, for any format to lay out
* notes        what the numbers are, how they were tested, and what the test did not show
* markdown     a grid in Markdown
* clock        seconds as h:mm:ss
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from retrobench.comparison import Line, Table
from retrobench.significance import ALPHA, Pair

__all__ = ["Grid", "clock", "grid", "markdown", "notes"]


@dataclass(frozen=True)
class Grid:
    """Cells ready to be laid out; the columns from `numbers` on are numbers and stand to the right."""

    header: list[str]
    body: list[list[str]]
    numbers: int


def grid(table: Table, escape: Callable[[str], str] = str, mark: Callable[[str, str], str] | None = None) -> Grid:
    """The cells of a table. `mark` joins the main measure with the letters of the lines that are beaten.

    Without `mark` the letters have a column of their own. `escape` makes a text fit for the format.
    """
    alone = len({dataset for dataset, _ in table.columns}) == 1
    measures = [measure if alone else f"{dataset} {measure}" for dataset, measure in table.columns]
    header = [
        *("", "entrant", "representation", "seeds"),
        *measures,
        *("time", "pre-training", "tokens/s", "peak memory"),
    ]
    numbers = 3
    rows = [
        [table.letter(place), line.entrant, line.representation, *_scores(table, line)]
        for place, line in enumerate(table.lines)
    ]
    cells = [[escape(cell) for cell in row] for row in (header, *rows)]
    if table.pairs:
        beaten = ["".join(map(table.letter, table.beaten(place))) for place in range(len(table.lines))]
        for row, letters in zip(cells, ["beats", *beaten], strict=True):
            if mark is None:
                row.insert(numbers + 2, letters)
            elif row is not cells[0]:
                row[numbers + 1] = mark(row[numbers + 1], letters)
    return Grid(cells[0], cells[1:], numbers)


def notes(table: Table) -> list[str]:
    """The sentences under a table: what the numbers are, how they were tested, what the test did not show."""
    if not table.columns:
        return []
    dataset, measure = table.columns[0]
    seeds = sorted({len(line.seeds) for line in table.lines if line.seeds})
    text = [
        f"Mean ± sample standard deviation over seeds{f' ({_span(seeds)} per entrant)' if seeds else ''}; "
        "a seed changes pre-training and fine-tuning alike. Time is the sum over all stages."
    ]
    if len({data for data, _ in table.columns}) == 1:
        text[0] = f"Dataset: {dataset}. {text[0]}"
    if table.superseded:
        text.append(f"Rows left out because a later one has the same entrant and seed: {table.superseded}.")
    if table.pairs:
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
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (cells.header, *cells.body)]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(cells.header))]
    right = [column >= cells.numbers for column in range(len(widths))]
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


def _scores(table: Table, line: Line) -> list[str]:
    """The cells of a line that are numbers."""
    speed, memory = line.speed(), line.peak_memory()
    return [
        str(len(line.seeds)) if line.seeds else "-",
        *(_spread(line.mean(*column), line.deviation(*column)) for column in table.columns),
        clock(line.seconds()),
        clock(line.seconds("pretrain")),
        "-" if speed is None else f"{speed:.0f}",
        "-" if memory is None else f"{memory / 2**30:.2f} GiB",
    ]


def _spread(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.4f} ± {'-' if deviation is None else f'{deviation:.4f}'}"


def _span(counts: Sequence[int]) -> str:
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _pairs(table: Table) -> str:
    return "the one pair" if len(table.pairs) == 1 else f"all {len(table.pairs)} pairs"


def _unbeaten(table: Table) -> list[str]:
    """Who does not beat the baseline, and who cannot be told from the best line."""
    text, baseline = [], table.name(table.baseline)
    for line, pair in table.against(table.baseline):
        if pair.winner() != line:
            worse = " It is significantly worse." if pair.significant else ""
            text.append(f"{table.name(line)} does not beat {baseline} at this size: {_test(pair)}.{worse}")
    near = [f"{table.name(line)} ({_test(pair)})" for line, pair in table.against(0) if not pair.significant]
    if near:
        text.append(f"Not told apart from the best, {table.name(0)}: {'; '.join(near)}.")
    return text


def _test(pair: Pair) -> str:
    p = "p < 0.001" if pair.corrected < 0.001 else f"p = {pair.corrected:.2g}"
    return f"{round(pair.difference, 4) + 0.0:+.4f}, {p}"  # the sum turns -0.0 into 0.0
