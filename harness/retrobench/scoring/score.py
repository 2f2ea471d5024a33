"""
Scores of a run: what every measure reads is the one ranking, and what was done to get it is told with the numbers.

* score_file(...)   any TREC run against a dataset or a file of judgements
* score_hits(...)   hits in memory against a dataset
* Scored            the measures with their counts: as JSON, and as text for a terminal
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from retrobench.core import Column, Table
from retrobench.data import Dataset, load
from retrobench.errors import RetrobenchError
from retrobench.scoring import trec
from retrobench.scoring.measures import canonical, deepest, measure, unanswerable
from retrobench.scoring.ranking import Ranked

__all__ = ["DEFAULT", "Scored", "score_file", "score_hits"]

SHORT = 10  # hits; below that the collection is a toy, and its lists hold all of it
# Where neither a person nor a dataset names any.
DEFAULT = ("nDCG@10", "MRR@10", "RR", "Recall@100", "Recall@1000", "Success@10", "MAP")


@dataclass(frozen=True)
class Scored:
    """The measures of one run on one dataset. Means are over all judged queries; what a run lacks counts 0."""

    run: str
    dataset: str | None  # either this or `qrels` is there
    qrels: str | None
    relevance_level: int  # the least grade that is relevant, save in nDCG, which keeps grades
    queries: int  # judged
    missing: int  # of them, without a hit
    self_hits_removed: int
    ties: int  # hits whose place only their id decided
    measures: dict[str, float]
    values: dict[str, dict[str, float]]  # measure -> query -> value
    unjudged: int = 0  # queries of the run that nobody judged; they are left out
    unanswerable: int = 0  # judged queries without a relevant document; they count 0
    constant: int = 0  # queries of the run all of whose hits, two at least, share one score
    length: int = 0  # hits in the longest list
    reason: str = ""  # where the relevance level comes from
    drops_self: bool = False  # the dataset's rule
    note: str = ""  # what to know of the dataset

    def document(self, per_query: bool = False) -> dict[str, Any]:
        """The score object of `--json`, values unrounded."""
        against = {"dataset": self.dataset} if self.dataset is not None else {"qrels": self.qrels}
        names = ("relevance_level", "queries", "missing", "self_hits_removed", "ties", "measures")
        found = {"run": self.run, **against, **{name: getattr(self, name) for name in names}}
        return {**found, "per_query": self.per_query()} if per_query else found

    def per_query(self) -> dict[str, dict[str, float]]:
        """Query -> measure -> value."""
        queries: Iterable[str] = next(iter(self.values.values()), {})
        return {query: {name: of[query] for name, of in self.values.items()} for query in queries}

    def json(self, per_query: bool = False) -> str:
        """One JSON document."""
        return json.dumps(self.document(per_query), indent=2, ensure_ascii=False)

    def text(self, per_query: bool = False) -> str:
        """Return the measures to 4 decimals, the counts behind them, warnings, and every query's values if wanted."""
        measures = [(name, f"{value:.4f}") for name, value in self.measures.items()]
        listing = Table([Column(""), Column("")], [*measures, ("", ""), *self._facts()])
        lines = [f"{self.run} on {self.dataset or self.qrels}", "", listing.text()]
        lines += [f"Warning: {warning}" for warning in self._warnings()]
        if per_query:
            lines += ["", self._table().text()]
        return "\n".join(lines)

    def _facts(self) -> list[tuple[str, str]]:
        own = "the dataset's rule" if self.drops_self else "no rule asks for it"
        return [
            ("queries", f"{self.queries}, all that are judged: the mean is over them"),
            ("missing", f"{self.missing}"),
            ("unjudged", f"{self.unjudged} of the run's queries, left out"),
            ("unanswerable", f"{self.unanswerable} without a relevant document, counted 0"),
            ("self-hits removed", f"{self.self_hits_removed} ({own})"),
            ("ties broken", f"{self.ties} hits, by document id"),
            ("relevance level", f"{self.relevance_level} ({self.reason}); nDCG keeps grades, linear gain"),
            ("cross-checked", "ranx = trec_eval on every query"),
            *([("note", self.note)] if self.note else []),
        ]

    def _warnings(self) -> list[str]:
        found = []
        if self.missing:
            found.append(f"the run has no hit for {self.missing} of {self.queries} judged queries; each counts 0.")
        deeper = [name for name in self.measures if (deepest([name]) or 0) > self.length >= SHORT]
        if deeper:
            found.append(f"no list is longer than {self.length} hits, so {', '.join(deeper)} read no deeper.")
        if self.constant:
            found.append(f"{self.constant} queries have one score for all their hits: the ids alone ranked those.")
        return found

    def _table(self) -> Table:
        """Return a row for each query."""
        columns = [Column("query"), *(Column(name, "right", "measure") for name in self.measures)]
        rows = []
        for query, values in self.per_query().items():
            rows.append([query, *(f"{value:.4f}" for value in values.values())])
        return Table(columns, rows)


