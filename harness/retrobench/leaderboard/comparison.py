"""
Rows that may share a table: means and spreads over seeds, and differences between entrants.

* compare          rows -> one Comparison for each track identity
* Comparison       lines in order of the main measure, with a Pair for every two lines
* compare_pairs    the PairwiseTest of lines, on one dataset and measure
* check_same_data  refuses rows of one dataset that were measured on different data
"""

from __future__ import annotations

import string
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from retrobench.errors import unknown
from retrobench.leaderboard.clusters import Clusters, LoadClusters
from retrobench.leaderboard.evidence import Load
from retrobench.leaderboard.lines import Line, format_override, group_lines
from retrobench.leaderboard.rows import Row, UnlikeError
from retrobench.scoring import Pair, PairwiseTest, System, compare_systems

__all__ = [
    "Comparison",
    "DatasetMeasure",
    "check_same_data",
    "compare",
    "compare_pairs",
    "opponent",
]

DatasetMeasure = tuple[str, str]

Changes = Callable[[Row], Sequence[str] | None]

BASELINES = ("mlm", "bert")  # the first that was measured is the baseline, where none is named

# Facts of a dataset that must match before rows are compared.
IDENTITY_FACTS = ("documents", "queries", "corpus", "qrels", "relevance_level")


@dataclass(frozen=True)
class Comparison:
    """The rows of one track identity. `columns` are (dataset, measure), the main one first."""

    rows: tuple[Row, ...]  # as appended
    columns: tuple[DatasetMeasure, ...]
    lines: tuple[Line, ...]
    baseline: int | None  # the best line of the entrant named, or else of BASELINES
    test: PairwiseTest = field(default_factory=PairwiseTest)
    tested: DatasetMeasure | None = None  # the first column with values by query; a mean of datasets has none
    clustered_by: str | None = None  # what queries of a cluster share; None where each is a cluster of its own
    changed: Sequence[str] | None = None  # settings in which the track differs from its file; None where unknown
    content: Mapping[str, str] = field(default_factory=dict)  # in which this track differs from others of its identity

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
        """Return the entrant, with its representation where the table shows the entrant with more than one."""
        line = self.lines[index]
        entrants = [line.entrant for line in self.lines]
        if entrants.count(line.entrant) == 1:
            return line.entrant
        return f"{line.entrant} ({line.representation})"

    def rival(self, index: int) -> int | None:
        """Return the baseline of a line: the baseline's entrant after the same round, where that was measured."""
        if self.baseline is None:
            return None
        entrant = self.lines[self.baseline].rows[0].entrant
        for position, line in enumerate(self.lines):
            row = line.rows[0]
            if row.entrant == entrant and row.round == self.lines[index].rows[0].round:
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


def compare(
    rows: Sequence[Row],
    load: Load | None = None,
    load_clusters: LoadClusters | None = None,
    baseline: str | None = None,
    changes: Changes | None = None,
    own: Collection[str] = (),
    measures: Sequence[str] = (),
) -> list[Comparison]:
    """Return a comparison for each track identity, and within it for each content that the trainings read.

    Unchanged tracks come before changed tracks, and later measurements before earlier ones. `load` returns a row's
    values by query; without it nothing is tested. Without `load_clusters` every query is a cluster of its own. A table
    without the entrant `baseline` has no baseline. `changes` returns the settings in which a row's track differs from
    its file. `own` holds the ids of the user's rows, which form lines of their own. `measures` are shown in place of
    all measures. Raises UnlikeError where two rows of a table were scored on different documents, judgements or
    queries.
    """
    entrants = {row.entrant for row in rows}
    if baseline is not None and rows and baseline not in entrants:
        raise unknown("baseline", baseline, entrants)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.track, row.identity), []).append(row)
    names = BASELINES if baseline is None else (baseline,)
    comparisons = []
    for group in groups.values():
        changed = changes(group[0]) if changes is not None else None
        for content, members in split_by_content(group):
            columns = _columns(members, measures)
            comparison = _comparison(members, columns, load, load_clusters, names, own)
            comparisons.append(replace(comparison, changed=changed, content=content))
    return sorted(comparisons, key=lambda comparison: (comparison.is_changed, -rows.index(comparison.rows[-1])))


