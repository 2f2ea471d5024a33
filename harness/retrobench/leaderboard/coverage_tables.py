"""
Tables and sentences about term coverage.

* coverage_text       records as text
* coverage_sections   the records of a board's rows as a section of a page
* coverage_records    the records of a board's rows
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from retrobench.core import Column, Table
from retrobench.leaderboard.board import Board
from retrobench.leaderboard.cells import Block, Section
from retrobench.leaderboard.declared import Expectation
from retrobench.leaderboard.formatting import format_interval, format_number, signed
from retrobench.leaderboard.tables import lay_out
from retrobench.leaderboard.term_coverage import ABOVE, LESS, PRIOR, STATES, CoverageRecord, read_coverage
from retrobench.scoring import CUTOFFS

__all__ = ["FAIR", "coverage_records", "coverage_sections", "coverage_text"]

FAIR = "base's head"  # no objective trained it for [CLS]
FEWEST_LINES = 5  # entrants of a correlation
GROUPS = ("content", "stop word", "punctuation", "piece", "IDF 1", "IDF 2", "IDF 3", "IDF 4")

Lines = Mapping[str, Sequence[CoverageRecord]]  # entrant -> the records of its seeds


def coverage_text(records: Sequence[CoverageRecord]) -> str:
    """Return records as text for a terminal."""
    return lay_out([Section("Term coverage", tuple(_blocks(records, ())))], "text")


def coverage_records(board: Board) -> list[CoverageRecord]:
    """Return the records of a board's rows, in the order of the rows."""
    records: dict[str, list[CoverageRecord]] = {}
    for folder in dict.fromkeys(board.folders.values()):
        for record in read_coverage(folder):
            records.setdefault(record.row, []).append(record)
    ordered: list[CoverageRecord] = []
    for row in board.rows:
        ordered += records.get(row.id, [])
    return ordered


def coverage_sections(board: Board) -> list[Section]:
    """Return a section about the coverage of a board's rows; none where it was not measured."""
    records = coverage_records(board)
    if not records:
        return []
    blocks = [*_blocks(records, board.declared.coverage), *_correlations(board, records)]
    return [Section("Term coverage", tuple(blocks))]


def _blocks(records: Sequence[CoverageRecord], expectations: Sequence[Expectation]) -> list[Block]:
    """Return the tables of records, those of one dataset and kind together, and a sentence for each claim."""
    groups: dict[tuple[str, str], list[CoverageRecord]] = {}
    for record in records:
        groups.setdefault((record.dataset, record.kind), []).append(record)
    blocks: list[Block] = []
    for members in groups.values():
        blocks += _dataset_blocks(members)
        blocks += [_verdict(expected, members) for expected in expectations]
    return blocks


def _dataset_blocks(records: Sequence[CoverageRecord]) -> Iterator[Block]:
    first = records[0]
    lines: dict[str, list[CoverageRecord]] = {}
    for record in records:
        lines.setdefault(record.line, []).append(record)
    yield (
        f"{first.dataset}, {first.texts:,} texts ({first.kind}) of {first.words:.0f} distinct words on average, cut to "
        f"{first.max_length} tokens. R-coverage is the share of a text's R distinct words among the R words that its "
        "vector, projected to the vocabulary, ranks first. Shuffled is that of another text's words, and random that "
        f"of a random vector's words; the differences are the effect. Chance is {first.chance:.4f}. {_about(lines)}"
    )
    for state in STATES:
        if any(state in record.measures for record in records):
            yield _coverage_table(state, lines)
    state = next(iter(first.measures))
    projection = FAIR if FAIR in first.measures[state] else next(iter(first.measures[state]))
    yield (
        f"R-coverage by class of words and by quartile of IDF (1 has the commonest words), and coverage at N words, "
        f"which the texts' lengths limit: {state}, {projection}."
    )
    yield _detail_table(state, projection, lines, GROUPS)
    yield _detail_table(state, projection, lines, [f"coverage@{cutoff}" for cutoff in CUTOFFS])


def _about(lines: Lines) -> str:
    if all(len(records) == 1 for records in lines.values()):
        return "Intervals are 95 % bootstrap intervals over texts."
    return "Numbers are means over seeds, and brackets hold the smallest and the largest of a seed."


