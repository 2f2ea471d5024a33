"""
The numbers of a page, from the rows of a track and the files beside them.

* read_figures   the figures of a track
* Figures        lines with their scores, differences and values by question
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from retrobench.core import read_toml
from retrobench.data import catalogue, local_questions
from retrobench.leaderboard.comparison import Board, Comparison, DatasetMeasure, tested_on
from retrobench.leaderboard.rows import curve_roles, nearest_files, read_curve
from retrobench.leaderboard.tables import compare_board
from retrobench.scoring import Pair

__all__ = ["Figures", "mean_records", "question_texts", "read_figures"]

DIGITS = 5  # of values in a curve


@dataclass(frozen=True)
class Figures:
    """The main comparison of a track: the rows of the unchanged track, tested in every column."""

    track: str
    title: str
    description: str
    board: Board
    comparison: Comparison
    tested: Mapping[DatasetMeasure, Comparison]  # of the lines that have the column, with their test

    @property
    def columns(self) -> tuple[DatasetMeasure, ...]:
        """Return the columns, the main one first."""
        return tuple(self.tested)

    def position(self, column: DatasetMeasure, index: int) -> int | None:
        """Return the position of a line among those that have a column; None where the line lacks it."""
        line = self.comparison.lines[index]
        for position, other in enumerate(self.tested[column].lines):
            if other is line:
                return position
        return None

    def document(self) -> dict[str, Any]:
        """Return everything that the page's script reads."""
        comparison = self.comparison
        baseline = None if comparison.baseline is None else comparison.name(comparison.baseline)
        return {
            "track": self.track,
            "title": self.title,
            "identity": comparison.rows[0].identity,
            "baseline": baseline,
            "lines": [self._line(index) for index in range(len(comparison.lines))],
            "columns": [self._column(column) for column in self.columns],
            "questions": self._questions(),
            "curves": [curve for index in range(len(comparison.lines)) for curve in self._curves(index)],
        }

    def _line(self, index: int) -> dict[str, Any]:
        line = self.comparison.lines[index]
        return {
            "letter": self.comparison.letter(index),
            "name": self.comparison.name(index),
            "entrant": line.entrant,
            "representation": line.representation,
            "seeds": line.seeds,
            "seconds": line.seconds(),
            "pretrain_seconds": line.seconds("pretrain"),
            "memory": line.peak_memory(),
            "rows": [row.id for row in line.rows],
        }

    def _curves(self, index: int) -> Iterator[dict[str, Any]]:
        """Yield the trainings of a line: means over its seeds of every logged value, and the cost of a step."""
        line = self.comparison.lines[index]
        by_role: dict[str, list[list[dict[str, Any]]]] = {}
        for row in line.rows:
            for role, key in curve_roles(row):
                records = read_curve(self.board.folders[row.id], key) if row.id in self.board.folders else []
                if records:
                    by_role.setdefault(role, []).append(records)
        for role, seeds in by_role.items():
            stage = role.split()[0]
            steps = max(record["step"] for record in seeds[0] if "gradient_norm" in record) + 1
            seconds, tokens = line.cost("seconds", stage), line.cost("tokens", stage)
            yield {
                "line": self.comparison.name(index),
                "training": role,
                "seeds": len(seeds),
                "seconds_per_step": fmean(seconds) / steps if seconds and stage != "finetune" else None,
                "tokens_per_step": fmean(tokens) / steps if tokens and stage != "finetune" else None,
                "values": mean_records(seeds),
            }

    def _column(self, column: DatasetMeasure) -> dict[str, Any]:
        dataset, measure = column
        tested = self.tested[column]
        against = {tested.lines[index].rows[0].id: pair for index, _, pair in tested.against_baseline()}
        scores: list[dict[str, Any] | None] = []
        for index, line in enumerate(self.comparison.lines):
            position = self.position(column, index)
            if position is None:
                scores.append(None)
                continue
            first, last = tested.ranks(position)
            score: dict[str, Any] = {
                "values": line.values(dataset, measure),
                "mean": line.mean(dataset, measure),
                "sd": line.deviation(dataset, measure),
                "ranks": [first, last] if tested.pairs else None,
            }
            pair = against.get(line.rows[0].id)
            if pair is not None:
                score["gain"] = _pair(pair)
            scores.append(score)
        return {"dataset": dataset, "measure": measure, "queries": tested.queries, "scores": scores}

    def _questions(self) -> dict[str, Any] | None:
        """Return the seed-averaged values of every line in the main column, and all pairs; None without values."""
        tested = self.tested[self.columns[0]]
        if not tested.pairs:
            return None
        dataset, measure = self.columns[0]
        by_line = [self._mean_values(line.rows, dataset, measure) for line in tested.lines]
        ids = list(by_line[0])
        return {
            "dataset": dataset,
            "measure": measure,
            "ids": ids,
            "lines": [tested.name(index) for index in range(len(tested.lines))],
            "values": [_packed([values[query] for query in ids]) for values in by_line],
            "pairs": [{"first": pair.first, "second": pair.second, **_pair(pair)} for pair in tested.pairs],
        }

    def _mean_values(self, rows: Sequence[Any], dataset: str, measure: str) -> dict[str, float]:
        seeds = [self.board.load(row)[dataset][measure] for row in rows]
        return {query: fmean(seed[query] for seed in seeds) for query in seeds[0]}


