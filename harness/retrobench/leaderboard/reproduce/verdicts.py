"""
The verdict on each published number.

PASS                 the interval over seeds lies within the tolerance of the published number
PASS (+)             the interval lies above it; set apart, since a leak or another split looks like this
FAIL                 the interval lies below it
TOO UNCERTAIN        the interval lies on both sides of a limit; the reason has the seeds that would do
WITHIN (one seed)    one seed, within the tolerance: no interval, so no PASS
OUTSIDE (one seed)   one seed, above or below
NOT RUN              no row here measures it, for the reason given
N/A                  no row here can be compared with it, for the reason given

Where nothing is drawn at random, as with an encoder evaluated as released, the value itself takes the interval's place.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from retrobench.leaderboard.claims import Cell, ClaimedTable, Excerpt, System
from retrobench.leaderboard.comparison import Line, compare_pairs, group_lines, opponent
from retrobench.leaderboard.reproduce.equivalence import Equivalence, Interval, compare, compare_fixed
from retrobench.leaderboard.reproduce.matching import RowFile, difference, distribution_key, nearest_miss, rows_of
from retrobench.leaderboard.rows import Load, Row

__all__ = ["VERDICTS", "JudgedExcerpt", "Outcome", "Tally", "Tolerance", "count_verdicts", "describe_kind", "judge"]

VERDICTS = (
    "PASS",
    "PASS (+)",
    "FAIL",
    "TOO UNCERTAIN",
    "WITHIN (one seed)",
    "OUTSIDE (one seed)",
    "NOT RUN",
    "N/A",
)

TRAINING_STAGES = ("pretrain", "adapt", "finetune", "distil")


@dataclass(frozen=True)
class Tolerance:
    """The largest difference from the published number that passes, and its reason."""

    value: float
    reason: str


INFERENCE = Tolerance(
    5e-4, "inference: 0.0005 to either side, since nothing is drawn at random: precision and rounding differ"
)
TRAINING = Tolerance(5e-3, "training: 0.005 to either side, and the whole interval over seeds has to lie within it")


@dataclass(frozen=True)
class Measured:
    """The line that measures a system, and how its recipe differs from the system's, in words."""

    line: Line
    difference: str


@dataclass(frozen=True)
class Outcome:
    """One published number with its verdict, and the line that measured it, if any did."""

    excerpt: Excerpt
    system: System
    cell: Cell
    verdict: str
    reason: str = ""
    line: Line | None = None
    recipe_difference: str = ""  # how the rows' recipe differs from the system's, or fills in its free keys
    tolerance: Tolerance | None = None
    interval: Interval | None = None  # of the mean over seeds
    seeds_needed: int | None = None  # of TOO UNCERTAIN
    beats: tuple[str, ...] = ()  # names of the models that it beats significantly
    tested_queries: int = 0  # of the test behind `beats`

    @property
    def name(self) -> str:
        """Return the model, and the checkpoint that replaced its pre-training."""
        if self.line is None or not self.line.rows[0].checkpoint:
            return self.system.model
        return f"{self.system.model} ({self.line.rows[0].checkpoint['name']})"

    @property
    def measured(self) -> float | None:
        """Return the mean over seeds."""
        if self.line is None:
            return None
        return self.line.mean(*self.cell.column.key)

    @property
    def deviation(self) -> float | None:
        """Return the sample standard deviation over seeds."""
        if self.line is None:
            return None
        return self.line.deviation(*self.cell.column.key)

    @property
    def delta(self) -> float | None:
        """Return measured minus published."""
        if self.measured is None or self.cell.published is None:
            return None
        return self.measured - self.cell.published

    @property
    def seeds(self) -> int | None:
        """Return the number of rows, one for each seed, behind the measured mean."""
        if self.line is None:
            return None
        return len(self.line.rows)

    @property
    def queries(self) -> int | None:
        """Return the number of queries behind the measured mean, where the row has it."""
        if self.line is None:
            return None
        facts = self.line.rows[0].facts.get(self.cell.column.dataset, {})
        queries: int | None = facts.get("queries")
        return queries

    @property
    def note(self) -> str:
        """Return the recipe's difference, and the notes on the system and the cell."""
        notes = (self.recipe_difference, self.system.note, self.cell.note)
        return "; ".join(note for note in notes if note)


class JudgedExcerpt(NamedTuple):
    """An excerpt, and the outcomes of its published numbers in the paper's order."""

    excerpt: Excerpt
    outcomes: list[Outcome]


class Tally(NamedTuple):
    """A claimed table and the number of its cells with each verdict."""

    table: ClaimedTable
    counts: tuple[Counter[str], ...]  # by excerpt
    refusal: str = ""  # why its rows were refused


