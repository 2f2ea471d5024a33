"""
The rows of one track identity: lines in order of the main measure, with a Pair for every two of them.

* Comparison       lines, their columns, and the tests of their differences
* DatasetMeasure   a column
* opponent         the other line of a pair
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from retrobench.leaderboard.comparison.lines import Line, format_override
from retrobench.leaderboard.rows import Row, full_entrant
from retrobench.scoring import Pair, PairwiseTest

__all__ = ["Comparison", "DatasetMeasure", "opponent"]

DatasetMeasure = tuple[str, str]


@dataclass(frozen=True)
class Comparison:
    """The rows of one track identity. `columns` are (dataset, measure), the main one first."""

    rows: tuple[Row, ...]  # as appended
    columns: tuple[DatasetMeasure, ...]
    lines: tuple[Line, ...]
    # A line of the entrant named, or else of BASELINES: read as most lines are, and the best of such lines.
    baseline: int | None
    test: PairwiseTest = field(default_factory=PairwiseTest)
    tested: DatasetMeasure | None = None  # the first column with values by query; a mean of datasets has none
    clustered_by: str | None = None  # what queries of a cluster share; None where each is a cluster of its own
    changed: Sequence[str] | None = None  # settings in which the track differs from its file; None where unknown
    content: Mapping[str, str] = field(default_factory=dict)  # in which this track differs from others of its identity
    transfer: tuple[str, ...] = ()  # datasets that the track tests where they are at hand
    beside: tuple[Comparison, ...] = ()  # the lines that have them, tested on the columns of transfer
    varied: str = ""  # the track's key in which the lines differ, where they are of several identities

    @property
    def own_columns(self) -> tuple[DatasetMeasure, ...]:
        """Return the columns of the datasets that are tested everywhere."""
        return tuple(column for column in self.columns if column[0] not in self.transfer)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Return a pair for every two lines."""
        return self.test.pairs

    @property
    def queries(self) -> int:
        """Return the number of queries tested."""
        return self.test.queries

    @property
    def heading(self) -> str:
        row = self.rows[0]
        changes = self.overrides
        if self.changed is not None:
            changes = ", ".join(self.changed)
        parts = [f"with {changes}" if changes else "as it is"]
        for name, digest in self.content.items():
            parts.append(f"{name} {digest[:8]}")
        return f"Track {row.track} {', '.join(parts)} (identity {row.identity[:8]})"

    @property
    def is_changed(self) -> bool:
        """Tell whether the track differs from its file."""
        return bool(self.overrides if self.changed is None else self.changed)

    @property
    def overrides(self) -> str:
        """Return the track's overrides, as they are typed after `--set`."""
        overrides = self.rows[0].overrides
        return ", ".join(format_override(key, overrides[key]) for key in sorted(overrides))

    @property
    def superseded(self) -> int:
        """Return the number of rows replaced by a later row of their entrant and seed."""
        return len(self.rows) - sum(len(line.rows) for line in self.lines)

    def letter(self, index: int) -> str:
        """Return the letter of a line: a to z, A to Z, a1 to z1 and so on."""
        cycle, position = divmod(index, len(string.ascii_letters))
        letter = string.ascii_letters[position]
        return f"{letter}{cycle}" if cycle else letter

    def name(self, index: int) -> str:
        """Return the entrant, with its representation or its varied setting where the table shows more than one."""
        line = self.lines[index]
        namesakes = [other for other in self.lines if other.entrant == line.entrant]
        differing = []
        if len({other.representation for other in namesakes}) > 1:
            differing.append(line.representation)
        if len({other.value for other in namesakes}) > 1:
            differing.append(f"{self.varied}={line.value}")
        return f"{line.entrant} ({', '.join(differing)})" if differing else line.entrant

    def find(self, name: str) -> int | None:
        """Return the line with a name. ENTRANT (REPRESENTATION) serves as well where the entrant alone is its name."""
        for index, line in enumerate(self.lines):
            if name in (self.name(index), full_entrant(line.entrant, line.representation)):
                return index
        return None

    def rival(self, index: int) -> int | None:
        """Return the baseline of a line: the baseline's entrant after the same round, where that was measured."""
        if self.baseline is None:
            return None
        baseline = self.lines[self.baseline].rows[0]
        likeness = baseline.entrant, baseline.representation, self.lines[index].rows[0].round
        for position, line in enumerate(self.lines):
            row = line.rows[0]
            if (row.entrant, row.representation, row.round) == likeness:
                return position
        return self.baseline

    def ranks(self, index: int) -> tuple[int, int]:
        """Return the first and the last rank of a line that the significant differences allow."""
        better = 0
        worse = 0
        for pair in self.pairs:
            winner = pair.winner()
            if winner == index:
                worse += 1
            elif winner is not None and index in (pair.first, pair.second):
                better += 1
        return 1 + better, len(self.lines) - worse

    def beaten(self, index: int) -> list[int]:
        """Return the lines that a line beats significantly."""
        lines = []
        for pair in self.pairs:
            if pair.winner() == index:
                lines.append(opponent(pair, index))
        return sorted(lines)

    def beaten_letters(self, index: int) -> str:
        """Return the letters of the lines that a line beats significantly."""
        return "".join(map(self.letter, self.beaten(index)))

    def against(self, rival: int) -> list[tuple[int, Pair]]:
        """Return every line but `rival` with its pair. The difference is the line minus `rival`."""
        pairs = []
        for pair in self.pairs:
            if pair.second == rival:
                pairs.append((pair.first, pair))
            elif pair.first == rival:
                pairs.append((pair.second, pair.turned()))
        return sorted(pairs, key=lambda entry: entry[0])

    def against_baseline(self) -> list[tuple[int, int, Pair]]:
        """Return line, baseline and pair for each tested line that is not its own baseline."""
        if not self.pairs:
            return []
        pairs = []
        for index in range(len(self.lines)):
            rival = self.rival(index)
            if rival is None or rival == index:
                continue
            pairs.append((index, rival, dict(self.against(rival))[index]))
        return pairs


def opponent(pair: Pair, index: int) -> int:
    """Return the line of a pair that is not line `index`."""
    return pair.second if pair.first == index else pair.first