def mean_records(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, list[float | None]]:
    """Return the means over seeds of each logged value, by its name, at the steps that all seeds logged.

    A value that one of the seeds never logged, such as a probe, is left out.
    """
    names = dict.fromkeys(name for record in seeds[0] for name in record if name != "step")
    for records in seeds:
        logged = set().union(*records)
        names = {name: None for name in names if name in logged}
    shared = set.intersection(*[{record["step"] for record in records} for records in seeds])
    steps = sorted(shared)
    by_step = [{record["step"]: record for record in records} for records in seeds]
    values: dict[str, list[float | None]] = {"step": [float(step) for step in steps]}
    for name in names:
        values[name] = [_mean_or_none([records[step].get(name) for records in by_step]) for step in steps]
    return values


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    """Return the mean, None where a seed has no value, as for a step without a probe."""
    known = [value for value in values if value is not None]
    return round(fmean(known), DIGITS) if len(known) == len(values) else None


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "difference": pair.difference,
        "interval": pair.interval,
        "simultaneous": pair.simultaneous,
        "d": pair.effect,
        "p": pair.p,
        "significant": pair.significant,
    }


def question_texts(dataset: str) -> dict[str, str]:
    """Return the texts of a dataset's questions; none where it is not at hand, or its licence forbids copies."""
    return {} if catalogue.forbids_copies(dataset) else local_questions(dataset)


def _packed(values: Sequence[float]) -> str:
    """Return little-endian float32 in base64: a third of the size of their digits."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def read_figures(track: str, leaderboard: Path | None = None) -> Figures | None:
    """Return the figures of a track's own rows, None without rows of the unchanged track."""
    board = Board.gather(track, leaderboard)
    unchanged = [table for table in compare_board(board) if not table.is_changed and table.columns]
    if not unchanged:
        return None
    comparison = unchanged[0]
    known = {table.tested: table for table in (comparison, *comparison.beside)}
    others = [column for column in comparison.columns if column not in comparison.own_columns]
    load = board.load if board.has_values else None
    tested = {}
    for column in (*comparison.own_columns, *others):
        tested[column] = known.get(column) or tested_on(comparison, column, load, board.load_clusters)
    file = nearest_files("track.toml", leaderboard).get(track)
    about = read_toml(file) if file else {}
    title, description = str(about.get("title", f"Track {track}")), str(about.get("description", "")).strip()
    return Figures(track, title, description, board, comparison, tested)
