"""
Two systems side by side: means, the interval of their difference, and the questions on which they differ most.

* side_by_side   compare two rows, two entrants or two run files
* SideBySide     the numbers, as text and as JSON
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from retrobench.core import Column, Table
from retrobench.data import is_local, load, local_questions, query_clusters
from retrobench.errors import RetrobenchError, unknown
from retrobench.leaderboard.comparison import Board, Line, check_same_queries, compare
from retrobench.leaderboard.rows import (
    PerQuery,
    Row,
    find_row,
    folders_with_rows,
    load_per_query,
    read_clusters,
    row_name,
)
from retrobench.leaderboard.tables.formatting import format_interval, format_number, signed
from retrobench.scoring import POWER, Pair, System, canonical, compare_systems, score_file

__all__ = ["Judged", "SideBySide", "side_by_side"]

SHOWN = 10  # questions in the text
DIFFERS = 1e-9  # smaller differences are ties


class Judged(NamedTuple):
    """The judgements that run files are scored by: of a dataset, or of a file."""

    dataset: str | None = None
    qrels: Path | None = None
    level: int | None = None  # the least relevant grade, in place of the dataset's or 1


@dataclass(frozen=True)
class _Side:
    """One system: its values by query for each seed, on each dataset and in each measure."""

    name: str
    seeds: tuple[PerQuery, ...]
    random: bool  # several seeds, whose variance counts
    rows: tuple[Row, ...] = ()
    folder: Path | None = None  # of the rows


class Question(NamedTuple):
    """The values of both systems for one question, means over their seeds."""

    query: str
    a: float
    b: float
    text: str  # empty where the dataset is not at hand

    @property
    def difference(self) -> float:
        return self.a - self.b


@dataclass(frozen=True)
class SideBySide:
    """Two systems on the questions of one dataset. Differences are `a` minus `b`."""

    a: str
    b: str
    dataset: str  # or the file of judgements
    measure: str
    pair: Pair
    clusters: int
    questions: tuple[Question, ...]  # the largest difference first
    fixed: tuple[str, ...] = ()  # the systems whose seeds the interval leaves out: runs and single rows

    @property
    def mean_a(self) -> float:
        """Return the mean of `a` over questions and seeds."""
        return fmean(question.a for question in self.questions)

    @property
    def mean_b(self) -> float:
        """Return the mean of `b` over questions and seeds."""
        return fmean(question.b for question in self.questions)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Return the number of questions on which `a` is better, both are equal, and `b` is better."""
        wins = sum(question.difference > DIFFERS for question in self.questions)
        losses = sum(question.difference < -DIFFERS for question in self.questions)
        return wins, len(self.questions) - wins - losses, losses

    def json(self) -> str:
        """Return the document of `compare --json`, with every question."""
        wins, ties, losses = self.counts
        document: dict[str, Any] = {
            "a": self.a,
            "b": self.b,
            "dataset": self.dataset,
            "measure": self.measure,
            "mean_a": self.mean_a,
            "mean_b": self.mean_b,
            "difference": self.pair.difference,
            "interval": self.pair.interval,
            "effect": self.pair.effect,
            "smallest_detectable": self.pair.smallest_detectable,
            "wins": wins,
            "ties": ties,
            "losses": losses,
            "queries": [
                {"query": question.query, "a": question.a, "b": question.b, "difference": question.difference}
                for question in self.questions
            ],
        }
        return json.dumps(document, indent=2, ensure_ascii=False)

    def text(self) -> str:
        """Return the numbers, and the questions that differ most."""
        wins, ties, losses = self.counts
        figures = [
            (f"a  {self.a}", f"{self.mean_a:.4f}"),
            (f"b  {self.b}", f"{self.mean_b:.4f}"),
            ("a - b", f"{signed(self.pair.difference)}, 95 % interval {format_interval(self.pair.interval)}"),
            ("effect size d", format_number(self.pair.effect, "+.2f")),
            (f"shown with probability {POWER}", f"from {format_number(self.pair.smallest_detectable, '.4f')} on"),
            ("questions", f"{len(self.questions):,} in {self.clusters:,} clusters"),
            ("a better, equal, b better", f"{wins:,}, {ties:,}, {losses:,}"),
        ]
        table = Table([Column(""), Column("")], figures)
        blocks = [f"{self.measure} on {self.dataset}", table.text(), self._method()]
        differing = [question for question in self.questions if abs(question.difference) > DIFFERS]
        if differing:
            blocks.append(f"The questions that differ most:\n\n{_questions(differing[:SHOWN]).text()}")
        return "\n\n".join(blocks)

    def _method(self) -> str:
        if len(self.fixed) == 2:
            return "The interval is over questions alone: of each system there is one run."
        sentence = "The interval is over seeds and questions, for this pair alone, as in the leaderboard's tables."
        if self.fixed:
            sentence += f" Of {self.fixed[0]} there is one run, so the variance of its seeds is left out."
        return sentence


def _questions(questions: Sequence[Question]) -> Table:
    columns = [Column("question"), *(Column(name, "right", "measure") for name in ("a", "b", "a - b")), Column("text")]
    rows = []
    for question in questions:
        cells = [f"{question.a:.4f}", f"{question.b:.4f}", signed(question.difference)]
        rows.append([question.query, *cells, question.text])
    return Table(columns, rows)


