"""
Numbers of rows that may stand together: means and spreads over seeds, and paired tests between entrants.

* compare    rows -> one Table for each track identity
* Table      lines in order of the main measure, and a Pair for each two of them
* Line       one entrant with one representation, over its seeds
"""

from __future__ import annotations

import json
import statistics
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retrobench.errors import RetrobenchError
from retrobench.leaderboard import PerQuery, Row
from retrobench.significance import Pair, paired_tests

__all__ = ["Line", "Table", "compare"]


@dataclass(frozen=True)
class Line:
    """One entrant with one representation. Its rows differ in their seeds and share all settings."""

    entrant: str
    representation: str
    rows: tuple[Row, ...]

    @property
    def seeds(self) -> list[int]:
        return [row.seed for row in self.rows if row.seed is not None]

    def values(self, dataset: str, measure: str) -> list[float]:
        """The measure of each row that has it."""
        scored = [row.measures.get(dataset, {}) for row in self.rows]
        return [values[measure] for values in scored if measure in values]

    def mean(self, dataset: str, measure: str) -> float | None:
        values = self.values(dataset, measure)
        return statistics.fmean(values) if values else None

    def deviation(self, dataset: str, measure: str) -> float | None:
        """The sample standard deviation over seeds, None for fewer than two."""
        values = self.values(dataset, measure)
        return statistics.stdev(values) if len(values) > 1 else None

    def cost(self, name: str, stage: str | None = None) -> list[float]:
        """For each row that has it, the cost `name` of `stage`, or the sum over all stages."""
        stages = [[row.cost.get(stage, {})] if stage else list(row.cost.values()) for row in self.rows]
        known = [[cost[name] for cost in costs if name in cost] for costs in stages]
        return [sum(values) for values in known if values]

    def seconds(self, stage: str | None = None) -> float | None:
        values = self.cost("seconds", stage)
        return statistics.fmean(values) if values else None

    def speed(self) -> float | None:
        """Tokens per second of pre-training."""
        values = self.cost("tokens_per_second", "pretrain")
        return statistics.fmean(values) if values else None

    def peak_memory(self) -> float | None:
        """The most bytes that any stage of any row held."""
        costs = [cost for row in self.rows for cost in row.cost.values()]
        return max((cost["peak_memory_bytes"] for cost in costs if "peak_memory_bytes" in cost), default=None)


@dataclass(frozen=True)
class Table:
    """The rows of one track identity. `columns` are (dataset, measure), the main one first."""

    rows: tuple[Row, ...]  # as appended
    columns: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    baseline: int  # `bert` if it is there, else the line measured first
    pairs: tuple[Pair, ...] = ()
    queries: int = 0

    @property
    def heading(self) -> str:
        how = f"with {self.overrides}" if self.overrides else "as it is"
        return f"Track {self.rows[0].track} {how} (identity {self.rows[0].identity[:8]})"

    @property
    def overrides(self) -> str:
        """What `--set` changed in the track, as it would be typed."""
        return ", ".join(f"{key}={_shown(value)}" for key, value in sorted(self.rows[0].overrides.items()))

    @property
    def superseded(self) -> int:
        """How many rows gave way to a later one of the same entrant and seed."""
        return len(self.rows) - sum(len(line.rows) for line in self.lines)

    def letter(self, line: int) -> str:
        turn, place = divmod(line, len(string.ascii_letters))
        return string.ascii_letters[place] + (str(turn) if turn else "")

    def name(self, line: int) -> str:
        """The entrant, with its representation where the table holds the entrant with more than one."""
        entrant, representation = self.lines[line].entrant, self.lines[line].representation
        alone = sum(other.entrant == entrant for other in self.lines) == 1
        return entrant if alone else f"{entrant} ({representation})"

    def beaten(self, line: int) -> list[int]:
        """The lines that `line` beats significantly."""
        won = (pair for pair in self.pairs if pair.winner() == line)
        return sorted(pair.second if pair.first == line else pair.first for pair in won)

    def against(self, other: int) -> list[tuple[int, Pair]]:
        """Each other line with its pair with line `other`, the difference turned to be line minus `other`."""
        found = []
        for pair in self.pairs:
            if pair.second == other:
                found.append((pair.first, pair))
            elif pair.first == other:
                turned = replace(pair, first=pair.second, second=other, difference=-pair.difference)
                found.append((pair.second, turned))
        return sorted(found, key=lambda item: item[0])


