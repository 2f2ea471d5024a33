"""
Score a run. Every measure reads the same ranking, and the counts behind the scores are reported with them.

* score_file(...)   a TREC run against a dataset or a file of judgements
* score_run(...)    a parsed TREC run against judgements
* Judgements        the judgements of a dataset, or of a file, with their rule
* score_hits(...)   hits in memory against a dataset
* Scored            the measures with their counts, as JSON and as text for a terminal
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from retrobench.core import Column, Table
from retrobench.data import Dataset, Exclusions, load
from retrobench.errors import RetrobenchError
from retrobench.scoring import trec
from retrobench.scoring.judged import condensed, judged_documents, unanswerable
from retrobench.scoring.measures import canonical, deepest, measure, parse
from retrobench.scoring.ranking import Ranking

__all__ = ["DEFAULT", "Judgements", "Scored", "dataset_judgements", "score_file", "score_hits", "score_run"]

DEFAULT_LEVEL = "the default"
# The counts of a score object, in the order of `--json`.
COUNTS = (
    *("relevance_level", "queries", "missing", "self_hits_removed", "excluded_removed", "ties"),
    *("dangling_documents", "dangling_queries"),
)
SHORT = 10  # hits; a shorter list holds all documents of a toy collection
# The measures if neither the user nor the dataset names any.
DEFAULT = ("nDCG@10", "MRR@10", "RR", "Recall@100", "Recall@1000", "Success@10", "MAP")


@dataclass(frozen=True)
class Scored:
    """Hold the measures of a run on a dataset. Means are over all judged queries; a query without a hit counts 0."""

    run: str
    dataset: str | None  # either `dataset` or `qrels` is set
    qrels: str | None
    relevance_level: int  # the least relevant grade, except in nDCG, which uses the grades
    queries: int  # judged
    missing: int  # judged queries without a hit
    self_hits_removed: int
    excluded_removed: int  # hits that the judgements exclude
    ties: int  # hits whose rank their id alone decided
    measures: dict[str, float]
    values: dict[str, dict[str, float]]  # measure -> query -> value
    unjudged: int = 0  # the run's queries without judgements; they are left out
    unanswerable: int = 0  # judged queries without a relevant document; they count 0
    constant: int = 0  # the run's queries with two hits or more and a single score
    length: int = 0  # hits in the longest list
    reason: str = ""  # the source of the relevance level
    exclusions: Exclusions = field(default_factory=Exclusions)
    rules: tuple[str, ...] = ()  # how the dataset's rule departs from the default, in words
    note: str = ""  # a caveat about the dataset
    highest_grade: int = 1
    dangling_documents: int | None = None  # judgements whose document the corpus lacks; None: the corpus is unknown
    dangling_queries: int | None = None  # judged queries without text
    left_out: dict[str, float] | None = None  # the measures where unjudged hits are left out, if these were requested

    def document(self, per_query: bool = False) -> dict[str, Any]:
        """Return the score object of `--json`, with unrounded values."""
        score: dict[str, Any] = {"run": self.run}
        if self.dataset is not None:
            score["dataset"] = self.dataset
        else:
            score["qrels"] = self.qrels
        for name in COUNTS:
            score[name] = getattr(self, name)
        score["rules"] = list(self.rules)
        score["measures"] = self.measures
        if self.left_out is not None:
            score["bounds"] = self._bounds()
        if per_query:
            score["per_query"] = self.per_query()
        return score

    def per_query(self) -> dict[str, dict[str, float]]:
        """Return query -> measure -> value."""
        values_of_query: dict[str, dict[str, float]] = {}
        for measure_name, values in self.values.items():
            for query, value in values.items():
                values_of_query.setdefault(query, {})[measure_name] = value
        return values_of_query

    def _bounds(self) -> dict[str, dict[str, float]]:
        """Return measure -> its values where unjudged hits are irrelevant, and where they are left out."""
        assert self.left_out is not None
        bounds = {}
        for name, value in self.left_out.items():
            bounds[name] = {"unjudged_irrelevant": self.measures[name], "unjudged_left_out": value}
        return bounds

    def bounds_in_words(self) -> list[str]:
        """Return a sentence on the measures without unjudged hits, if these were requested."""
        if self.left_out is None:
            return []
        values = ", ".join(f"{name} {value:.4f}" for name, value in self.left_out.items())
        return [f"With unjudged hits left out of the rankings: {values} (no upper bound)."]

    def json(self, per_query: bool = False) -> str:
        """Return the score object as JSON."""
        return json.dumps(self.document(per_query), indent=2, ensure_ascii=False)

    def text(self, per_query: bool = False) -> str:
        """Return the measures to 4 decimals, counts, warnings and, with `per_query`, every query's values."""
        rows = [(name, f"{value:.4f}") for name, value in self.measures.items()]
        rows.append(("", ""))
        rows += self._facts()
        listing = Table([Column(""), Column("")], rows)
        lines = [f"{self.run} on {self.dataset or self.qrels}", "", listing.text()]
        lines += self.bounds_in_words()
        for warning in self._warnings():
            lines.append(f"Warning: {warning}")
        if per_query:
            lines += ["", self._table().text()]
        return "\n".join(lines)

    def _facts(self) -> list[tuple[str, str]]:
        rule = "no rule asks for it"
        if self.exclusions.own:
            rule = "the dataset's rule"
        facts = [
            ("queries", f"{self.queries}, all that are judged: the mean is over them"),
            ("missing", f"{self.missing}"),
            ("unjudged", f"{self.unjudged} of the run's queries, left out"),
            ("unanswerable", f"{self.unanswerable} without a relevant document, counted 0"),
            ("self-hits removed", f"{self.self_hits_removed} ({rule})"),
            ("ties broken", f"{self.ties} hits, by document id"),
            ("relevance level", f"{self.relevance_level} ({self.reason}); nDCG keeps grades, linear gain"),
            ("cross-checked", "ranx = trec_eval on every query"),
        ]
        if self.exclusions.documents:
            facts.append(("excluded removed", f"{self.excluded_removed} (the dataset's rule)"))
        if self.note:
            facts.append(("note", self.note))
        return facts

    def dangling(self) -> list[str]:
        """Return a sentence each on judged documents and on judged queries that do not exist."""
        sentences = []
        if self.dangling_documents:
            sentences.append(f"{self.dangling_documents:,} judgements name documents that the corpus lacks.")
        if self.dangling_queries:
            sentences.append(f"{self.dangling_queries:,} judged queries have no text; each counts 0.")
        return sentences

    def _warnings(self) -> list[str]:
        warnings = self.dangling()
        if self.highest_grade > 1 and self.reason == DEFAULT_LEVEL:
            warnings.append(
                f"grades reach {self.highest_grade}, and all measures but nDCG count grade 1 as relevant. "
                "TREC DL counts from 2: --relevance-level 2."
            )
        if self.missing:
            warnings.append(f"the run has no hit for {self.missing} of {self.queries} judged queries; each counts 0.")
        deeper = self._deeper_measures()
        if deeper:
            warnings.append(f"no list is longer than {self.length} hits, so {', '.join(deeper)} read no deeper.")
        if self.constant:
            warnings.append(f"{self.constant} queries have one score for all their hits: the ids alone ranked those.")
        return warnings

    def _deeper_measures(self) -> list[str]:
        """Return the measures whose cutoff is beyond the longest list, unless the collection is a toy."""
        if self.length < SHORT:
            return []
        deeper = []
        for name in self.measures:
            cutoff = deepest([name])
            if cutoff is not None and cutoff > self.length:
                deeper.append(name)
        return deeper

    def _table(self) -> Table:
        """Return a row for each query."""
        columns = [Column("query")]
        columns += [Column(name, "right", "measure") for name in self.measures]
        rows = []
        for query, values in self.per_query().items():
            rows.append([query, *(f"{value:.4f}" for value in values.values())])
        return Table(columns, rows)