@dataclass(frozen=True)
class _Judged:
    """What a run is held against."""

    dataset: str | None
    qrels: str | None
    grades: Mapping[str, Mapping[str, int]]
    level: int
    reason: str
    drops_self: bool = False
    note: str = ""

    def documents(self) -> list[str]:
        """What is judged for any query."""
        return list({document: None for grades in self.grades.values() for document in grades})


def score_hits(
    label: str,
    dataset: Dataset,
    queries: Sequence[str],
    ids: Sequence[str],
    ranked: Ranked,
    names: Sequence[str],
    level: int | None = None,
) -> Scored:
    """The score of a ranking of `ids` for `queries`, under the dataset's rule; its own measures if `names` is empty.

    Own documents are out of `ranked` already, where the rule says so. `level` stands in for the rule's.
    """
    return _score(label, _by_rule(dataset, level), queries, ids, ranked, names or dataset.rule.measures)


def score_file(
    run: Path, dataset: str | None, qrels: Path | None, measures: Sequence[str], level: int | None = None
) -> Scored:
    """The score of a TREC run file against a dataset, with its rule, or against a file of judgements.

    Without `measures` the dataset's own are computed, or `DEFAULT`; without `level` the rule's holds, or 1.
    RetrobenchError unless exactly one of `dataset` and `qrels` is given, and where a file is faulty.
    """
    if (dataset is None) == (qrels is None):
        raise RetrobenchError("Give either --dataset ID or --qrels FILE: judgements come from exactly one place.")
    if dataset is not None:
        source = load(dataset)
        names, judged = list(measures or source.rule.measures), _by_rule(source, level)
    else:
        assert qrels is not None
        reason = "the default" if level is None else "--relevance-level"
        names, judged = list(measures or DEFAULT), _Judged(None, str(qrels), trec.read_qrels(qrels), level or 1, reason)
    for name in names:
        canonical(name)  # a mistyped one is known before millions of lines are read
    read = trec.read_run(run)
    if not set(read.queries) & set(judged.grades):
        raise RetrobenchError(
            f"{run} has no query that {dataset or qrels} judges: the run begins with query {read.queries[0]!r}, the "
            f"judgements with {next(iter(judged.grades))!r}. Give the run's own dataset or judgements."
        )
    ranked, known = read.ranked(judged.drops_self), judged.documents()
    hits = replace(ranked, rows=read.known(ranked.rows, known))
    return _score(str(run), judged, read.queries, known, hits, names)


def _by_rule(dataset: Dataset, level: int | None) -> _Judged:
    rule = dataset.rule
    reason = (
        "the dataset's rule" if level is None else f"--relevance-level; the dataset's rule is {rule.relevance_level}"
    )
    level, grades = level or rule.relevance_level, dataset.qrels()
    if not grades:
        raise RetrobenchError(f"Dataset {dataset.id!r} holds no judgements to score by. Check its files.")
    return _Judged(dataset.id, None, grades, level, reason, rule.drop_self, rule.note)


def _score(
    label: str, judged: _Judged, queries: Sequence[str], ids: Sequence[str], ranked: Ranked, names: Sequence[str]
) -> Scored:
    hits = np.asarray(ranked.rows[:, : deepest(names)])
    values = measure(queries, hits, ids, judged.grades, names, judged.level)
    answered = set(itertools.compress(queries, (ranked.rows != -1).any(1)))
    return Scored(
        run=label,
        dataset=judged.dataset,
        qrels=judged.qrels,
        relevance_level=judged.level,
        queries=len(judged.grades),
        missing=len(judged.grades.keys() - answered),
        self_hits_removed=ranked.self_hits,
        ties=ranked.ties,
        measures={name: float(np.mean(list(of.values()))) for name, of in values.items()},
        values=values,
        unjudged=len(set(queries) - judged.grades.keys()),
        unanswerable=len(unanswerable(judged.grades, judged.level)),
        constant=_constant(ranked),
        length=int((ranked.rows != -1).sum(1).max(initial=0)),
        reason=judged.reason,
        drops_self=judged.drops_self,
        note=judged.note,
    )


def _constant(ranked: Ranked) -> int:
    """Lists of two hits or more that have one score throughout."""
    equal = (ranked.scores[:, 1:] == ranked.scores[:, :1]) | (ranked.rows[:, 1:] == -1)
    return int((equal.all(1) & (ranked.rows[:, 1:2] != -1).any(1)).sum())
