"""
Lines that may share a table, and the tests of their differences.

* compare           rows -> one Comparison for each track identity
* compare_lines     lines -> one Comparison without tests
* add_tests         a Comparison -> the same with tests
* compare_pairs     the PairwiseTest of lines, on one dataset and measure
* transfer_columns  the columns in which transfer is shown
* tested_on         a Comparison of the lines that have a column, with the test in it
* check_same_data, check_same_queries
                    refuse rows of one dataset that were measured on different data or queries
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from retrobench.errors import unknown
from retrobench.leaderboard.comparison.comparison import Comparison, DatasetMeasure
from retrobench.leaderboard.comparison.lines import Line, group_lines
from retrobench.leaderboard.rows import Clusters, Load, LoadClusters, Row, UnlikeError
from retrobench.scoring import PairwiseTest, System, compare_systems

__all__ = [
    "BASELINES",
    "add_tests",
    "check_same_data",
    "check_same_queries",
    "compare",
    "compare_lines",
    "compare_pairs",
    "tested_on",
    "transfer_columns",
]

Changes = Callable[[Row], Sequence[str] | None]

BASELINES = ("mlm", "bert")  # the first that was measured is the baseline, where none is named

TRANSFER_MEASURE = "nDCG@10"

# Facts of a dataset that must match before rows are compared.
IDENTITY_FACTS = ("documents", "queries", "corpus", "qrels", "relevance_level")


def compare(
    rows: Sequence[Row],
    load: Load | None = None,
    load_clusters: LoadClusters | None = None,
    baseline: str | None = None,
    changes: Changes | None = None,
    own: Collection[str] = (),
    measures: Sequence[str] = (),
    transfer: Callable[[Row], Sequence[str]] | None = None,
) -> list[Comparison]:
    """Return a comparison for each track identity, and within it for each content that the trainings read.

    Unchanged tracks come before changed tracks, and later measurements before earlier ones. `load` returns a row's
    values by query; without it nothing is tested. Without `load_clusters` every query is a cluster of its own. A table
    without the entrant `baseline` has no baseline. `changes` returns the settings in which a row's track differs from
    its file. `own` holds the ids of the user's rows, which form lines of their own. `measures` are shown in place of
    all measures. `transfer` returns the datasets that a row's track tests where they are at hand. Raises UnlikeError
    where two rows of a table were scored on different documents, judgements or queries.
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
            lines = group_lines(members, own)
            comparison = compare_lines(lines, columns, names)
            if transfer is not None:
                comparison = replace(comparison, transfer=tuple(transfer(members[0])))
            comparison = add_tests(comparison, load, load_clusters)
            comparisons.append(replace(comparison, rows=tuple(members), changed=changed, content=content))
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
    named: list[tuple[str, Mapping[str, float]]] = []
    for line, line_values in zip(lines, values, strict=True):
        named += zip(map(_row_name, line.rows), line_values, strict=True)
    check_same_queries(named, column)
    systems = []
    for line, line_values in zip(lines, values, strict=True):
        systems.append(System(line_values, random=line.rows[0].seed is not None))
    return compare_systems(systems, clusters.numbers if clusters else None)


def check_same_queries(named: Sequence[tuple[str, Mapping[str, float]]], column: DatasetMeasure) -> None:
    """Raise UnlikeError, naming both, where a system has other queries in a column than the first, or none."""
    dataset, measure = column
    first_name, first = named[0]
    for name, values in named:
        unshared = sorted(values.keys() ^ first.keys())
        if unshared or not values:
            raise UnlikeError(
                f"{measure} on {dataset} cannot be compared: {name} has {len(values)} queries and {first_name} "
                f"{len(first)}, differing in {', '.join(unshared[:3]) or 'none'}. Score both on the same queries."
            )


def compare_lines(lines: Sequence[Line], columns: Sequence[DatasetMeasure], baselines: Sequence[str]) -> Comparison:
    """Return lines in the order of the first column, not tested yet. The first of `baselines` with a line is theirs.

    Raises UnlikeError where rows were scored on different data.
    """
    rows = [row for line in lines for row in line.rows]
    check_same_data(rows)
    ordered = list(lines)
    if columns:
        ordered.sort(key=_rank_by(columns[0]))
    return Comparison(tuple(rows), tuple(columns), tuple(ordered), _baseline(ordered, baselines))


def add_tests(comparison: Comparison, load: Load | None, load_clusters: LoadClusters | None) -> Comparison:
    """Return the comparison with the tests of its main column and of its transfer, from values by query."""
    if load is None:
        return comparison
    for column in comparison.own_columns:
        tested = _test(comparison, column, load, load_clusters)
        if tested.pairs:
            beside = []
            for other in transfer_columns(comparison):
                beside.append(tested_on(comparison, other, load, load_clusters))
            return replace(tested, beside=tuple(beside))
    return comparison


def tested_on(
    comparison: Comparison, column: DatasetMeasure, load: Load | None, load_clusters: LoadClusters | None
) -> Comparison:
    """Return the comparison of those lines whose rows all have a column, with their test in it."""
    measured = _measured_on(comparison, column)
    return measured if load is None else _test(measured, column, load, load_clusters)


def _test(comparison: Comparison, column: DatasetMeasure, load: Load, load_clusters: LoadClusters | None) -> Comparison:
    """Return the comparison with the test of a column; without a test where no row has values by query."""
    clusters = load_clusters(comparison.rows, column[0]) if load_clusters else None
    test = compare_pairs(comparison.lines, column, load, clusters)
    if not test.pairs:
        return comparison
    return replace(comparison, test=test, tested=column, clustered_by=clusters.by if clusters else None)


def _measured_on(comparison: Comparison, column: DatasetMeasure) -> Comparison:
    """Return the comparison of those lines whose rows all have a column."""
    lines = [line for line in comparison.lines if len(line.values(*column)) == len(line.rows)]
    baseline = None
    if comparison.baseline is not None and comparison.lines[comparison.baseline] in lines:
        baseline = lines.index(comparison.lines[comparison.baseline])
    return replace(comparison, lines=tuple(lines), baseline=baseline)


def transfer_columns(comparison: Comparison) -> list[DatasetMeasure]:
    """Return the columns of transfer: the main dataset's, then one for each dataset that a line has.

    All are of one measure, nDCG@10 where it was measured, as BEIR reports it. The list is empty without transfer.
    """
    if not comparison.transfer or not comparison.own_columns:
        return []
    dataset, measure = comparison.own_columns[0]
    if (dataset, TRANSFER_MEASURE) in comparison.columns:
        measure = TRANSFER_MEASURE
    measured = [(name, measure) for name in comparison.transfer if (name, measure) in comparison.columns]
    return [(dataset, measure), *measured]


def _baseline(lines: Sequence[Line], entrants: Sequence[str]) -> int | None:
    """Return a line of the first of these entrants that has one: the line that is read as most lines are."""
    readers = Counter(line.representation for line in lines)
    for entrant in entrants:
        namesakes = [index for index, line in enumerate(lines) if line.rows[0].entrant == entrant]
        if namesakes:
            return max(namesakes, key=lambda index: readers[lines[index].representation])
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
