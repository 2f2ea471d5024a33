"""
The questions on which two lines differ most: judged passages, and the first documents of both lines' runs.

* NamedPair        two lines that `--pair` names
* check_pairs      refuse a name that no track has
* differing        the page's data about the named pairs of a track and its pairs with the baseline
* licences         the licences of datasets

Runs come from the store. Where a run is not in it, the page and the command say so.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrobench.core import Column, Table
from retrobench.data import Dataset, catalogue, local_dataset
from retrobench.errors import unknown
from retrobench.leaderboard.report.figures import Figures
from retrobench.leaderboard.rows import Row
from retrobench.scoring import read_run
from retrobench.store import default_root, read_stage

__all__ = ["NamedPair", "check_pairs", "differing", "licences"]

QUESTIONS = 50  # of a pair
TOP = 10  # documents of a run
JUDGED = 10  # relevant passages of a question
LETTERS = 300  # of a passage; a longer one is cut
TIE = 1e-6  # between float32 values, as in page.js


class NamedPair(NamedTuple):
    """Two lines by their names in the table of differences, each with or without its track: TRACK:LINE."""

    a: str
    b: str


def check_pairs(named: Sequence[NamedPair], shown: Sequence[Figures]) -> None:
    """Raise RetrobenchError for a pair that no shown track has."""
    for pair in named:
        if any(_positions(pair, figures) for figures in shown):
            continue
        names = [f"{figures.track}:{name}" for figures in shown for name in _names(figures)]
        known = {name.partition(":")[2] for name in names} | set(names)
        wrong = next((name for name in pair if name not in known), " ".join(pair))
        raise unknown("line", wrong, names, "Both lines of a pair are of one track.")


def _names(figures: Figures) -> list[str]:
    """Return the names of the lines that have values in the main column."""
    tested = figures.tested[figures.columns[0]]
    if not tested.pairs:
        return []
    return [tested.name(index) for index in range(len(tested.lines))]


def _positions(pair: NamedPair, figures: Figures) -> tuple[int, int] | None:
    """Return the positions of both lines; None where the track lacks one."""
    tested = figures.tested[figures.columns[0]]
    if not tested.pairs:
        return None
    first, second = [tested.find(name.removeprefix(f"{figures.track}:")) for name in pair]
    if first is None or second is None:
        return None
    return first, second


def _pairs(figures: Figures, named: Sequence[NamedPair]) -> list[tuple[int, int]]:
    """Return the named pairs, then each line with its baseline, as positions in the main column."""
    pairs = []
    for pair in named:
        positions = _positions(pair, figures)
        if positions is not None:
            pairs.append(positions)
    tested = figures.tested[figures.columns[0]]
    pairs += [(line, baseline) for line, baseline, _ in tested.against_baseline()]
    return list(dict.fromkeys(pairs))


def differing(
    figures: Figures, questions: dict[str, Any], named: Sequence[NamedPair], has_texts: bool
) -> dict[str, Any]:
    """Return judged passages and first documents of the questions that differ most in each pair.

    `questions` are the values by question. `documents` are ids, to which `judged` and `tops` point; `texts` are theirs
    where `has_texts` and the licence allows copies. `lacking` names lines whose run is not in the store.
    """
    dataset_id: str = questions["dataset"]
    values = [np.frombuffer(base64.b64decode(packed), "<f4") for packed in questions["values"]]
    pairs = _pairs(figures, named)
    rows_of_line: dict[int, set[int]] = {}
    for pair in pairs:
        rows = _most_differing(*(values[line] for line in pair))
        for line in pair:
            rows_of_line.setdefault(line, set()).update(rows)
    dataset = local_dataset(dataset_id)
    collected = _Collected(questions["ids"], {} if dataset is None else dataset.qrels())
    lines = figures.tested[figures.columns[0]].lines
    for line, rows_of_questions in rows_of_line.items():
        collected.add_line(line, lines[line].rows, dataset_id, sorted(rows_of_questions))
    for row in sorted(set().union(*rows_of_line.values())):
        collected.add_judged(row)
    texts: list[str] = []
    if dataset is not None and has_texts and not catalogue.forbids_copies(dataset_id):
        texts = _texts(dataset, list(collected.documents))
    return {
        "is_named": any(_positions(pair, figures) for pair in named),  # then the page begins with the first pair
        "pairs": pairs,
        "documents": list(collected.documents),
        "texts": texts,
        "judged": collected.judged,
        "tops": collected.tops,
        "seeds": collected.seeds,
        "lacking": [questions["lines"][line] for line in collected.lacking],
    }


def _most_differing(first: np.ndarray, second: np.ndarray) -> list[int]:
    """Return the positions of the questions that differ most; ties in the order of the questions, as in page.js."""
    sizes = np.abs(first.astype(np.float64) - second)
    order = np.argsort(-sizes, kind="stable")[:QUESTIONS]
    return [int(row) for row in order if sizes[row] > TIE]


class _Collected:
    """Judged and first documents, by positions of questions as texts, which JSON keys are."""

    def __init__(self, query_ids: Sequence[str], qrels: dict[str, dict[str, int]]) -> None:
        self.query_ids = query_ids
        self.qrels = qrels
        self.documents: dict[str, int] = {}
        self.judged: dict[str, list[list[int]]] = {}  # document and grade
        self.tops: dict[str, dict[str, list[int]]] = {}  # of each line
        self.seeds: dict[str, int | None] = {}
        self.lacking: list[int] = []

    def add_line(self, line: int, rows: Sequence[Row], dataset_id: str, questions: Sequence[int]) -> None:
        """Add the first documents of the line's first row whose run is in the store."""
        for row in rows:
            folder = default_root() / "search" / row.artifacts.get(f"search {dataset_id}", "")
            if read_stage(folder) == "search":
                self.tops[str(line)] = dict(self._first_documents(folder, questions))
                self.seeds[str(line)] = row.seed
                return
        self.lacking.append(line)

    def _first_documents(self, folder: Path, questions: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
        query_ids, document_ids, ranked = read_run(folder)
        rows_by_query = dict(zip(query_ids, ranked.rows, strict=True))
        for question in questions:
            rows = rows_by_query.get(self.query_ids[question])
            if rows is not None:
                yield str(question), [self._number(document_ids[row]) for row in rows[:TOP] if row >= 0]

    def add_judged(self, question: int) -> None:
        """Add the relevant documents with the highest grades, and the grades of others among the first documents."""
        grades = self.qrels.get(self.query_ids[question], {})
        ranked: set[int] = set()
        for by_question in self.tops.values():
            ranked.update(by_question.get(str(question), []))
        relevant = [document for document, grade in grades.items() if grade > 0]
        relevant.sort(key=lambda document: (-grades[document], document))
        judged = relevant[:JUDGED]
        for document in grades:
            if self.documents.get(document) in ranked and document not in judged:
                judged.append(document)
        if judged:
            self.judged[str(question)] = [[self._number(document), grades[document]] for document in judged]

    def _number(self, document: str) -> int:
        return self.documents.setdefault(document, len(self.documents))


def _texts(dataset: Dataset, document_ids: Sequence[str]) -> list[str]:
    """Return title and text of each document, cut to LETTERS letters; empty for an unknown one."""
    documents = dataset.find_documents(document_ids)
    texts = []
    for name in document_ids:
        text = ""
        if name in documents:
            text = f"{documents[name].title} {documents[name].text}".strip()
        if len(text) > LETTERS:
            text = f"{text[:LETTERS].rstrip()} ..."
        texts.append(text)
    return texts


def licences(dataset_ids: Sequence[str], with_texts: set[str]) -> Table:
    """Return a line for each dataset: its licence, and whether the page holds texts of it."""
    lines = []
    for name in dataset_ids:
        held = "no"
        if name in with_texts:
            held = "yes"
        elif catalogue.forbids_copies(name):
            held = "no: the licence forbids copies"
        lines.append([name, catalogue.licence(name) or "not recorded: see its source", held])
    return Table([Column("dataset"), Column("licence"), Column("texts in this file")], lines)