def compare(rows: Sequence[Row], load: Callable[[Row], PerQuery] | None = None) -> list[Table]:
    """One table for each track identity: the track as it is first, and of two alike the later measured.

    `load` gives a row's per-query values; without it nothing is tested. Raises RetrobenchError where two
    rows of a table were not scored on the same queries.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.track, row.identity), []).append(row)
    order = sorted(groups.values(), key=lambda group: (bool(group[0].overrides), -rows.index(group[-1])))
    return [_table(group, load) for group in order]


def _table(rows: list[Row], load: Callable[[Row], PerQuery] | None) -> Table:
    columns = tuple(
        dict.fromkeys((data, name) for row in rows for data, named in row.measures.items() for name in named)
    )
    lines = _lines(rows)
    first = next((line for line in lines if line.rows[0].entrant == "bert"), lines[0])
    if columns:
        lines.sort(key=lambda line: (-(line.mean(*columns[0]) or 0.0), line.entrant, line.representation))
    table = Table(
        rows=tuple(rows),
        columns=columns,
        lines=tuple(lines),
        baseline=lines.index(first),
    )
    return _tested(table, load) if load and columns and len(lines) > 1 else table


def _lines(rows: Iterable[Row]) -> list[Line]:
    groups: dict[tuple[str, str, str], dict[int | None, Row]] = {}
    for row in rows:
        settings = json.dumps(_settings(row), sort_keys=True)
        groups.setdefault((row.entrant, row.representation, settings), {})[row.seed] = row
    named: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entrant, representation, settings in groups:
        named.setdefault((entrant, representation), []).append(json.loads(settings))
    return [
        Line(
            entrant + _difference(json.loads(settings), named[entrant, representation]),
            representation,
            tuple(seeds[seed] for seed in sorted(seeds, key=lambda seed: -1 if seed is None else seed)),
        )
        for (entrant, representation, settings), seeds in groups.items()
    ]


def _settings(row: Row) -> dict[str, Any]:
    return {"objective": row.objective, "checkpoint": row.checkpoint, **row.settings}


def _difference(settings: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> str:
    """What tells an entrant from others of the same name: the settings in which they differ."""
    names = sorted({name for other in alike for name in other if any(each.get(name) != other[name] for each in alike)})
    return f" ({', '.join(f'{name}={_shown(settings.get(name))}' for name in names)})" if names else ""


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _tested(table: Table, load: Callable[[Row], PerQuery]) -> Table:
    values = _values(table, load)
    return replace(table, pairs=paired_tests(values), queries=len(values[0][0]))


def _values(table: Table, load: Callable[[Row], PerQuery]) -> list[list[Mapping[str, float]]]:
    """The main measure by query id, for each row of each line; refused unless all have the same queries."""
    dataset, measure = table.columns[0]
    first, found = table.lines[0].rows[0], []
    for line in table.lines:
        found.append([load(row).get(dataset, {}).get(measure, {}) for row in line.rows])
        for row, values in zip(line.rows, found[-1], strict=True):
            unlike = sorted(values.keys() ^ found[0][0].keys())
            if unlike or not values:
                raise RetrobenchError(
                    f"{measure} on {dataset} cannot be compared: {_row_name(row)} has {len(values)} queries "
                    f"and {_row_name(first)} {len(found[0][0])}, differing in "
                    f"{', '.join(unlike[:3]) or 'none'}. Score both on the same queries."
                )
    return found


def _row_name(row: Row) -> str:
    return row.entrant if row.seed is None else f"{row.entrant} (seed {row.seed})"