@dataclass(frozen=True)
class Judgements:
    """Hold the judgements that a run is scored against, and the rule of their dataset."""

    dataset: str | None
    qrels: str | None
    grades: Mapping[str, Mapping[str, int]]
    level: int
    reason: str
    exclusions: Exclusions = field(default_factory=Exclusions)
    rules: tuple[str, ...] = ()
    note: str = ""


def score_hits(
    label: str,
    dataset: Dataset,
    queries: Sequence[str],
    ids: Sequence[str],
    ranking: Ranking,
    names: Sequence[str],
    level: int | None = None,
    bounds: bool = False,
) -> Scored:
    """
    Score a ranking of `ids` for `queries` under the dataset's rule, by the rule's measures if `names` is empty.

    `queries` and `ids` are all of the dataset. `ranking` must be without the documents that the rule removes. `level`
    replaces the rule's relevance level. With `bounds`, the measures are computed without unjudged hits too.
    """
    judgements = dataset_judgements(dataset, level)
    scored = _score(label, judgements, queries, ids, ranking, names or dataset.rule.measures, bounds)
    documents = set(ids)
    dangling_documents = 0
    for grades in judgements.grades.values():
        dangling_documents += sum(document not in documents for document in grades)
    dangling_queries = len(judgements.grades.keys() - set(queries))
    return replace(scored, dangling_documents=dangling_documents, dangling_queries=dangling_queries)


