"""
A judged table for a reader.

* lay_out_excerpt   tables and sentences of one excerpt: measured by cell, published by model, and their facts
* fold_sentences    a section with its sentences folded for a terminal
* summarise         the number of cells with each verdict, and the exit code
* lay_out_tallies   the list of all tables
"""

from __future__ import annotations

import string
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from retrobench.core import Column, Table, width_for
from retrobench.leaderboard.claims import ClaimedColumn, Excerpt
from retrobench.leaderboard.reproduce.derived import PUBLIC_SETS, DerivedMean, derive_means, measuring_commands
from retrobench.leaderboard.reproduce.sentences import (
    column_headers,
    describe_corrections,
    describe_datasets,
    describe_source,
    explain_outcomes,
)
from retrobench.leaderboard.reproduce.verdicts import VERDICTS, JudgedExcerpt, Outcome, Tally, count_verdicts
from retrobench.leaderboard.tables import Block, Commands, Section, format_number, spread

__all__ = ["fold_sentences", "lay_out_excerpt", "lay_out_tallies", "summarise"]

WIDTH = 100  # letters in a line of published numbers
KINDS = (
    "The kinds are those of ACM's badging policy v1.1: a reproduction uses artifacts that the authors released, a "
    "replication is made anew by others. Policy v1.0 used the two words the other way round."
)


def lay_out_excerpt(judged: JudgedExcerpt) -> Section:
    """Return measured cells, then every published one, then the facts that they depend on."""
    excerpt, outcomes = judged
    numbers = _numbered(outcomes)
    blocks: list[Block] = [describe_source(excerpt)]
    if any(outcome.line for outcome in outcomes):
        blocks.append(_measured(excerpt, outcomes))
    blocks += _published(excerpt, outcomes, numbers)
    blocks += [f"[{number}] {reason}." for reason, number in numbers.items()]
    blocks += describe_corrections(excerpt)
    if excerpt.note:
        blocks.append(excerpt.note)
    blocks += explain_outcomes(outcomes)
    blocks += _means(derive_means(judged))
    blocks += describe_datasets(judged)
    commands = measuring_commands(excerpt)
    if commands:
        blocks.append(Commands(commands))
    return Section(f"{excerpt.id}: {excerpt.title}", tuple(blocks))


def fold_sentences(section: Section) -> Section:
    """Return the section with its sentences folded to the width of a terminal."""
    blocks: list[Block] = []
    for block in section.blocks:
        blocks.append(_fold(block) if isinstance(block, str) else block)
    return Section(section.heading, tuple(blocks))


def _fold(text: str) -> str:
    return textwrap.fill(text, width_for(WIDTH), break_on_hyphens=False)


def summarise(outcomes: Sequence[Outcome], exit_code: int | None, format: str, unused: Sequence[str] = ()) -> str:
    """Return the number of cells with each verdict, the exit code, and the rows that measure nothing."""
    counts = count_verdicts(outcomes)
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _shown_verdicts([counts]))
    text = f"{len(outcomes)} cells: {verdicts}."
    if exit_code is not None:
        text += f" Exit code {exit_code}."
    if unused:
        text += f" Rows that measure nothing here: {', '.join(unused)}."
    if format == "text":
        return _fold(f"{text} {KINDS}")
    if format == "latex":
        return f"% {text}\n% {KINDS}"
    return f"{text}\n{KINDS}"


def lay_out_tallies(tallies: Sequence[Tally]) -> list[Section]:
    """Return a section for each paper, with a row for each excerpt of a table."""
    papers: dict[str, list[Tally]] = {}
    counters: list[Counter[str]] = []
    for tally in tallies:
        counters += tally.counts
    shown = _shown_verdicts(counters)
    for tally in tallies:
        papers.setdefault(tally.table.paper, []).append(tally)
    sections = []
    for paper, group in papers.items():
        blocks: list[Block] = [_tally_table(group, shown)]
        blocks += [f"Refused: {tally.refusal}" for tally in group if tally.refusal]
        sections.append(Section(paper, tuple(blocks)))
    hint = "`retrobench reproduce TABLE` prints a table: published, measured, difference, interval and verdict."
    last = sections.pop()
    return [*sections, Section(last.heading, (*last.blocks, hint))]


def _shown_verdicts(counts: Iterable[Counter[str]]) -> list[str]:
    """Return PASS, FAIL, and every other verdict that was given."""
    total: Counter[str] = Counter()
    for counter in counts:
        total += counter
    return [verdict for verdict in VERDICTS if verdict in ("PASS", "FAIL") or total[verdict]]


def _tally_table(tallies: Sequence[Tally], shown: Sequence[str]) -> Table:
    columns = [Column("table"), Column("title"), Column("track"), Column("cells", "right", "number")]
    columns += [Column(verdict, "right", "number") for verdict in shown]
    rows = []
    for tally in tallies:
        for excerpt, counts in zip(tally.table.excerpts, tally.counts, strict=True):
            verdicts = [str(counts[verdict]) for verdict in shown]
            if tally.refusal:
                verdicts = ["-"] * len(shown)
            rows.append([tally.table.id, excerpt.title, excerpt.track or "-", str(excerpt.cells), *verdicts])
    return Table(columns, rows)


