"""
Check datasets: counts, hashes, repetitions, and judgements that name no document or query.

* check           read a dataset, or each member of a group, and return a `CheckReport`
* CheckReport     the findings as text or JSON, with an exit code
"""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from retrobench.core import Column, Table, bar
from retrobench.data import catalogue, folder, groups, rules
from retrobench.data.census import DocumentCensus, JudgementCensus, QueryCensus
from retrobench.data.collection import Collection, open_collections
from retrobench.data.datasets import CatalogueDataset, Dataset, Document, FolderDataset, digest, load, qrels_digest
from retrobench.data.findings import DatasetFinding, about_overlap, by_level, derive
from retrobench.data.overlap import Questions, find_overlap, read_questions
from retrobench.data.tables import FaultyFile

__all__ = ["CheckReport", "CheckedDataset", "DatasetPart", "check"]

LARGE = 500_000  # documents; from this number on, reading them draws a bar
BAR_STEP = 10_000  # documents between two updates of the bar


@dataclass(frozen=True)
class DatasetPart:
    """The count, the published count and the SHA-256, in hexadecimal, of documents, queries or judgements.

    The hash is None where they could not be read to the end.
    """

    count: int
    published: int | None
    sha256: str | None

    def facts(self) -> list[str]:
        """Return the published count, if there is one, and the beginning of the hash."""
        facts = []
        if self.published is not None:
            facts.append(f"of {self.published:,} published")
        sha256 = self.sha256 or "none"
        facts.append(f"sha256 {sha256[:16]}")
        return facts


@dataclass(frozen=True)
class CheckedDataset:
    """The result of checking one dataset. Queries and judgements are None where the dataset has none."""

    dataset: str
    title: str
    rule: rules.Rule
    titled: int
    documents: DatasetPart
    queries: DatasetPart | None
    judgements: DatasetPart | None
    grades: dict[int, int]  # grade -> number of judgements
    findings: tuple[DatasetFinding, ...]

    def text(self) -> str:
        """Return counts, rule and findings below the dataset's name, for a terminal."""
        heading = self.dataset
        if self.title:
            heading += f": {self.title}"
        remarks = [("rule", _rule_in_words(self.rule))]
        for finding in self.findings:
            remarks.append(finding.row())
        count_table = self._count_table().text()
        remark_table = Table([Column(""), Column("")], remarks).text()
        tables = textwrap.indent(f"{count_table}\n{remark_table}", "  ")
        return f"{heading}\n{tables}"

    def _count_table(self) -> Table:
        """Return a row each for documents, queries and judgements: the count, and facts about it."""
        rows = [_count_row("documents", self.documents, [f"{self.titled:,} with a title"])]
        if self.queries:
            rows.append(_count_row("queries", self.queries, []))
        if self.judgements:
            grades = []
            for grade, count in self.grades.items():
                grades.append(f"{count:,} of grade {grade}")
            rows.append(_count_row("judgements", self.judgements, grades))
        return Table([Column(""), Column("", "right", "number"), Column("")], rows)


def _count_row(name: str, counted: DatasetPart, facts: list[str]) -> list[str]:
    all_facts = [*counted.facts(), *facts]
    return [name, f"{counted.count:,}", ", ".join(all_facts)]


@dataclass(frozen=True)
class CheckReport:
    """The results of checking a dataset, or each member of a group."""

    dataset: str
    checked: tuple[CheckedDataset, ...]

    @property
    def faults(self) -> int:
        """Return the number of findings that are faults."""
        count = 0
        for dataset in self.checked:
            count += sum(finding.level == "fault" for finding in dataset.findings)
        return count

    @property
    def exit_code(self) -> int:
        """Return 1 if there is a fault, else 0."""
        return 1 if self.faults else 0

    def text(self) -> str:
        """Return every dataset's text and the number of faults, for a terminal."""
        paragraphs = [dataset.text() for dataset in self.checked]
        if self.faults > 1:
            paragraphs.append(f"{self.faults} faults.")
        elif self.faults:
            paragraphs.append("1 fault.")
        else:
            paragraphs.append("No fault.")
        return "\n\n".join(paragraphs)

    def json(self) -> str:
        """Return the report with whole hashes as JSON: `{dataset, faults, checked: [...]}`."""
        checked = [asdict(dataset) for dataset in self.checked]
        report = {"dataset": self.dataset, "faults": self.faults, "checked": checked}
        return json.dumps(report, indent=2, ensure_ascii=False)


def check(dataset_id: str, against: str | None = None) -> CheckReport:
    """Read a dataset to its end, or each member of a group, and return the findings.

    A question that the dataset shares with the training dataset `against` is a fault. Raise RetrobenchError where a
    dataset is unknown or cannot be downloaded.
    """
    members = groups.expand(dataset_id)
    checked = [_check(load(member)) for member in members]
    if against:
        collections = open_collections([*members, against])
        train = read_questions(collections[against])
        checked = [_compare(member, train, collections[member.dataset]) for member in checked]
    return CheckReport(dataset_id, tuple(checked))


