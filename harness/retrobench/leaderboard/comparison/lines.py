"""
Lines of a table: one entrant with one representation and round, over its seeds.

* Line             means, spreads and costs of rows that differ in their seeds
* group_lines      rows -> lines
* find_namesakes   entrants that stand in several lines, and why
* format_override  an override of a track, as it is typed
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrobench.leaderboard.rows import Row

__all__ = ["OWN", "Line", "find_namesakes", "format_override", "group_lines"]

Settings = Mapping[str, Any]

OWN = "*"  # behind the entrant of a user's line


@dataclass(frozen=True)
class Line:
    """One entrant with one representation, after one round. Its rows differ in their seeds and share all settings."""

    entrant: str  # as shown: with the round, where the track measures every one
    representation: str
    rows: tuple[Row, ...]
    value: str = ""  # of the track's setting in which the lines of a table differ, where they do

    @property
    def seeds(self) -> list[int]:
        return [row.seed for row in self.rows if row.seed is not None]

    def values(self, dataset: str, measure: str) -> list[float]:
        """Return the measure of every row that has it."""
        values = []
        for row in self.rows:
            scores = row.measures.get(dataset, {})
            if measure in scores:
                values.append(scores[measure])
        return values

    def mean(self, dataset: str, measure: str) -> float | None:
        return _mean(self.values(dataset, measure))

    def deviation(self, dataset: str, measure: str) -> float | None:
        """Return the sample standard deviation over seeds, None for fewer than two."""
        values = self.values(dataset, measure)
        return statistics.stdev(values) if len(values) > 1 else None

    def cost(self, name: str, stage: str | None = None) -> list[float]:
        """Return the cost `name` of every row that has it: of `stage`, or summed over all stages."""
        sums = []
        for row in self.rows:
            stages = [row.cost.get(stage, {})] if stage else row.cost.values()
            costs = [cost[name] for cost in stages if name in cost]
            if costs:
                sums.append(sum(costs))
        return sums

    def seconds(self, stage: str | None = None) -> float | None:
        """Return the mean duration of a stage, or of all stages together."""
        return _mean(self.cost("seconds", stage))

    def speed(self) -> float | None:
        """Return the tokens per second of pre-training."""
        return _mean(self.cost("tokens_per_second", "pretrain"))

    def peak_memory(self) -> float | None:
        """Return the largest peak of any stage of any row, in bytes."""
        peaks = []
        for row in self.rows:
            for cost in row.cost.values():
                if "peak_memory_bytes" in cost:
                    peaks.append(cost["peak_memory_bytes"])
        return max(peaks, default=None)


def group_lines(rows: Iterable[Row], own: Collection[str] = ()) -> list[Line]:
    """Return a line for each entrant, representation, round and settings. A later row of a seed replaces an earlier.

    The rows whose ids are in `own`, a user's beside shipped rows, form lines of their own, marked with a star.
    """
    groups: dict[tuple[str, str, str], dict[int | None, Row]] = {}  # entrant, representation, settings -> seed -> row
    for row in rows:
        settings = json.dumps(_settings(row), sort_keys=True)
        name = _entrant_name(row)
        if row.id in own:
            name += f" {OWN}"
        group = groups.setdefault((name, row.representation, settings), {})
        group[row.seed] = row
    namesakes: dict[tuple[str, str], list[Settings]] = {}
    for entrant, representation, settings in groups:
        namesakes.setdefault((entrant, representation), []).append(json.loads(settings))
    lines = []
    for (entrant, representation, settings), group in groups.items():
        name = entrant + _difference(json.loads(settings), namesakes[entrant, representation])
        seeds = sorted(group.values(), key=_seed_order)
        lines.append(Line(name, representation, tuple(seeds)))
    return lines


def find_namesakes(lines: Iterable[Line]) -> dict[str, list[str]]:
    """Return the entrants that stand in several lines of one representation, and the settings that differ."""
    groups: dict[tuple[str, str], list[Settings]] = {}
    for line in lines:
        row = line.rows[0]
        groups.setdefault((_entrant_name(row), row.representation), []).append(_settings(row))
    namesakes = {}
    for (entrant, _), settings in groups.items():
        differing = _differing_names(settings)
        if differing:
            namesakes[entrant] = differing
    return namesakes


def _differing_names(settings: Sequence[Settings]) -> list[str]:
    names = []
    for name in sorted(set().union(*settings)):
        values = [line_settings.get(name) for line_settings in settings]
        if any(value != values[0] for value in values):
            names.append(name)
    return names


def _entrant_name(row: Row) -> str:
    return f"{row.entrant}, {row.round}" if row.round else row.entrant


def _seed_order(row: Row) -> int:
    return -1 if row.seed is None else row.seed


def format_override(key: str, value: Any) -> str:
    """Return an override of a track, as it is typed after `--set`."""
    return f"{key}={_format_value(value)}"


def _settings(row: Row) -> dict[str, Any]:
    """Return everything in which the rows of one line agree, by name; hashes by their first digits."""
    settings = {"objective": row.objective, "source": row.objective_source[:8], **row.settings}
    if row.checkpoint is not None:
        settings["checkpoint"] = row.checkpoint["hash"][:8]
    return settings


def _difference(settings: Settings, namesakes: Sequence[Settings]) -> str:
    """Return the settings that tell an entrant from others of its name, in brackets; empty without others."""
    texts = [format_override(name, settings.get(name)) for name in _differing_names(namesakes)]
    return f" ({', '.join(texts)})" if texts else ""


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
