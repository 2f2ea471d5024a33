"""
Numbers of rows that may stand together: means and spreads over seeds, and paired tests between entrants.

* compare       rows -> one Comparison for each track identity
* Comparison    lines in order of the main measure, and a Pair for each two of them
* Line, lines   one entrant with one representation and round, over its seeds
* tests         a Pair for each two lines, on one dataset and measure
* alike         refuses rows of one dataset that were measured on different data
"""

from __future__ import annotations

import json
import statistics
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retrobench.leaderboard.rows import PerQuery, Row, UnlikeError
from retrobench.scoring import Pair, paired_tests

__all__ = ["Comparison", "DatasetMeasure", "Line", "Load", "alike", "compare", "lines", "override", "tests"]

Load = Callable[[Row], PerQuery]
DatasetMeasure = tuple[str, str]

# What makes a dataset's numbers numbers of the same thing, whatever was measured on it.
SAME = ("documents", "queries", "corpus", "qrels", "relevance_level")


@dataclass(frozen=True)
class Line:
    """One entrant with one representation, after one round. Its rows differ in their seeds and share all settings."""

    entrant: str  # as shown: with the round, where the track measures every one
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
class Comparison:
    """The rows of one track identity. `columns` are (dataset, measure), the main one first."""

    rows: tuple[Row, ...]  # as appended
    columns: tuple[DatasetMeasure, ...]
    lines: tuple[Line, ...]
    baseline: int  # `bert` if it is there, its best round, else the line measured first
    pairs: tuple[Pair, ...] = ()
    tested: DatasetMeasure | None = None  # the first column with a value for each query: a mean of datasets has none
    queries: int = 0

    @property
    def heading(self) -> str:
        how = f"with {self.overrides}" if self.overrides else "as it is"
        return f"Track {self.rows[0].track} {how} (identity {self.rows[0].identity[:8]})"

    @property
    def overrides(self) -> str:
        """What `--set` changed in the track, as it would be typed."""
        return ", ".join(override(key, value) for key, value in sorted(self.rows[0].overrides.items()))

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

    def rival(self, line: int) -> int:
        """The baseline of a line: `bert` after the same round, where that was measured."""
        baseline, round = self.lines[self.baseline].rows[0], self.lines[line].rows[0].round
        same = [
            place
            for place, other in enumerate(self.lines)
            if other.rows[0].entrant == baseline.entrant == "bert" and other.rows[0].round == round
        ]
        return same[0] if same else self.baseline

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


def compare(rows: Sequence[Row], load: Load | None = None) -> list[Comparison]:
    """Return a comparison for each track identity: the track as it is first, and of two alike the later measured.

    `load` gives a row's per-query values; without it nothing is tested. Raises UnlikeError where two rows of a
    table were not scored on the same documents, judgements or queries.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.track, row.identity), []).append(row)
    order = sorted(groups.values(), key=lambda group: (bool(group[0].overrides), -rows.index(group[-1])))
    return [_comparison(group, load) for group in order]


def alike(rows: Iterable[Row]) -> None:
    """Raise UnlikeError, naming both, if a dataset of two rows is not the same documents and judgements."""
    seen: dict[tuple[str, str], tuple[Any, Row]] = {}
    for row in rows:
        for dataset, facts in row.facts.items():
            for name in SAME:
                if name not in facts:
                    continue
                value, first = seen.setdefault((dataset, name), (facts[name], row))
                if value != facts[name]:
                    raise UnlikeError(
                        f"{_row_name(first)} of {first.date} and {_row_name(row)} of {row.date} cannot stand in one "
                        f"table: on {dataset} their {name} differ, {_brief(value)} and {_brief(facts[name])}. "
                        "Measure both on the same files."
                    )


def lines(rows: Iterable[Row]) -> list[Line]:
    """One line for each entrant, representation, round and settings; of two rows of one seed the later."""
    groups: dict[tuple[str, str, str], dict[int | None, Row]] = {}
    for row in rows:
        settings = json.dumps(_settings(row), sort_keys=True)
        shown = f"{row.entrant}, {row.round}" if row.round else row.entrant
        groups.setdefault((shown, row.representation, settings), {})[row.seed] = row
    named: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for shown, representation, settings in groups:
        named.setdefault((shown, representation), []).append(json.loads(settings))
    return [
        Line(
            shown + _difference(json.loads(settings), named[shown, representation]),
            representation,
            tuple(seeds[seed] for seed in sorted(seeds, key=lambda seed: -1 if seed is None else seed)),
        )
        for (shown, representation, settings), seeds in groups.items()
    ]


def tests(systems: Sequence[Line], column: DatasetMeasure, load: Load) -> tuple[tuple[Pair, ...], int]:
    """A Pair for each two lines, and over how many queries: none where no row has values by query for the column."""
    dataset, measure = column
    values = [[load(row).get(dataset, {}).get(measure, {}) for row in line.rows] for line in systems]
    if len(systems) < 2 or not any(of for each in values for of in each):
        return (), 0
    first = values[0][0]
    for line, each in zip(systems, values, strict=True):
        for row, of in zip(line.rows, each, strict=True):
            unlike = sorted(of.keys() ^ first.keys())
            if unlike or not of:
                raise UnlikeError(
                    f"{measure} on {dataset} cannot be compared: {_row_name(row)} has {len(of)} queries "
                    f"and {_row_name(systems[0].rows[0])} {len(first)}, differing in "
                    f"{', '.join(unlike[:3]) or 'none'}. Score both on the same queries."
                )
    return paired_tests(values), len(first)


def override(key: str, value: Any) -> str:
    """What `--set` changed, as it would be typed."""
    return f"{key}={_shown(value)}"


def _comparison(rows: list[Row], load: Load | None) -> Comparison:
    alike(rows)
    columns = tuple(
        dict.fromkeys((data, name) for row in rows for data, named in row.measures.items() for name in named)
    )
    found = lines(rows)
    first = found[0]
    if columns:
        found.sort(key=lambda line: (-(line.mean(*columns[0]) or 0.0), line.entrant, line.representation))
    first = next((line for line in found if line.rows[0].entrant == "bert"), first)
    comparison = Comparison(tuple(rows), columns, tuple(found), baseline=found.index(first))
    for column in columns if load else ():
        assert load is not None
        pairs, queries = tests(found, column, load)
        if pairs:
            return replace(comparison, pairs=pairs, tested=column, queries=queries)
    return comparison


def _settings(row: Row) -> dict[str, Any]:
    return {"objective": row.objective, "checkpoint": row.checkpoint, **row.settings}


def _difference(settings: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> str:
    """What tells an entrant from others of the same name: the settings in which they differ."""
    names = sorted({name for other in alike for name in other if any(each.get(name) != other[name] for each in alike)})
    return f" ({', '.join(f'{name}={_shown(settings.get(name))}' for name in names)})" if names else ""


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _brief(value: Any) -> str:
    return f"{value[:8]}..." if isinstance(value, str) and len(value) > 16 else str(value)


def _row_name(row: Row) -> str:
    return row.entrant if row.seed is None else f"{row.entrant} (seed {row.seed})"
