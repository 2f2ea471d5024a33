"""
The verdict on each published number.

PASS       within the tolerance of what is published
PASS (+)   above it by more than the tolerance: no plain pass, for a leak or another split looks like this
FAIL       below it by more than the tolerance
NOT RUN    nothing here has measured it, for the reason given
N/A        nothing here can be held against it, for the reason given
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from retrobench.leaderboard.claims import Cell, ClaimedTable, Part, System
from retrobench.leaderboard.comparison import Line, lines, tests
from retrobench.leaderboard.reproduce.matching import Offer, difference, matching
from retrobench.leaderboard.rows import Row

__all__ = ["VERDICTS", "Judged", "Tally", "Tolerance", "judge", "kind"]

VERDICTS = ("PASS", "PASS (+)", "FAIL", "NOT RUN", "N/A")

INFERENCE = 5e-4
TRAINING = 5e-3
ROUNDING = 1e-9  # 0.3603 - 0.3553 is a little more than 0.005 in binary

TRAINED = ("pretrain", "adapt", "finetune", "distil")


@dataclass(frozen=True)
class Tolerance:
    """How far from the published number a measured one may be, and why so far."""

    value: float
    reason: str


@dataclass(frozen=True)
class Judged:
    """One published number with what was measured of it, if anything was."""

    part: Part
    system: System
    cell: Cell
    verdict: str
    reason: str = ""
    line: Line | None = None
    tolerance: Tolerance | None = None
    beats: tuple[str, ...] = ()  # what it beats significantly, by name
    over: int = 0  # how many queries that was tested over

    @property
    def name(self) -> str:
        """The model, and the checkpoint that stands in for its pre-training."""
        checkpoint = self.line.rows[0].checkpoint if self.line else None
        return f"{self.system.model} ({checkpoint})" if checkpoint else self.system.model

    @property
    def measured(self) -> float | None:
        """The mean over seeds."""
        return self.line.mean(self.cell.column.dataset, self.cell.column.measure) if self.line else None

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over seeds."""
        return self.line.deviation(self.cell.column.dataset, self.cell.column.measure) if self.line else None

    @property
    def delta(self) -> float | None:
        """Measured minus published."""
        if self.measured is None or self.cell.published is None:
            return None
        return self.measured - self.cell.published

    @property
    def queries(self) -> int | None:
        """How many queries the measured mean is over, where the row says it."""
        facts = self.line.rows[0].facts.get(self.cell.column.dataset, {}) if self.line else {}
        found: int | None = facts.get("queries")
        return found

    @property
    def unlike(self) -> str:
        """How the rows' recipe is not the system's, or fills in what that leaves open."""
        return difference(self.part, self.system, self.line.rows[0]) if self.line else ""

    @property
    def note(self) -> str:
        """The same, and what is known of the cell."""
        return "; ".join(word for word in (self.unlike, self.system.note, self.cell.note) if word)


class Tally(NamedTuple):
    """A claimed table and how many of its cells have each verdict."""

    table: ClaimedTable
    counts: tuple[Counter[str], ...]  # by part
    refused: str = ""  # why its rows were refused


def judge(part: Part, offer: Offer) -> list[Judged]:
    """Each published number of a part, in the paper's order. What was measured by unlike recipes stands apart."""
    found = []
    for system in part.systems:
        measured = _lines(matching(part, system, offer))
        for cell in system.cells:
            column = (cell.column.dataset, cell.column.measure)
            having: list[Line | None] = [line for line in measured if line.mean(*column) is not None]
            found += [_judged(part, system, cell, line) for line in having or [None]]
            if measured and not having and found[-1].verdict == "NOT RUN":
                found[-1] = replace(found[-1], reason=f"the rows have no {cell.column.measure} on {column[0]}")
    return _tested(found, offer)


def kind(line: Line) -> str:
    """What a measurement is to the paper's, in the words of ACM's policy on badging, version 1.1."""
    row = line.rows[0]
    if row.checkpoint is None:
        return "replication: trained by this project's own code"
    if trained(row):
        return f"reproduction: {row.checkpoint}, which the authors released, fine-tuned here"
    return f"reproduction of inference: {row.checkpoint}, as released"


def trained(row: Row) -> bool:
    """Whether anything was trained for a row."""
    return any(stage.split(" ")[0] in TRAINED for stage in row.artifacts)


def _lines(rows: Sequence[Row]) -> list[Line]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.identity, []).append(row)
    return [line for group in groups.values() for line in lines(group)]


def _judged(part: Part, system: System, cell: Cell, line: Line | None) -> Judged:
    known = part.datasets.get(cell.column.dataset)
    absent = cell.reason or (known.reason if known else "")
    if absent:
        return Judged(part, system, cell, "N/A", absent, line)
    if line is None:
        return Judged(part, system, cell, "NOT RUN", part.reason or system.reason or _unrun(part, system))
    tolerance = _tolerance(line, cell)
    judged = Judged(part, system, cell, "PASS", line=line, tolerance=tolerance)
    delta = judged.delta or 0.0
    if delta < -tolerance.value - ROUNDING:
        return replace(judged, verdict="FAIL")
    return replace(judged, verdict="PASS (+)") if delta > tolerance.value + ROUNDING else judged


def _unrun(part: Part, system: System) -> str:
    return f"no row of {system.entrant} by this recipe on track {part.track}"


def _tolerance(line: Line, cell: Cell) -> Tolerance:
    if not trained(line.rows[0]):
        return Tolerance(INFERENCE, "inference: nothing is drawn at random, only precision and rounding differ")
    spread = line.deviation(cell.column.dataset, cell.column.measure)
    if spread is None:
        return Tolerance(TRAINING, "training, one seed: 0.005, its spread over seeds unknown")
    reason = f"training: the larger of 0.005 and twice the deviation over {len(line.rows)} seeds"
    return Tolerance(max(TRAINING, 2 * spread), reason)


def _tested(found: list[Judged], offer: Offer) -> list[Judged]:
    """Beside each measured number the models that it beats, in its column."""
    load = offer.load
    for column in dict.fromkeys(each.cell.column for each in found) if load else ():
        assert load is not None
        places: list[int] = []  # a model that stands in several lines, as the default of ablations does, counts once
        measured: list[Line] = []
        for place, each in enumerate(found):
            if each.cell.column == column and each.line and each.line not in measured:
                places.append(place)
                measured.append(each.line)
        pairs, queries = tests(measured, (column.dataset, column.measure), load)
        for place in places if pairs else ():
            found[place] = replace(found[place], over=queries)
        for pair in pairs:
            winner = pair.winner()
            if winner is not None:
                won, lost = found[places[winner]], found[places[pair.first + pair.second - winner]]
                found[places[winner]] = replace(won, beats=(*won.beats, lost.name))
    return found
