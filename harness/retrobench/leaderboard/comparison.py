"""
Rows that may share a table: means and spreads over seeds, and paired tests between entrants.

* compare          rows -> one Comparison for each track identity
* Comparison       lines in order of the main measure, with a Pair for every two lines
* Line             one entrant with one representation and round, over its seeds
* group_lines      rows -> lines
* compare_pairs    a Pair for every two lines, on one dataset and measure
* check_same_data  refuses rows of one dataset that were measured on different data
"""

from __future__ import annotations

import json
import statistics
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retrobench.leaderboard.evidence import Load
from retrobench.leaderboard.rows import Row, UnlikeError
from retrobench.scoring import Pair, paired_tests

__all__ = [
    "Comparison",
    "DatasetMeasure",
    "Line",
    "check_same_data",
    "compare",
    "compare_pairs",
    "format_override",
    "group_lines",
    "opponent",
]

DatasetMeasure = tuple[str, str]
Settings = Mapping[str, Any]

# Facts of a dataset that must match before rows are compared.
IDENTITY_FACTS = ("documents", "queries", "corpus", "qrels", "relevance_level")


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


@dataclass(frozen=True)
class Comparison:
    """The rows of one track identity. `columns` are (dataset, measure), the main one first."""

    rows: tuple[Row, ...]  # as appended
    columns: tuple[DatasetMeasure, ...]
    lines: tuple[Line, ...]
    baseline: int  # the best line of `bert`, or the line measured first where bert is absent
    pairs: tuple[Pair, ...] = ()
    tested: DatasetMeasure | None = None  # the first column with values by query; a mean of datasets has none
    queries: int = 0

    @property
    def heading(self) -> str:
        how = f"with {self.overrides}" if self.overrides else "as it is"
        return f"Track {self.rows[0].track} {how} (identity {self.rows[0].identity[:8]})"

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
        """Return the entrant, with its representation where the table shows the entrant with more than one."""
        line = self.lines[index]
        entrants = [line.entrant for line in self.lines]
        if entrants.count(line.entrant) == 1:
            return line.entrant
        return f"{line.entrant} ({line.representation})"

    def rival(self, index: int) -> int:
        """Return the baseline of a line: `bert` after the same round, where that was measured."""
        if self.lines[self.baseline].rows[0].entrant == "bert":
            for position, line in enumerate(self.lines):
                row = line.rows[0]
                if row.entrant == "bert" and row.round == self.lines[index].rows[0].round:
                    return position
        return self.baseline

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
                turned = replace(pair, first=pair.second, second=rival, difference=-pair.difference)
                pairs.append((pair.second, turned))
        return sorted(pairs, key=lambda entry: entry[0])


