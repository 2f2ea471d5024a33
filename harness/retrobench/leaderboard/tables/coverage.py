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
from retrobench.leaderboard.comparison import Board, Expectation
from retrobench.leaderboard.rows import ABOVE, LESS, PRIOR, STATES, CoverageRecord, read_coverage
from retrobench.leaderboard.tables.cells import Block, Section
from retrobench.leaderboard.tables.formatting import format_interval, format_number, signed
from retrobench.leaderboard.tables.rendering import lay_out
from retrobench.scoring import CUTOFFS

__all__ = ["FAIR", "coverage_records", "coverage_sections", "coverage_text"]

FAIR = "base's head"  # no objective trained it for [CLS]
FEWEST_LINES = 5  # entrants of a correlation
GROUPS = ("content", "stop word", "punctuation", "piece", "IDF 1", "IDF 2", "IDF 3", "IDF 4")

Lines = Mapping[str, Sequence[CoverageRecord]]  # entrant -> the records of its seeds


def coverage_text(records: Sequence[CoverageRecord]) -> str:
    """Return records as text for a terminal."""
    return lay_out([Section("Term coverage", tuple(_blocks(records)))], "text")


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
    blocks = _blocks(records)
    for lines in _by_dataset(records):
        blocks += [_verdict(expected, lines) for expected in board.declared.coverage]
        if len(lines) >= FEWEST_LINES:
            blocks.append(_correlation(board, lines))
    return [Section("Term coverage", tuple(blocks))]


def _by_dataset(records: Sequence[CoverageRecord]) -> list[Lines]:
    """Return the records of each dataset and kind of texts, by entrant."""
    groups: dict[tuple[str, str], dict[str, list[CoverageRecord]]] = {}
    for record in records:
        lines = groups.setdefault((record.dataset, record.kind), {})
        lines.setdefault(record.line, []).append(record)
    return list(groups.values())


def _blocks(records: Sequence[CoverageRecord]) -> list[Block]:
    """Return the tables of records, those of one dataset and kind together."""
    blocks: list[Block] = []
    for lines in _by_dataset(records):
        blocks += _dataset_blocks(lines)
    return blocks


def _dataset_blocks(lines: Lines) -> Iterator[Block]:
    records = [record for members in lines.values() for record in members]
    first = records[0]
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
    means = _means(records, state, projection, measure)
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
        rows.append(["the most possible", *(format_number(ceilings.get(measure), ".4f") for measure in measures)])
    return Table(columns, rows)


def _correlation(board: Board, lines: Lines) -> str:
    """Return a sentence: whether entrants with higher coverage retrieve better."""
    from scipy.stats import spearmanr

    scores = {row.id: next(iter(next(iter(row.measures.values())).values())) for row in board.rows}
    measured = [fmean(scores[record.row] for record in records) for records in lines.values()]
    parts = []
    for projection in _projections(STATES[0], lines):
        means = [_mean(records, STATES[0], projection, ABOVE) or 0.0 for records in lines.values()]
        parts.append(f"{projection} {spearmanr(means, measured).statistic:+.2f}")
    first = next(iter(lines.values()))[0]
    return (
        f"Spearman's correlation of coverage above shuffled before fine-tuning ({first.dataset}, {first.kind}) with "
        f"the main measure of the track, over {len(lines)} entrants: {', '.join(parts)}."
    )


def _means(records: Sequence[CoverageRecord], state: str, projection: str, measure: str) -> list[float]:
    """Return the mean of each record that has the measure."""
    means = [record.mean(state, projection, measure) for record in records]
    return [mean for mean in means if mean is not None]


def _mean(records: Sequence[CoverageRecord], state: str, projection: str, measure: str) -> float | None:
    """Return the mean over the records that have the measure; None without any."""
    means = _means(records, state, projection, measure)
    return fmean(means) if means else None


def _verdict(expected: Expectation, lines: Lines) -> str:
    """Return a sentence about a claim: the seeds' differences in coverage above shuffled, under every projection."""
    better = {record.seed: record for record in lines.get(expected.better, ())}
    worse = {record.seed: record for record in lines.get(expected.worse, ())}
    seeds = better.keys() & worse.keys()
    intro = f"{expected.claim} ({expected.paper})."
    if not seeds:
        return f"{intro} Not measured here."
    parts = []
    for projection in _projections(STATES[0], lines):
        first = _means([better[seed] for seed in seeds], STATES[0], projection, ABOVE)
        second = _means([worse[seed] for seed in seeds], STATES[0], projection, ABOVE)
        differences = [high - low for high, low in zip(first, second, strict=False)]
        if differences:
            interval = format_interval([min(differences), max(differences)])
            parts.append(f"{projection} {signed(fmean(differences))} {interval}")
    return (
        f"{intro} Here {expected.better} - {expected.worse}, in coverage above shuffled before fine-tuning, over "
        f"{len(seeds)} seeds: {'; '.join(parts)}."
    )