def side_by_side(
    a: str,
    b: str,
    judged: Judged,
    measure: str | None = None,
    leaderboard: Path | None = None,
) -> SideBySide:
    """
    Compare two systems: rows by their names, entrants as TRACK:ENTRANT with all seeds, or TREC run files.

    Rows are compared on `judged.dataset`, by default their first, and runs by `judged`. `measure` is by default the
    first that both have. Raises RetrobenchError for an unknown name, and where the two share no dataset or measure.
    """
    if measure is not None:
        measure = canonical(measure)
    sides = [_read_run(name, judged, measure) or _read_rows(name, leaderboard) for name in (a, b)]
    first, second = sides
    dataset = _shared_dataset(first, second, judged)
    measure = _shared_measure(first, second, dataset, measure)
    values = [[seed[dataset][measure] for seed in side.seeds] for side in sides]
    named = [(side.name, seed) for side, seeds in zip(sides, values, strict=True) for seed in seeds]
    check_same_queries(named, (dataset, measure))
    clusters = _clusters(first, second, dataset)
    systems = [System(seeds, side.random) for seeds, side in zip(values, sides, strict=True)]
    test = compare_systems(systems, clusters)
    texts = {} if Path(dataset).is_file() else local_questions(dataset)  # a file of judgements has no texts
    questions = []
    for query in values[0][0]:
        mean_a, mean_b = (fmean(seed[query] for seed in seeds) for seeds in values)
        questions.append(Question(query, mean_a, mean_b, texts.get(query, "")))
    questions.sort(key=lambda question: (-abs(question.difference), question.query))
    fixed = tuple(side.name for side in sides if not side.random)
    return SideBySide(first.name, second.name, dataset, measure, test.pairs[0], test.clusters, tuple(questions), fixed)


def _read_run(name: str, judged: Judged, measure: str | None) -> _Side | None:
    """Return a run file as a side; None where there is no such file."""
    if not Path(name).is_file():
        return None
    scored = score_file(Path(name), judged.dataset, judged.qrels, [measure] if measure else [], judged.level)
    return _Side(name, ({str(scored.dataset or scored.qrels): scored.values},), random=False)


def _read_rows(name: str, leaderboard: Path | None) -> _Side:
    """Return a row, or all seeds of an entrant from the nearest folder that has them: a user's before the shipped."""
    track, _, entrant = name.partition(":")
    for folder in folders_with_rows(leaderboard).get(track, []):
        board = Board.read(folder)
        line = _entrant_line(board, track, entrant)
        if line is not None:
            is_random = len(line.seeds) > 1
            label = f"{name}, {len(line.seeds)} seeds" if is_random else name
            return _Side(label, tuple(map(board.load, line.rows)), is_random, line.rows, folder)
    folder, inspected = find_row(name, leaderboard)
    assert inspected.row is not None, "find_row returns only lines with a row"
    return _Side(row_name(inspected.row), (load_per_query(folder, inspected.row),), False, (inspected.row,), folder)


def _entrant_line(board: Board, track: str, entrant: str) -> Line | None:
    """Return the line of an entrant under the unchanged track, by its name in the table of differences.

    Raises RetrobenchError for an entrant that is read in several ways.
    """
    for table in compare(board.rows, changes=board.changes):
        if table.is_changed:
            continue
        index = table.find(entrant)
        if index is not None:
            return table.lines[index]
        namesakes = [table.name(index) for index, line in enumerate(table.lines) if line.entrant == entrant]
        if namesakes:
            names = ", ".join(repr(f"{track}:{name}") for name in namesakes)
            raise RetrobenchError(f"{len(namesakes)} lines are called '{track}:{entrant}'. Name one: {names}.")
    return None


def _shared_dataset(first: _Side, second: _Side, judged: Judged) -> str:
    shared = [name for name in first.seeds[0] if all(name in seed for seed in (*first.seeds, *second.seeds))]
    wanted = judged.dataset or (str(judged.qrels) if judged.qrels else None)
    if wanted is not None and wanted not in shared:
        raise unknown("dataset of both", wanted, shared)
    if not shared:
        raise RetrobenchError(
            f"{first.name} was measured on {', '.join(first.seeds[0])}, and {second.name} on "
            f"{', '.join(second.seeds[0])}. Name two systems of one dataset."
        )
    return wanted or shared[0]


def _shared_measure(first: _Side, second: _Side, dataset: str, measure: str | None) -> str:
    shared = [name for name in first.seeds[0][dataset] if name in second.seeds[0][dataset]]
    if measure is not None and measure not in shared:
        raise unknown("measure of both", measure, shared)
    if not shared:
        raise RetrobenchError(f"{first.name} and {second.name} share no measure on {dataset}. Name one with --measure.")
    return measure or shared[0]


def _clusters(first: _Side, second: _Side, dataset: str) -> Mapping[str, int] | None:
    """Return the clusters of the questions: kept beside rows, or of a dataset that is at hand."""
    for side in (first, second):
        if side.folder is not None:
            clusters = read_clusters(side.folder, side.rows, dataset)
            if clusters is not None:
                return clusters.numbers
    if Path(dataset).is_file() or not is_local(load(dataset)):
        return None
    return query_clusters(load(dataset))
