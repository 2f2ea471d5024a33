"""What a census of a collection means: faults, which make scores wrong, and what else is to be known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from retrobench.data.census import SHOWN, Documents, Examples, Judgements, Queries
from retrobench.data.rules import Rule

__all__ = ["Finding", "findings"]


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed, under a name for programs and in a sentence for readers."""

    level: Literal["fault", "warning", "remark"]
    kind: str
    count: int
    text: str
    examples: tuple[str, ...] = ()

    def row(self) -> tuple[str, str]:
        """Return the level, a fault in capitals, and the sentence with its examples."""
        level = self.level.upper() if self.level == "fault" else self.level
        if not self.examples:
            return level, self.text
        more = ", ..." if self.count > len(self.examples) else ""
        return level, f"{self.text}: {', '.join(self.examples)}{more}"


def findings(
    documents: Documents | None,
    queries: Queries | None,
    judgements: Judgements | None,
    rule: Rule,
    published: Mapping[str, int],
) -> tuple[Finding, ...]:
    """All that is to be said of a dataset, faults first. A part is None that is not there or could not be read.

    `published` are the counts of `docs`, `queries` and `qrels` where they are known. What a dataset was published with
    (`rule.dangling`) is no fault of it, but another number is.
    """
    found = list(_counts({"docs": documents, "queries": queries, "qrels": judgements}, published))
    if documents:
        found += _documents(documents)
    if queries:
        found += _queries(queries)
    if judgements:
        found += _judgements(judgements, rule)
    if documents and judgements:
        found += _absent(documents, judgements, rule)
    if queries and judgements:
        found += _unmatched(queries, judgements)
    if documents and queries:
        found += _namesakes(documents, queries, rule)
    return tuple(sorted(found, key=lambda finding: ("fault", "warning", "remark").index(finding.level)))


def _counts(
    parts: Mapping[str, Documents | Queries | Judgements | None], published: Mapping[str, int]
) -> Iterator[Finding]:
    names = {"docs": "documents", "queries": "queries", "qrels": "judgements"}
    for entity, part in parts.items():
        if part and entity in published and published[entity] != part.rows:
            text = f"{part.rows:,} {names[entity]} where {published[entity]:,} are published"
            yield Finding("fault", f"{names[entity]}-count", part.rows, text)


def _documents(documents: Documents) -> Iterator[Finding]:
    yield from _unfit(documents.unfit, "document")
    if count := documents.repeated_ids():
        yield Finding("fault", "repeated-document-ids", count, f"{count:,} documents have the id of an earlier one")
    if count := documents.repeated_texts():
        text = f"{count:,} documents have the title and text of an earlier one"
        yield Finding("remark", "repeated-texts", count, text)
    if documents.empty.count:
        yield _of(documents.empty, "remark", "empty-documents", "documents are empty")


def _queries(queries: Queries) -> Iterator[Finding]:
    yield from _unfit(queries.unfit, "query")
    if queries.repeated.count:
        yield _of(queries.repeated, "fault", "repeated-query-ids", "queries have the id of an earlier one")
    if queries.empty.count:
        yield _of(queries.empty, "remark", "empty-queries", "queries are empty")


def _judgements(judgements: Judgements, rule: Rule) -> Iterator[Finding]:
    if judgements.contradictory.count:
        yield _of(judgements.contradictory, "fault", "contradictions", "pairs are judged twice with different grades")
    if judgements.repeated:
        text = f"{judgements.repeated:,} judgements are said twice, with the same grade"
        yield Finding("remark", "repeated-judgements", judgements.repeated, text)
    if count := sum(count for grade, count in judgements.by_grade.items() if grade < 0):
        yield Finding("remark", "negative-grades", count, f"{count:,} judgements have a grade below 0: it counts as 0")
    if count := judgements.below(1):
        text = f"{count:,} queries have no judgement above 0: they count 0 in every measure"
        yield Finding("remark", "queries-without-relevant", count, text)
    if rule.relevance_level > 1 and (count := judgements.below(rule.relevance_level)):
        text = f"{count:,} queries have no grade of {rule.relevance_level} or more: they count 0 except in nDCG"
        yield Finding("remark", "queries-below-level", count, text)


def _absent(documents: Documents, judgements: Judgements, rule: Rule) -> Iterator[Finding]:
    count = judgements.naming(documents.absent)
    if count or rule.dangling:
        known = count == rule.dangling
        text = f"{count:,} judgements name documents that the corpus lacks"
        text += ", as published" if known else f", {rule.dangling:,} as published" if rule.dangling else ""
        examples = tuple(sorted(documents.absent)[:SHOWN])
        yield Finding("remark" if known else "fault", "dangling-documents", count, text, examples)


def _unmatched(queries: Queries, judgements: Judgements) -> Iterator[Finding]:
    if count := sum(query not in judgements.grades for query in queries.texts):
        text = f"{count:,} queries have no judgement and are not scored"
        yield Finding("remark", "unjudged-queries", count, text)
    absent = [query for query in judgements.grades if query not in queries.texts]
    if absent:
        text = f"{len(absent):,} judged queries have no text and would count 0"
        yield Finding("fault", "dangling-queries", len(absent), text, tuple(absent[:SHOWN]))


def _namesakes(documents: Documents, queries: Queries, rule: Rule) -> Iterator[Finding]:
    count = documents.namesakes
    if not count:
        return
    text = f"{count:,} of {len(queries.texts):,} query ids are also document ids"
    if rule.drop_self:
        yield Finding("remark", "shared-ids", count, f"{text}; a query's own document is dropped from its ranking")
    elif documents.same_text.count:
        # Most often the query itself would be found first, and no rule takes it out.
        text += f", and {documents.same_text.count:,} times with the same text, but no rule drops them (drop_self)"
        yield Finding("warning", "shared-ids", count, text, tuple(documents.same_text.first))
    else:
        text += ", never with the same text: a coincidence of numbering, nothing is dropped"
        yield Finding("remark", "shared-ids", count, text)


def _unfit(examples: Examples, kind: str) -> Iterator[Finding]:
    if examples.count:
        told = f"{kind} ids are empty or hold white space, which no TREC file can carry"
        yield _of(examples, "fault", f"unfit-{kind}-ids", told)


def _of(examples: Examples, level: Literal["fault", "remark"], kind: str, text: str) -> Finding:
    return Finding(level, kind, examples.count, f"{examples.count:,} {text}", tuple(examples.first))