def split_by_content(rows: Sequence[Row]) -> list[tuple[dict[str, str], list[Row]]]:
    """Return the rows whose trainings read the same content, after the names and hashes in which such groups differ.

    An entrant that reads less, as BM25 and BERT do, stands in every group that it agrees with.
    """
    groups: list[dict[str, str]] = []
    for row in sorted(rows, key=lambda row: -len(row.content)):
        fitting = [content for content in groups if _agree(content, row.content)]
        if not fitting:
            groups.append(dict(row.content))
        elif len(fitting) == 1:
            fitting[0].update(row.content)
    differing = {name for content in groups for name in content if not _all_equal(groups, name)}
    split = []
    for content in groups:
        members = [row for row in rows if _agree(content, row.content)]
        split.append(({name: content[name] for name in sorted(differing & content.keys())}, members))
    return split


def _agree(content: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(content[name] == other[name] for name in content.keys() & other.keys())


def _all_equal(groups: Sequence[Mapping[str, str]], name: str) -> bool:
    return len({content.get(name) for content in groups}) == 1


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


def compare_pairs(
    lines: Sequence[Line], column: DatasetMeasure, load: Load, clusters: Clusters | None = None
) -> PairwiseTest:
    """Return the test of every two lines, empty where no row has values by query.

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
        return PairwiseTest()
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
    systems = []
    for line, line_values in zip(lines, values, strict=True):
        systems.append(System(line_values, random=line.rows[0].seed is not None))
    return compare_systems(systems, clusters.numbers if clusters else None)


def _comparison(
    rows: list[Row],
    columns: tuple[DatasetMeasure, ...],
    load: Load | None,
    load_clusters: LoadClusters | None,
    baselines: Sequence[str],
    own: Collection[str],
) -> Comparison:
    check_same_data(rows)
    lines = group_lines(rows, own)
    if columns:
        lines.sort(key=_rank_by(columns[0]))
    comparison = Comparison(tuple(rows), columns, tuple(lines), _baseline(lines, baselines))
    if load is None:
        return comparison
    for column in columns:
        clusters = load_clusters(rows, column[0]) if load_clusters else None
        test = compare_pairs(lines, column, load, clusters)
        if test.pairs:
            clustered_by = clusters.by if clusters else None
            return replace(comparison, test=test, tested=column, clustered_by=clustered_by)
    return comparison


def _baseline(lines: Sequence[Line], entrants: Sequence[str]) -> int | None:
    """Return the first line of the first of these entrants that has one."""
    for entrant in entrants:
        for index, line in enumerate(lines):
            if line.rows[0].entrant == entrant:
                return index
    return None


def _columns(rows: Iterable[Row], measures: Sequence[str]) -> tuple[DatasetMeasure, ...]:
    """Return the datasets and measures of rows, cut down to `measures` where some are given, in their order."""
    columns: dict[DatasetMeasure, None] = {}
    for row in rows:
        for dataset, scores in row.measures.items():
            for measure in scores:
                columns[dataset, measure] = None
    if not measures:
        return tuple(columns)
    known = dict.fromkeys(measure for _, measure in columns)
    for name in measures:
        if columns and name not in known:
            raise unknown("measure", name, known)
    return tuple(column for name in measures for column in columns if column[1] == name)


def _rank_by(column: DatasetMeasure) -> Callable[[Line], tuple[float, str, str]]:
    """Return a sorting key: the best mean first, equal ones by name."""

    def rank(line: Line) -> tuple[float, str, str]:
        mean = line.mean(*column) or 0.0
        return -mean, line.entrant, line.representation

    return rank


def _brief(value: Any) -> str:
    """Return the first letters of a hash, and any other value whole."""
    if isinstance(value, str) and len(value) > 16:
        return f"{value[:8]}..."
    return str(value)


def _row_name(row: Row) -> str:
    return row.entrant if row.seed is None else f"{row.entrant} (seed {row.seed})"