def judge(excerpt: Excerpt, file: RowFile) -> JudgedExcerpt:
    """Return the outcome of each published number. Lines of different recipes have an outcome each."""
    outcomes: list[Outcome] = []
    for system in excerpt.systems:
        lines = _lines(excerpt, system, file)
        near = "" if lines else nearest_miss(excerpt, system, file)
        for cell in system.cells:
            outcomes += _judge_cell(excerpt, system, cell, lines, near)
    if file.load:
        _test_differences(outcomes, file.load)
    return JudgedExcerpt(excerpt, outcomes)


def describe_kind(line: Line) -> str:
    """Return how a measurement relates to the paper's, in the words of ACM's policy on badging, version 1.1."""
    row = line.rows[0]
    if row.checkpoint is None:
        return "replication: trained by this project's own code"
    if _trained(row):
        return f"reproduction: {row.checkpoint['name']}, released by the authors and fine-tuned here"
    return f"reproduction of inference: {row.checkpoint['name']}, as released"


def _trained(row: Row) -> bool:
    """Return whether a row's encoder was trained here."""
    return any(stage.split(" ")[0] in TRAINING_STAGES for stage in row.artifacts)


def _lines(excerpt: Excerpt, system: System, file: RowFile) -> list[Measured]:
    """Return the lines that measure a system. Rows of other draws from one distribution share a line."""
    groups: dict[str, list[Row]] = {}
    for row in rows_of(excerpt, system, file):
        groups.setdefault(distribution_key(row, excerpt, file), []).append(row)
    lines = []
    for group in groups.values():
        for line in group_lines(group):
            lines.append(Measured(line, difference(excerpt, system, line.rows, file)))
    return lines


def _judge_cell(excerpt: Excerpt, system: System, cell: Cell, lines: Sequence[Measured], near: str) -> list[Outcome]:
    """Return an outcome for each line that measures the cell, or one without a line."""
    column = cell.column
    measuring = [measured for measured in lines if measured.line.mean(*column.key) is not None]
    claimed = excerpt.datasets.get(column.dataset)
    obstacle = cell.reason or (claimed.reason if claimed else "")
    if measuring:
        return [_judge_line(excerpt, system, cell, measured, obstacle) for measured in measuring]
    if obstacle:
        return [Outcome(excerpt, system, cell, "N/A", obstacle)]
    if lines:
        reason = f"the rows have no {column.measure} on {column.dataset}"
    else:
        missing = f"no row of {system.entrant} by this recipe on track {excerpt.track}"
        if near:
            missing += f"; {near}"
        reason = excerpt.reason or system.reason or missing
    return [Outcome(excerpt, system, cell, "NOT RUN", reason)]


def _judge_line(excerpt: Excerpt, system: System, cell: Cell, measured: Measured, obstacle: str) -> Outcome:
    line = measured.line
    outcome = Outcome(excerpt, system, cell, "N/A", obstacle, line, measured.difference)
    if obstacle or cell.published is None:
        return outcome
    tolerance = TRAINING if _trained(line.rows[0]) else INFERENCE
    result = _compare(line, cell, cell.published, tolerance)
    return replace(
        outcome,
        verdict=result.verdict,
        reason=result.reason,
        tolerance=tolerance,
        interval=result.interval,
        seeds_needed=result.seeds_needed,
    )


def _compare(line: Line, cell: Cell, published: float, tolerance: Tolerance) -> Equivalence:
    values = line.values(*cell.column.key)
    if tolerance is INFERENCE:
        return compare_fixed(statistics.fmean(values), published, tolerance.value)
    return compare(values, published, tolerance.value)


def _test_differences(outcomes: list[Outcome], load: Load) -> None:
    """Add the models that each measured number beats in its column."""
    for column in dict.fromkeys(outcome.cell.column for outcome in outcomes):
        positions: list[int] = []
        lines: list[Line] = []
        for position, outcome in enumerate(outcomes):
            # A model may stand in several lines of a table, as the default of ablations does. It counts once.
            if outcome.cell.column == column and outcome.line and outcome.line not in lines:
                positions.append(position)
                lines.append(outcome.line)
        test = compare_pairs(lines, column.key, load)
        if not test.pairs:
            continue
        for position in positions:
            outcomes[position] = replace(outcomes[position], tested_queries=test.queries)
        for pair in test.pairs:
            winner = pair.winner()
            if winner is None:
                continue
            loser = outcomes[positions[opponent(pair, winner)]]
            better = outcomes[positions[winner]]
            outcomes[positions[winner]] = replace(better, beats=(*better.beats, loser.name))


def count_verdicts(outcomes: Iterable[Outcome]) -> Counter[str]:
    """Return the number of outcomes with each verdict."""
    return Counter(outcome.verdict for outcome in outcomes)