def _coverage_table(state: str, lines: Lines) -> Table:
    """Return a row for each projection and line; the largest effect first within a projection."""
    has_control = any(record.control for records in lines.values() for record in records)
    columns = [Column(f"{state}: projection"), Column("entrant"), Column("seeds", "right", "number")]
    columns += [Column(name, "right", "measure") for name in ("R-coverage", ABOVE)]
    columns.append(Column("interval", "right", "measure"))
    if has_control:
        columns += [Column(name, "right", "measure") for name in (LESS, f"{LESS}: interval")]
    columns += [Column(name, "right", "number") for name in ("shuffled", "random")]
    rows: list[list[str]] = []
    for projection in _projections(state, lines):
        shown = [name for name in lines if _mean(lines[name], state, projection, ABOVE) is not None]
        shown.sort(key=lambda name: -(_mean(lines[name], state, projection, ABOVE) or 0.0))
        for name in shown:
            records = lines[name]
            row = [projection, name, str(len(records))]
            row.append(format_number(_mean(records, state, projection, "R-coverage"), ".4f"))
            row += _effect(records, state, projection, ABOVE)
            if has_control:
                row += _effect(records, state, projection, LESS)
            row += [format_number(_mean(records, state, projection, name), ".4f") for name in ("shuffled", "random")]
            rows.append(row)
    prior = _mean(next(iter(lines.values())), state, PRIOR, "R-coverage")
    rows.append([PRIOR, "", "", format_number(prior, ".4f"), *[""] * (len(columns) - 4)])
    return Table(columns, rows)


def _projections(state: str, lines: Lines) -> Iterable[str]:
    names: dict[str, None] = {}
    for records in lines.values():
        for record in records:
            names |= dict.fromkeys(record.measures.get(state, {}))
    return [name for name in names if name != PRIOR]


def _effect(records: Sequence[CoverageRecord], state: str, projection: str, measure: str) -> list[str]:
    """Return a difference and its interval: over texts for one record, the seeds' range for several."""
    means = [mean for mean in (record.mean(state, projection, measure) for record in records) if mean is not None]
    if not means:
        return ["-", "-"]
    interval = [min(means), max(means)]
    if len(records) == 1:
        value = records[0].measures[state][projection][measure]
        interval = [value["low"], value["high"]]
    return [signed(fmean(means)), format_interval(interval)]


def _detail_table(state: str, projection: str, lines: Lines, measures: Sequence[str]) -> Table:
    columns = [Column("entrant"), *(Column(measure, "right", "measure") for measure in measures)]
    rows = []
    for name, records in lines.items():
        values = [_mean(records, state, projection, measure) for measure in measures]
        rows.append([name, *(format_number(value, ".4f") for value in values)])
    prior = next(iter(lines.values()))
    values = [_mean(prior, state, PRIOR, measure) for measure in measures]
    rows.append([PRIOR, *(format_number(value, ".4f") for value in values)])
    ceilings = prior[0].ceilings
    if measures[0] in ceilings:
        rows.append(["the most possible", *(f"{ceilings[measure]:.4f}" for measure in measures)])
    return Table(columns, rows)


def _correlations(board: Board, records: Sequence[CoverageRecord]) -> Iterator[str]:
    """Yield a sentence for each dataset: whether entrants with higher coverage retrieve better."""
    from scipy.stats import spearmanr

    scores = {row.id: next(iter(next(iter(row.measures.values())).values())) for row in board.rows}
    groups: dict[tuple[str, str], dict[str, list[CoverageRecord]]] = {}
    for record in records:
        groups.setdefault((record.dataset, record.kind), {}).setdefault(record.line, []).append(record)
    for (dataset, kind), lines in groups.items():
        if len(lines) < FEWEST_LINES:
            continue
        measured = [fmean(scores[record.row] for record in members) for members in lines.values()]
        parts = []
        for projection in _projections(STATES[0], lines):
            means = [_mean(members, STATES[0], projection, ABOVE) or 0.0 for members in lines.values()]
            parts.append(f"{projection} {spearmanr(means, measured).statistic:+.2f}")
        yield (
            f"Spearman's correlation of coverage above shuffled before fine-tuning ({dataset}, {kind}) with the main "
            f"measure of the track, over {len(lines)} entrants: {', '.join(parts)}."
        )


def _mean(records: Sequence[CoverageRecord], state: str, projection: str, measure: str) -> float | None:
    """Return the mean over the records that have the measure; None without any."""
    means = [mean for mean in (record.mean(state, projection, measure) for record in records) if mean is not None]
    return fmean(means) if means else None


def _verdict(expected: Expectation, records: Sequence[CoverageRecord]) -> str:
    """Return a sentence about a claim: the seeds' differences in coverage above shuffled, under every projection."""
    better = {record.seed: record for record in records if record.line == expected.better}
    worse = {record.seed: record for record in records if record.line == expected.worse}
    parts = []
    state = STATES[0]
    for projection in _projections(state, {"": list(better.values())}):
        differences = []
        for seed, record in better.items():
            other = worse.get(seed)
            if other is None:
                continue
            first, second = record.mean(state, projection, ABOVE), other.mean(state, projection, ABOVE)
            if first is not None and second is not None:
                differences.append(first - second)
        if differences:
            interval = format_interval([min(differences), max(differences)])
            parts.append(f"{projection} {signed(fmean(differences))} {interval}")
    intro = f"{expected.claim} ({expected.paper})."
    if not parts:
        return f"{intro} Not measured here."
    seeds = len(better.keys() & worse.keys())
    return (
        f"{intro} Here {expected.better} - {expected.worse}, in coverage above shuffled before fine-tuning, over "
        f"{seeds} seeds: {'; '.join(parts)}."
    )