def opponent(pair: Pair, index: int) -> int:
    """Return the line of a pair that is not line `index`."""
    return pair.second if pair.first == index else pair.first


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def compare(rows: Sequence[Row], load: Load | None = None) -> list[Comparison]:
    """Return a comparison for each track identity.

    Unchanged tracks come before changed tracks, and later measurements before earlier ones. `load` returns a row's
    values by query; without it nothing is tested. Raises UnlikeError where two rows of a table were scored on
    different documents, judgements or queries.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.track, row.identity), []).append(row)
    comparisons = [_comparison(group, load) for group in groups.values()]
    return sorted(comparisons, key=lambda comparison: (bool(comparison.overrides), -rows.index(comparison.rows[-1])))


def check_same_data(rows: Iterable[Row]) -> None:
    """Raise UnlikeError, naming both rows, where one dataset of two rows has different documents or judgements."""
    first_rows: dict[tuple[str, str], Row] = {}
    for row in rows:
        for dataset, facts in row.facts.items():
            for name in IDENTITY_FACTS:
                if name not in facts:
                    continue
                first = first_rows.setdefault((dataset, name), row)
                value = first.facts[dataset][name]
                if value != facts[name]:
                    raise UnlikeError(
                        f"{_row_name(first)} of {first.date} and {_row_name(row)} of {row.date} cannot stand in one "
                        f"table: on {dataset} their {name} differ, {_brief(value)} and {_brief(facts[name])}. "
                        "Measure both on the same files."
                    )


def group_lines(rows: Iterable[Row]) -> list[Line]:
    """Return a line for each entrant, representation, round and settings. A later row of a seed replaces an earlier."""
    groups: dict[tuple[str, str, str], dict[int | None, Row]] = {}  # entrant, representation, settings -> seed -> row
    for row in rows:
        settings = json.dumps(_settings(row), sort_keys=True)
        group = groups.setdefault((_entrant_name(row), row.representation, settings), {})
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


def _entrant_name(row: Row) -> str:
    return f"{row.entrant}, {row.round}" if row.round else row.entrant


def _seed_order(row: Row) -> int:
    return -1 if row.seed is None else row.seed


def compare_pairs(lines: Sequence[Line], column: DatasetMeasure, load: Load) -> tuple[tuple[Pair, ...], int]:
    """Return a Pair for every two lines, and the number of queries; no pairs where no row has values by query.

    Raises UnlikeError where two rows have different queries.
    """
    dataset, measure = column
    values: list[list[Mapping[str, float]]] = []  # by line, then by row
    queries = 0
    for line in lines:
        line_values = []
        for row in line.rows:
            row_values = load(row).get(dataset, {}).get(measure, {})
            line_values.append(row_values)
            queries = max(queries, len(row_values))
        values.append(line_values)
    if len(lines) < 2 or queries == 0:
        return (), 0
    first = values[0][0]
    for line, line_values in zip(lines, values, strict=True):
        for row, row_values in zip(line.rows, line_values, strict=True):
            unshared = sorted(row_values.keys() ^ first.keys())
            if unshared or not row_values:
                raise UnlikeError(
                    f"{measure} on {dataset} cannot be compared: {_row_name(row)} has {len(row_values)} queries "
                    f"and {_row_name(lines[0].rows[0])} {len(first)}, differing in "
                    f"{', '.join(unshared[:3]) or 'none'}. Score both on the same queries."
                )
    return paired_tests(values), len(first)


def format_override(key: str, value: Any) -> str:
    """Return an override of a track, as it is typed after `--set`."""
    return f"{key}={_format_value(value)}"


def _comparison(rows: list[Row], load: Load | None) -> Comparison:
    check_same_data(rows)
    columns = _columns(rows)
    lines = group_lines(rows)
    baseline = lines[0]
    if columns:
        lines.sort(key=_rank_by(columns[0]))
    for line in lines:
        if line.rows[0].entrant == "bert":
            baseline = line
            break
    comparison = Comparison(tuple(rows), columns, tuple(lines), lines.index(baseline))
    if load is None:
        return comparison
    for column in columns:
        pairs, queries = compare_pairs(lines, column, load)
        if pairs:
            return replace(comparison, pairs=pairs, tested=column, queries=queries)
    return comparison


def _columns(rows: Iterable[Row]) -> tuple[DatasetMeasure, ...]:
    columns: dict[DatasetMeasure, None] = {}
    for row in rows:
        for dataset, scores in row.measures.items():
            for measure in scores:
                columns[dataset, measure] = None
    return tuple(columns)


def _rank_by(column: DatasetMeasure) -> Callable[[Line], tuple[float, str, str]]:
    """Return a sorting key: the best mean first, equal ones by name."""

    def rank(line: Line) -> tuple[float, str, str]:
        mean = line.mean(*column) or 0.0
        return -mean, line.entrant, line.representation

    return rank


def _settings(row: Row) -> dict[str, Any]:
    """Return everything in which the rows of one line agree, by name; hashes by their first digits."""
    settings = {"objective": row.objective, "source": row.objective_source[:8], **row.settings}
    if row.checkpoint is not None:
        settings["checkpoint"] = row.checkpoint["hash"][:8]
    return settings | {name: digest[:8] for name, digest in row.content.items()}


def _difference(settings: Settings, namesakes: Sequence[Settings]) -> str:
    """Return the settings that tell an entrant from others of its name, in brackets; empty without others."""
    texts = []
    for name in sorted(set().union(*namesakes)):
        values = [namesake.get(name) for namesake in namesakes]
        if any(value != values[0] for value in values):
            texts.append(format_override(name, settings.get(name)))
    return f" ({', '.join(texts)})" if texts else ""


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _brief(value: Any) -> str:
    """Return the first letters of a hash, and any other value whole."""
    if isinstance(value, str) and len(value) > 16:
        return f"{value[:8]}..."
    return str(value)


def _row_name(row: Row) -> str:
    return row.entrant if row.seed is None else f"{row.entrant} (seed {row.seed})"