def _numbered(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return the reasons of missing measurements, numbered in the order of the cells."""
    numbers: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.reason:
            numbers.setdefault(_reason(outcome), len(numbers) + 1)
    return numbers


def _reason(outcome: Outcome) -> str:
    return f"{outcome.verdict}: {outcome.reason}"


def _measured(excerpt: Excerpt, outcomes: Sequence[Outcome]) -> Table:
    """Return a row for each measured cell."""
    measured = [outcome for outcome in outcomes if outcome.line]
    letters: dict[str, str] = {}  # by name
    for outcome in measured:
        letters.setdefault(outcome.name, string.ascii_letters[len(letters) % 52])
    columns = [
        Column(""),
        Column("model"),
        Column(""),
        Column("published", "right", "measure"),
        Column("measured", "right", "measure"),
        Column("beats", "right", "marks"),
        Column("delta", "right", "measure"),
        Column("interval", "right", "measure"),
        Column("verdict"),
        Column("seeds", "right", "number"),
        Column("queries", "right", "number"),
        Column("note"),
    ]
    table = Table(columns, [_measured_row(excerpt, outcome, letters) for outcome in measured])
    if any(outcome.beats for outcome in measured):
        return table
    return table.without("marks")


def _measured_row(excerpt: Excerpt, outcome: Outcome, letters: Mapping[str, str]) -> list[str]:
    return [
        letters[outcome.name],
        outcome.name,
        column_headers(excerpt)[outcome.cell.column],
        _number(excerpt, outcome.cell.published),
        spread(outcome.measured, outcome.deviation),
        "".join(letters[name] for name in outcome.beats),
        format_number(outcome.delta, "+.4f"),
        f"± {outcome.interval.half_width:.4f}" if outcome.interval else "-",
        outcome.verdict,
        format_number(outcome.seeds, "d"),
        format_number(outcome.queries, "d"),
        outcome.recipe_difference,
    ]


def _published(excerpt: Excerpt, outcomes: Sequence[Outcome], numbers: Mapping[str, int]) -> list[Table]:
    """Return a row for each model, in as many tables as it takes for a terminal to hold the columns."""
    headers = column_headers(excerpt)
    tables = []
    for block in _column_blocks(excerpt, headers):
        columns = [Column("model"), *(Column(headers[column], "right", "measure") for column in block)]
        columns += [Column("verdict"), Column("why")]
        rows = []
        for system in excerpt.systems:
            cells: dict[ClaimedColumn, list[Outcome]] = {column: [] for column in block}
            for outcome in outcomes:
                if outcome.system.model == system.model and outcome.cell.column in cells:
                    cells[outcome.cell.column].append(outcome)
            rows.append(_published_row(excerpt, system.model, cells, numbers))
        tables.append(Table(columns, rows))
    return tables


def _column_blocks(excerpt: Excerpt, headers: Mapping[ClaimedColumn, str]) -> list[list[ClaimedColumn]]:
    """Cut the columns into blocks that fit beside the models."""
    available = width_for(WIDTH) - max(len(system.model) for system in excerpt.systems) - 18
    blocks: list[list[ClaimedColumn]] = [[]]
    used = 0
    for column in excerpt.columns:
        width = max(len(headers[column]), 6) + 1
        if blocks[-1] and used + width > available:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += width
    return blocks


def _published_row(
    excerpt: Excerpt, model: str, cells: Mapping[ClaimedColumn, Sequence[Outcome]], numbers: Mapping[str, int]
) -> list[str]:
    """Return the numbers of one model, its verdicts, and the numbers of its reasons."""
    values = []
    reasons: dict[str, None] = {}
    outcomes: list[Outcome] = []
    for column_outcomes in cells.values():
        outcome = column_outcomes[-1]
        correction = "" if outcome.cell.printed is None else "*"
        values.append(_number(excerpt, outcome.cell.published) + correction)
        if outcome.reason:
            reasons[f"[{numbers[_reason(outcome)]}]"] = None
        outcomes += column_outcomes
    return [model, *values, _verdicts(outcomes), " ".join(reasons)]


def _verdicts(outcomes: Sequence[Outcome]) -> str:
    """Return the verdict that all cells share, or the number of cells with each."""
    counts = count_verdicts(outcomes)
    if len(counts) == 1:
        return outcomes[0].verdict
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


def _number(excerpt: Excerpt, value: float | None) -> str:
    return format_number(value, ".4f" if excerpt.fractions else "g")


def _means(means: Sequence[DerivedMean]) -> list[Block]:
    if not means:
        return []
    columns = [
        Column("model"),
        Column(f"mean of {PUBLIC_SETS} cells", "right", "measure"),
        Column("measured", "right", "measure"),
    ]
    rows = []
    for mean in means:
        rows.append([mean.model, format_number(mean.published, ".4f"), format_number(mean.measured, ".4f")])
    sentence = f"The paper does not print the mean of its {PUBLIC_SETS} cells of public sets. The mean has no verdict."
    return [sentence, Table(columns, rows)]