def score_file(
    run: Path,
    dataset: str | None,
    qrels: Path | None,
    measures: Sequence[str],
    level: int | None = None,
    bounds: bool = False,
) -> Scored:
    """
    Score a TREC run file against a dataset, with its rule, or against a file of judgements.

    Without `measures` the dataset's own are computed, or `DEFAULT`. Without `level` the relevance level is the rule's,
    or 1. With `bounds`, the measures are computed without unjudged hits too. Raises RetrobenchError for a faulty file,
    and unless exactly one of `dataset` and `qrels` is given.
    """
    if (dataset is None) == (qrels is None):
        raise RetrobenchError("Give either --dataset ID or --qrels FILE: judgements come from exactly one place.")
    if dataset is not None:
        source = load(dataset)
        names = measures or source.rule.measures
        judgements = dataset_judgements(source, level)
    else:
        assert qrels is not None
        names = measures or DEFAULT
        judgements = _file_judgements(qrels, level)
    for name in names:
        canonical(name)  # report an unknown measure before reading millions of lines
    parsed = trec.read_run(run)
    return score_run(str(run), parsed, parsed.rank(judgements.exclusions), judgements, names, bounds)


def score_run(
    label: str,
    run: trec.Run,
    ranking: Ranking,
    judgements: Judgements,
    names: Sequence[str],
    bounds: bool = False,
) -> Scored:
    """Score the `ranking` of a TREC run. RetrobenchError for a run without a judged query."""
    _require_common_queries(label, run.queries, judgements)
    documents = judged_documents(judgements.grades)
    hits = replace(ranking, rows=run.rows_among(documents, ranking.rows))
    return _score(label, judgements, run.queries, documents, hits, names, bounds)


def dataset_judgements(dataset: Dataset, level: int | None = None) -> Judgements:
    """Return the judgements of a dataset with its rule. `level` replaces the rule's relevance level."""
    rule = dataset.rule
    reason = "the dataset's rule"
    if level is not None:
        reason = f"--relevance-level; the dataset's rule is {rule.relevance_level}"
    grades = dataset.qrels()
    if not grades:
        raise RetrobenchError(f"Dataset {dataset.id!r} holds no judgements to score by. Check its files.")
    return Judgements(
        dataset=dataset.id,
        qrels=None,
        grades=grades,
        level=level or rule.relevance_level,
        reason=reason,
        exclusions=dataset.exclusions(),
        rules=tuple(rule.departures()),
        note=rule.note,
    )


def _file_judgements(path: Path, level: int | None) -> Judgements:
    grades = trec.read_qrels(path)
    reason = DEFAULT_LEVEL
    if level is not None:
        reason = "--relevance-level"
    return Judgements(dataset=None, qrels=str(path), grades=grades, level=level or 1, reason=reason)


def _require_common_queries(run: str, queries: Sequence[str], judgements: Judgements) -> None:
    if not judgements.grades.keys().isdisjoint(queries):
        return
    first_judged = next(iter(judgements.grades))
    raise RetrobenchError(
        f"{run} has no query that {judgements.dataset or judgements.qrels} judges: the run begins with query "
        f"{queries[0]!r}, the judgements with {first_judged!r}. Give the run's own dataset or judgements."
    )


def _score(
    label: str,
    judgements: Judgements,
    queries: Sequence[str],
    ids: Sequence[str],
    ranking: Ranking,
    names: Sequence[str],
    bounds: bool,
) -> Scored:
    hits = np.asarray(ranking.rows[:, : deepest(names)])
    values = measure(queries, hits, ids, judgements.grades, names, judgements.level)
    left_out = None
    if bounds:
        judged_hits = condensed(queries, ranking.rows, ids, judgements.grades)
        judged_values = measure(queries, judged_hits, ids, judgements.grades, names, judgements.level)
        left_out = {name: mean for name, mean in _means(judged_values).items() if parse(name).kind != "Judged"}
    present = ranking.rows != -1
    judged_queries = judgements.grades.keys()
    answered_queries = set(itertools.compress(queries, present.any(1)))
    return Scored(
        run=label,
        dataset=judgements.dataset,
        qrels=judgements.qrels,
        relevance_level=judgements.level,
        queries=len(judged_queries),
        missing=len(judged_queries - answered_queries),
        self_hits_removed=ranking.self_hits,
        excluded_removed=ranking.excluded,
        ties=ranking.ties,
        measures=_means(values),
        values=values,
        unjudged=len(set(queries) - judged_queries),
        unanswerable=len(unanswerable(judgements.grades, judgements.level)),
        constant=_count_constant(ranking),
        length=int(present.sum(1).max(initial=0)),
        reason=judgements.reason,
        exclusions=judgements.exclusions,
        rules=judgements.rules,
        note=judgements.note,
        highest_grade=max(max(grades.values(), default=0) for grades in judgements.grades.values()),
        left_out=left_out,
    )


def _means(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each measure over all queries."""
    return {name: float(np.mean(list(by_query.values()))) for name, by_query in values.items()}


def _count_constant(ranking: Ranking) -> int:
    """Count the lists of two hits or more whose hits all have the same score."""
    absent = ranking.rows[:, 1:] == -1
    equal = ranking.scores[:, 1:] == ranking.scores[:, :1]
    constant = (equal | absent).all(1)
    has_two_hits = (~absent[:, :1]).any(1)
    return int((constant & has_two_hits).sum())