def _compare(checked: CheckedDataset, train: Questions, test: Collection) -> CheckedDataset:
    """Return a checked dataset with findings about its questions beside those of a training dataset."""
    if any(finding.kind == "unreadable" for finding in checked.findings):
        return checked
    shared = about_overlap(find_overlap(train, read_questions(test)))
    return replace(checked, findings=by_level([*shared, *checked.findings]))


def _check(dataset: Dataset) -> CheckedDataset:
    unreadable: list[DatasetFinding] = []
    judgements, qrels_hash = _read_judgements(dataset, unreadable)
    queries, queries_hash = QueryCensus(), None
    if not unreadable:  # a folder's queries are the judged queries, so they cannot be read without judgements
        queries, queries_hash = _read_queries(dataset, unreadable)
    documents = DocumentCensus(queries.texts, judgements.document_ids())
    documents_hash = _read_documents(dataset, documents, unreadable)
    published: dict[str, int] = {}
    if isinstance(dataset, CatalogueDataset):
        published = catalogue.published(dataset.id)
    derived = derive(
        documents if documents_hash else None,
        queries if queries_hash else None,
        judgements if qrels_hash else None,
        dataset.rule,
        published,
    )
    queries_part = judgements_part = None
    if dataset.has("queries"):
        queries_part = DatasetPart(queries.rows, published.get("queries"), queries_hash)
    if dataset.has("qrels"):
        # Contradictory judgements have no hash: tools differ in the grade they use.
        sha256 = None if judgements.contradictory.count else qrels_hash
        judgements_part = DatasetPart(judgements.rows, published.get("qrels"), sha256)
    return CheckedDataset(
        dataset=dataset.id,
        title=dataset.title,
        rule=dataset.rule,
        titled=documents.titled,
        documents=DatasetPart(documents.rows, published.get("docs"), documents_hash),
        queries=queries_part,
        judgements=judgements_part,
        grades=dict(sorted(judgements.by_grade.items())),
        findings=(*unreadable, *derived),
    )


def _read_judgements(dataset: Dataset, findings: list[DatasetFinding]) -> tuple[JudgementCensus, str | None]:
    """Return the census of the judgements and their hash. A damaged file is added to the findings."""
    census = JudgementCensus()
    sha256 = None
    if dataset.has("qrels"):
        with _damage_as_finding(findings):
            census.read(dataset.judgements())
            sha256 = qrels_digest(census.grades)
    return census, sha256


def _read_queries(dataset: Dataset, findings: list[DatasetFinding]) -> tuple[QueryCensus, str | None]:
    """Return the census of the queries and their hash. Damage and unused queries are added to the findings."""
    census = QueryCensus()
    sha256 = None
    if dataset.has("queries"):
        with _damage_as_finding(findings):
            queries = census.counted(dataset.queries())
            sha256 = digest([query.id, query.text] for query in queries)
            findings.extend(_unused_queries(dataset))
    return census, sha256


def _read_documents(dataset: Dataset, census: DocumentCensus, findings: list[DatasetFinding]) -> str | None:
    """Count the documents in the census and return their hash, None where they could not be read to the end."""
    with _damage_as_finding(findings), _bar_for_many(dataset) as watched:
        documents = census.counted(watched(dataset.documents()))
        return digest([document.id, document.title, document.text] for document in documents)
    return None


def _unused_queries(dataset: Dataset) -> Iterator[DatasetFinding]:
    """Yield a remark on the queries in a folder that no split judges. `Dataset.queries` leaves them out."""
    if not isinstance(dataset, FolderDataset):
        return
    count = folder.unjudged(dataset.folder, dataset.split)
    if count:
        text = f"{count:,} more queries are in the folder, judged in no split and never used"
        yield DatasetFinding("remark", "unjudged-queries", count, text)


@contextlib.contextmanager
def _damage_as_finding(findings: list[DatasetFinding]) -> Iterator[None]:
    """Add a damaged file to the findings, so that the check goes on with the next file."""
    try:
        yield
    except FaultyFile as error:
        findings.append(DatasetFinding("fault", "unreadable", 1, str(error)))


@contextlib.contextmanager
def _bar_for_many(dataset: Dataset) -> Iterator[Callable[[Iterable[Document]], Iterable[Document]]]:
    """Give a function that passes documents through, and draw a bar meanwhile where there are many."""
    total = dataset.document_count()
    if total < LARGE:
        yield lambda documents: documents
        return
    with bar(f"check {dataset.id}", total, "documents") as advance:

        def watched(documents: Iterable[Document]) -> Iterator[Document]:
            for number, document in enumerate(documents, 1):
                if number % BAR_STEP == 0:
                    advance(BAR_STEP)
                yield document

        yield watched


def _rule_in_words(rule: rules.Rule) -> str:
    words = [*rule.departures(), ", ".join(rule.measures)]
    if rule.note:
        words.append(rule.note)
    return "; ".join(words)
