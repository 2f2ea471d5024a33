"""Findings about a dataset, derived from its census: faults make scores wrong, warnings and remarks do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from retrobench.data.census import SHOWN, DocumentCensus, JudgementCensus, Occurrences, QueryCensus
from retrobench.data.identifiers import TOO_LARGE, UNFIT
from retrobench.data.overlap import Overlap
from retrobench.data.rules import Rule

__all__ = ["DatasetFinding", "about_overlap", "by_level", "derive"]

LEVELS = ("fault", "warning", "remark")  # worst first


@dataclass(frozen=True)
class DatasetFinding:
    """A fault, warning or remark about a dataset: `kind` is its name for programs, `text` a sentence for readers."""

    level: Literal["fault", "warning", "remark"]
    kind: str
    count: int
    text: str
    examples: tuple[str, ...] = ()

    def row(self) -> tuple[str, str]:
        """Return the level, a fault in capitals, and the sentence with its examples."""
        level: str = self.level
        if level == "fault":
            level = "FAULT"
        if not self.examples:
            return level, self.text
        examples = ", ".join(self.examples)
        if self.count > len(self.examples):
            examples += ", ..."
        return level, f"{self.text}: {examples}"


def derive(
    documents: DocumentCensus | None,
    queries: QueryCensus | None,
    judgements: JudgementCensus | None,
    rule: Rule,
    published: Mapping[str, int],
) -> tuple[DatasetFinding, ...]:
    """Return all findings about a dataset, faults first. A census is None where its source is missing or unreadable.

    `published` are the recorded counts of `docs`, `queries` and `qrels`. The published number of dangling judgements
    (`rule.dangling`) is no fault, but any other number is.
    """
    findings: list[DatasetFinding] = []
    if documents:
        findings += _count_mismatch("documents", documents.rows, published.get("docs"))
    if queries:
        findings += _count_mismatch("queries", queries.rows, published.get("queries"))
    if judgements:
        findings += _count_mismatch("judgements", judgements.rows, published.get("qrels"))
    if documents:
        findings += _about_documents(documents)
    if queries:
        findings += _about_queries(queries)
    if judgements:
        findings += _about_judgements(judgements, rule)
    if documents and judgements:
        findings += _dangling_documents(documents, judgements, rule)
    if queries and judgements:
        findings += _unmatched_queries(queries, judgements)
    if documents and queries:
        findings += _shared_ids(documents, queries, rule)
    return by_level(findings)


def by_level(findings: Iterable[DatasetFinding]) -> tuple[DatasetFinding, ...]:
    """Return the findings in their order, faults first."""
    return tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))


def about_overlap(overlap: Overlap) -> Iterator[DatasetFinding]:
    """Yield the findings about a test dataset beside a training dataset. Only shared questions are a fault."""
    train = overlap.train
    if count := overlap.questions:
        text = f"{count:,} of {overlap.total:,} questions are questions of {train}"
        yield DatasetFinding("fault", "shared-questions", count, text, overlap.examples)
    else:
        text = f"none of {overlap.total:,} questions is a question of {train}"
        yield DatasetFinding("remark", "shared-questions", 0, text)
    if count := overlap.texts:
        text = f"{count:,} questions have the text of a question of {train} about other documents"
        yield DatasetFinding("remark", "shared-question-texts", count, text)
    if count := overlap.documents:
        text = f"{count:,} relevant documents are relevant to questions of {train} too"
        yield DatasetFinding("remark", "shared-relevant-documents", count, text)


def _count_mismatch(name: str, count: int, published: int | None) -> Iterator[DatasetFinding]:
    if published is not None and count != published:
        text = f"{count:,} {name} where {published:,} are published"
        yield DatasetFinding("fault", f"{name}-count", count, text)


def _about_documents(documents: DocumentCensus) -> Iterator[DatasetFinding]:
    yield from _unfit_ids(documents.unfit, "document")
    if count := documents.repeated_ids():
        text = f"{count:,} documents have the id of an earlier one"
        yield DatasetFinding("fault", "repeated-document-ids", count, text)
    if count := documents.repeated_texts():
        text = f"{count:,} documents have the title and text of an earlier one"
        yield DatasetFinding("remark", "repeated-texts", count, text)
    if documents.empty.count:
        yield _with_examples(documents.empty, "remark", "empty-documents", "documents are empty")


def _about_queries(queries: QueryCensus) -> Iterator[DatasetFinding]:
    yield from _unfit_ids(queries.unfit, "query")
    if queries.repeated.count:
        text = "queries have the id of an earlier one"
        yield _with_examples(queries.repeated, "fault", "repeated-query-ids", text)
    if queries.empty.count:
        yield _with_examples(queries.empty, "remark", "empty-queries", "queries are empty")


def _about_judgements(judgements: JudgementCensus, rule: Rule) -> Iterator[DatasetFinding]:
    if judgements.contradictory.count:
        text = "pairs are judged twice with different grades"
        yield _with_examples(judgements.contradictory, "fault", "contradictions", text)
    if count := judgements.repeated:
        text = f"{count:,} judgements repeat a pair with the same grade"
        yield DatasetFinding("remark", "repeated-judgements", count, text)
    if count := judgements.rows_beyond_range():
        yield DatasetFinding("fault", "too-large-grades", count, f"{count:,} judgements have {TOO_LARGE}")
    excluded = 0
    if rule.excluded_grade is not None:
        excluded = judgements.by_grade.get(rule.excluded_grade, 0)
    if excluded:
        text = f"{excluded:,} judgements exclude a document from its query's ranking (grade {rule.excluded_grade})"
        yield DatasetFinding("remark", "excluded-documents", excluded, text)
    elif count := judgements.rows_below(0):
        text = f"{count:,} judgements have a grade below 0: it counts as 0"
        yield DatasetFinding("remark", "negative-grades", count, text)
    if count := judgements.queries_below(1):
        text = f"{count:,} queries have no judgement above 0: they count 0 in every measure"
        yield DatasetFinding("remark", "queries-without-relevant", count, text)
    level = rule.relevance_level
    if level > 1 and (count := judgements.queries_below(level)):
        text = f"{count:,} queries have no grade of {level} or more: they count 0 except in nDCG"
        yield DatasetFinding("remark", "queries-below-level", count, text)


def _dangling_documents(documents: DocumentCensus, judgements: JudgementCensus, rule: Rule) -> Iterator[DatasetFinding]:
    count = judgements.pairs_with(documents.absent)
    if not count and not rule.dangling:
        return
    text = f"{count:,} judgements name documents that the corpus lacks"
    examples = tuple(sorted(documents.absent)[:SHOWN])
    if count == rule.dangling:
        yield DatasetFinding("remark", "dangling-documents", count, f"{text}, as published", examples)
        return
    if rule.dangling:
        text += f", {rule.dangling:,} as published"
    yield DatasetFinding("fault", "dangling-documents", count, text, examples)


def _unmatched_queries(queries: QueryCensus, judgements: JudgementCensus) -> Iterator[DatasetFinding]:
    unjudged = queries.texts.keys() - judgements.grades.keys()
    if unjudged:
        count = len(unjudged)
        text = f"{count:,} queries have no judgement and are not scored"
        yield DatasetFinding("remark", "unjudged-queries", count, text)
    absent = [query_id for query_id in judgements.grades if query_id not in queries.texts]
    if absent:
        count = len(absent)
        text = f"{count:,} judged queries have no text and would count 0"
        examples = tuple(absent[:SHOWN])
        yield DatasetFinding("fault", "dangling-queries", count, text, examples)


def _shared_ids(documents: DocumentCensus, queries: QueryCensus, rule: Rule) -> Iterator[DatasetFinding]:
    count = documents.shared_ids
    if not count:
        return
    text = f"{count:,} of {len(queries.texts):,} query ids are also document ids"
    if rule.drop_self:
        text += "; a query's own document is dropped from its ranking"
        yield DatasetFinding("remark", "shared-ids", count, text)
    elif documents.same_text.count:
        # Such a query usually ranks itself first, and no rule removes it.
        same_text = documents.same_text
        text += f", and {same_text.count:,} times with the same text, but no rule drops them (drop_self)"
        yield DatasetFinding("warning", "shared-ids", count, text, tuple(same_text.examples))
    else:
        text += ", never with the same text: a coincidence of numbering, nothing is dropped"
        yield DatasetFinding("remark", "shared-ids", count, text)


def _unfit_ids(unfit: Occurrences, name: str) -> Iterator[DatasetFinding]:
    if unfit.count:
        yield _with_examples(unfit, "fault", f"unfit-{name}-ids", f"{name} {UNFIT}")


def _with_examples(occurrences: Occurrences, level: Literal["fault", "remark"], kind: str, text: str) -> DatasetFinding:
    count = occurrences.count
    examples = tuple(occurrences.examples)
    return DatasetFinding(level, kind, count, f"{count:,} {text}", examples)
