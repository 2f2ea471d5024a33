"""
The verdict on each published number.

PASS       within the tolerance of the published number
PASS (+)   above it by more than the tolerance; set apart, since a leak or another split looks like this
FAIL       below it by more than the tolerance
NOT RUN    no row here measures it, for the reason given
N/A        no row here can be compared with it, for the reason given
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from retrobench.leaderboard.claims import Cell, ClaimedTable, Excerpt, System
from retrobench.leaderboard.comparison import compare_pairs, opponent
from retrobench.leaderboard.evidence import Load
from retrobench.leaderboard.lines import Line, group_lines
from retrobench.leaderboard.reproduce.matching import RowFile, difference, rows_of
from retrobench.leaderboard.rows import Row

__all__ = ["VERDICTS", "JudgedExcerpt", "Outcome", "Tally", "Tolerance", "count_verdicts", "describe_kind", "judge"]

VERDICTS = ("PASS", "PASS (+)", "FAIL", "NOT RUN", "N/A")

INFERENCE = 5e-4
TRAINING = 5e-3
ROUNDING = 1e-9  # 0.3603 - 0.3553 is a little more than 0.005 in binary

TRAINING_STAGES = ("pretrain", "adapt", "finetune", "distil")


@dataclass(frozen=True)
class Tolerance:
    """The largest difference from the published number that passes, and its reason."""

    value: float
    reason: str


@dataclass(frozen=True)
class Outcome:
    """One published number with its verdict, and the line that measured it, if any did."""

    excerpt: Excerpt
    system: System
    cell: Cell
    verdict: str
    reason: str = ""
    line: Line | None = None
    tolerance: Tolerance | None = None
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
    def recipe_difference(self) -> str:
        """Return how the rows' recipe differs from the system's, or fills in its free keys."""
        if self.line is None:
            return ""
        return difference(self.excerpt, self.system, self.line.rows[0])

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
        lines = _lines(rows_of(excerpt, system, file))
        for cell in system.cells:
            outcomes += _judge_cell(excerpt, system, cell, lines)
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


def _lines(rows: Sequence[Row]) -> list[Line]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.identity, []).append(row)
    lines = []
    for group in groups.values():
        lines += group_lines(group)
    return lines


def _judge_cell(excerpt: Excerpt, system: System, cell: Cell, lines: Sequence[Line]) -> list[Outcome]:
    """Return an outcome for each line that measures the cell, or one without a line."""
    column = cell.column
    measuring = [line for line in lines if line.mean(*column.key) is not None]
    claimed = excerpt.datasets.get(column.dataset)
    obstacle = cell.reason or (claimed.reason if claimed else "")
    if measuring:
        return [_judge_line(excerpt, system, cell, line, obstacle) for line in measuring]
    if obstacle:
        return [Outcome(excerpt, system, cell, "N/A", obstacle)]
    if lines:
        reason = f"the rows have no {column.measure} on {column.dataset}"
    else:
        missing = f"no row of {system.entrant} by this recipe on track {excerpt.track}"
        reason = excerpt.reason or system.reason or missing
    return [Outcome(excerpt, system, cell, "NOT RUN", reason)]


def _judge_line(excerpt: Excerpt, system: System, cell: Cell, line: Line, obstacle: str) -> Outcome:
    if obstacle:
        return Outcome(excerpt, system, cell, "N/A", obstacle, line)
    tolerance = _tolerance(line, cell)
    outcome = Outcome(excerpt, system, cell, "PASS", line=line, tolerance=tolerance)
    delta = outcome.delta or 0.0
    if delta < -tolerance.value - ROUNDING:
        return replace(outcome, verdict="FAIL")
    if delta > tolerance.value + ROUNDING:
        return replace(outcome, verdict="PASS (+)")
    return outcome


def _tolerance(line: Line, cell: Cell) -> Tolerance:
    if not _trained(line.rows[0]):
        return Tolerance(INFERENCE, "inference: nothing is drawn at random, only precision and rounding differ")
    deviation = line.deviation(*cell.column.key)
    if deviation is None:
        return Tolerance(TRAINING, "training, one seed: 0.005, its spread over seeds unknown")
    reason = f"training: the larger of 0.005 and twice the deviation over {len(line.rows)} seeds"
    return Tolerance(max(TRAINING, 2 * deviation), reason)


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
