"""
Datasets before they are used: what there is, what is at hand, and what is wrong with it.

* listed     the datasets with rules of their own, what was made here, and whether the files are there
* fetch      download or build, so that everything works offline afterwards
* check      counts, hashes, repetitions, judgements of nothing: a report with an exit code
"""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from retrobench.core import Column, Table, bar
from retrobench.data import catalogue, census, folder, rules
from retrobench.data import datasets as data
from retrobench.data.embedded import SHIPPED
from retrobench.data.findings import Finding, findings
from retrobench.data.tables import FaultyFile
from retrobench.errors import RetrobenchError

__all__ = ["Checked", "Part", "Report", "check", "fetch", "listed"]

LARGE = 500_000  # documents, from which on reading them draws a bar
SMALL = 100_000_000  # bytes of a local corpus, up to which the list counts its lines

MSMARCO = (
    *("msmarco-passage/train", "msmarco-passage/train/triples-v2", "msmarco-passage/dev/small"),
    *("msmarco-passage/trec-dl-2019/judged", "msmarco-passage/trec-dl-2020/judged", "msmarco-passage/trec-dl-hard"),
    "beir/msmarco/dev",
)


@dataclass(frozen=True)
class Part:
    """Documents, queries or judgements: how many, how many were published, and their SHA-256 in hexadecimal.

    The hash is None where the part could not be read whole.
    """

    count: int
    published: int | None
    sha256: str | None

    def facts(self) -> list[str]:
        """Return the published count, if one is known, and the beginning of the hash."""
        published = [] if self.published is None else [f"of {self.published:,} published"]
        return [*published, f"sha256 {self.sha256[:16] if self.sha256 else 'none'}"]


@dataclass(frozen=True)
class Checked:
    """What was found of one dataset. Queries and judgements are None where it has none."""

    dataset: str
    title: str
    rule: rules.Rule
    titled: int
    documents: Part
    queries: Part | None
    judgements: Part | None
    grades: dict[int, int]  # grade -> how many judgements have it
    findings: tuple[Finding, ...]

    def text(self) -> str:
        """Return the parts, the rule and the findings below the dataset's name, for a terminal."""
        name = f"{self.dataset}: {self.title}" if self.title else self.dataset
        remarks = [("rule", _rule(self.rule)), *(finding.row() for finding in self.findings)]
        below = [self._parts().text(), Table([Column(""), Column("")], remarks).text()]
        return "\n".join([name, *(textwrap.indent(lines, "  ") for lines in below)])

    def _parts(self) -> Table:
        """Return a row for documents, queries and judgements: the count, and facts about it."""
        grades = [f"{count:,} of grade {grade}" for grade, count in self.grades.items()]
        parts = [
            ("documents", self.documents, [f"{self.titled:,} with a title"]),
            ("queries", self.queries, []),
            ("judgements", self.judgements, grades),
        ]
        rows = []
        for name, counted, facts in parts:
            if counted:
                rows.append([name, f"{counted.count:,}", ", ".join(counted.facts() + facts)])
        return Table([Column(""), Column("", "right", "number"), Column("")], rows)


@dataclass(frozen=True)
class Report:
    """What was found of a dataset, or of each member of a group."""

    dataset: str
    checked: tuple[Checked, ...]

    @property
    def faults(self) -> int:
        """How many findings are faults."""
        return sum(finding.level == "fault" for each in self.checked for finding in each.findings)

    @property
    def exit_code(self) -> int:
        """1 at a fault, else 0."""
        return 1 if self.faults else 0

    def text(self) -> str:
        """Return every dataset's text and the number of faults, for a terminal."""
        verdict = f"{self.faults} fault{'s' * (self.faults > 1)}." if self.faults else "No fault."
        return "\n\n".join([*(checked.text() for checked in self.checked), verdict])

    def json(self) -> str:
        """The same with whole hashes: `{dataset, faults, checked: [...]}`."""
        found = {"dataset": self.dataset, "faults": self.faults, "checked": [asdict(each) for each in self.checked]}
        return json.dumps(found, indent=2, ensure_ascii=False)


def check(dataset_id: str) -> Report:
    """Read a dataset through, or each member of a group. RetrobenchError where it is unknown or not to be had."""
    return Report(dataset_id, tuple(_check(data.load(member)) for member in rules.expand(dataset_id)))


def _check(dataset: data.Dataset) -> Checked:
    judgements, queries = census.Judgements(), census.Queries()
    corpus_hash = queries_hash = qrels_hash = None
    noted: list[Finding] = []
    if dataset.has("qrels"):
        with _noting(noted):
            judgements.read(dataset.judgements())
            qrels_hash = data.digest([query, sorted(of.items())] for query, of in judgements.grades.items())
    if dataset.has("queries") and not noted:  # a folder's queries are those that are judged
        with _noting(noted):
            queries_hash = data.digest([query.id, query.text] for query in queries.passing(dataset.queries()))
            noted += _left_over(dataset)
    documents = census.Documents(queries.texts, {key for of in judgements.grades.values() for key in of})
    with _noting(noted), _bar(dataset) as advance:
        passing = documents.passing(advance(dataset.documents()))
        corpus_hash = data.digest([document.id, document.title, document.text] for document in passing)
    published = catalogue.published(dataset.id) if isinstance(dataset, data.CatalogueDataset) else {}
    judged = findings(
        documents if corpus_hash else None,
        queries if queries_hash else None,
        judgements if qrels_hash else None,
        dataset.rule,
        published,
    )
    agreed = not judgements.contradictory.count  # else which grade counts is anybody's guess
    return Checked(
        dataset.id,
        dataset.title,
        dataset.rule,
        documents.titled,
        Part(documents.rows, published.get("docs"), corpus_hash),
        Part(queries.rows, published.get("queries"), queries_hash) if dataset.has("queries") else None,
        Part(judgements.rows, published.get("qrels"), qrels_hash if agreed else None) if dataset.has("qrels") else None,
        dict(sorted(judgements.by_grade.items())),
        (*noted, *judged),
    )


def _left_over(dataset: data.Dataset) -> Iterator[Finding]:
    """Queries in a folder's file that no judgement ever asks for: they are not among `Dataset.queries`."""
    if isinstance(dataset, data.FolderDataset) and (count := folder.unjudged(dataset.folder, dataset.split)):
        text = f"{count:,} more queries are in the folder, judged in no split and never used"
        yield Finding("remark", "unjudged-queries", count, text)


@contextlib.contextmanager
def _noting(noted: list[Finding]) -> Iterator[None]:
    """A file that cannot be read to its end is a finding; the rest is still looked at."""
    try:
        yield
    except FaultyFile as error:
        noted.append(Finding("fault", "unreadable", 1, str(error)))


@contextlib.contextmanager
def _bar(dataset: data.Dataset) -> Iterator[Callable[[Iterable[data.Document]], Iterable[data.Document]]]:
    """What lets documents through and, where they are many, shows how many have gone by."""
    total = dataset.document_count()
    if total < LARGE:
        yield lambda documents: documents
        return
    with bar(f"check {dataset.id}", total, "documents") as advance:

        def counted(documents: Iterable[data.Document]) -> Iterator[data.Document]:
            for number, document in enumerate(documents, 1):
                if number % 10_000 == 0:
                    advance(10_000)
                yield document

        yield counted


def fetch(dataset_id: str) -> str:
    """Download or build a dataset, or every member of a group; returns a line for each.

    RetrobenchError naming the address and what to do by hand where something cannot be had. Several processes may
    fetch at once: the second waits for the first.
    """
    from retrobench.data.build import BUILDERS

    if dataset_id in BUILDERS:
        return BUILDERS[dataset_id](data.local_root() / dataset_id)
    return "\n".join(_fetch(data.load(member)) for member in rules.expand(dataset_id))


def _fetch(dataset: data.Dataset) -> str:
    if isinstance(dataset, data.FolderDataset):
        return f"{dataset.id}: the folder {dataset.folder.absolute()}, nothing to fetch"
    if dataset.id in SHIPPED:
        return f"{dataset.id}: ships with retrobench, nothing to fetch"
    there = [entity for entity in _entities(dataset.id) if dataset.has(entity)]
    for entity in there:
        catalogue.reach(dataset.id, entity)
    counts = catalogue.published(dataset.id)
    told = ", ".join(f"{counts[entity]:,} {entity}" if entity in counts else entity for entity in there)
    return f"{dataset.id}: {told} in {catalogue.home()}, to be used offline"


def _entities(dataset_id: str) -> tuple[str, ...]:
    # Pairs of documents are gigabytes, and only a set of triples is asked for because of them.
    return (*catalogue.ENTITIES, *(["docpairs"] if "triples" in dataset_id else []))


@dataclass(frozen=True)
class Listed:
    """A line of the list. None is what is not known without reading gigabytes or asking the network."""

    id: str
    kind: str  # group, catalogue, shipped, local or to build
    documents: int | None = None
    queries: int | None = None
    bytes: int | None = None  # to download
    at_hand: bool | None = None
    licence: str | None = None
    rule: rules.Rule | None = None
    members: tuple[str, ...] = ()
    fault: str = ""  # why a local folder cannot be used


def listed(as_json: bool) -> str:
    """The groups, the datasets with rules, the shipped collection and the local ones, as a table or a JSON array."""
    rows = [*_groups(), *_catalogued(), *_shipped(), *_local()]
    if as_json:
        return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False)
    columns = [Column("dataset")]
    columns += [Column(name, "right", "number") for name in ("documents", "queries", "download")]
    columns += [Column(name) for name in ("here", "licence", "rule")]
    where = f"ir_datasets keeps its files in {catalogue.home()}; collections made here lie in {data.local_root()}."
    return "\n".join([Table(columns, list(map(_cells, rows))).text(), "", where])


def _groups() -> Iterator[Listed]:
    for name in reversed(list(rules.GROUPS)):
        members = rules.expand(name)
        files = {file.url: file for member in members for file in catalogue.files(member)}
        here = all(file.at_hand for file in files.values())
        size = sum(file.bytes or 0 for file in files.values())
        yield Listed(name, "group", bytes=size, at_hand=here, members=rules.GROUPS[name])


def _catalogued() -> Iterator[Listed]:
    known = dict.fromkeys([*rules.expand("beir"), *MSMARCO])
    for name in known:
        counts, files = catalogue.published(name), catalogue.files(name, *_entities(name))
        licence = "non-commercial" if "msmarco" in name else None
        here = all(file.at_hand for file in files) if files else None
        size = sum(file.bytes or 0 for file in files) or None
        yield Listed(
            name, "catalogue", counts.get("docs"), counts.get("queries"), size, here, licence, rules.rule(name)
        )


def _shipped() -> Iterator[Listed]:
    for name in SHIPPED:
        found = catalogue.entry(name)
        queries = found.queries_count() if found.has("queries") else None  # of the judgements, none of the texts read
        yield Listed(name, "shipped", found.docs_count(), queries, 0, True, "CC BY-SA 4.0", rules.rule(name))


def _local() -> Iterator[Listed]:
    from retrobench.data.build import BUILDERS

    # What is still being made, `NAME.partial`, is no collection yet.
    there = sorted(p for p in data.local_root().glob("*/") if p.suffix != ".partial" and any(p.glob("corpus.*")))
    for place in there:
        try:
            yield from _splits(place)
        except RetrobenchError as error:
            yield Listed(place.name, "local", fault=str(error))
    names = {place.name for place in there}
    yield from (Listed(name, "to build", at_hand=False) for name in sorted(BUILDERS) if name not in names)


def _splits(place: Path) -> Iterator[Listed]:
    splits, small = folder.splits(place), folder.size(place) < SMALL
    for dataset in [data.load(f"{place.name}:{split}") for split in splits] or [data.load(place.name)]:
        documents = dataset.document_count() if small else None
        queries = len({query for query, _, _ in dataset.judgements()}) if splits and small else None
        yield Listed(dataset.id, "local", documents, queries, None, True, None, dataset.rule)


def _cells(row: Listed) -> tuple[str, ...]:
    numbers = ["-" if count is None else f"{count:,}" for count in (row.documents, row.queries)]
    size = "-" if row.bytes is None else f"{row.bytes / 1e6:,.1f} MB"
    here = {True: "yes", False: "no", None: "?"}[row.at_hand]
    told = f"{len(row.members)} members" if row.members else f"`retrobench data fetch {row.id}` makes it"
    return (
        row.id,
        *numbers,
        size,
        here,
        row.licence or "-",
        row.fault or ("; ".join(_own(row.rule)) if row.rule else told),
    )


def _own(rule: rules.Rule) -> list[str]:
    """What differs from the usual way to score."""
    return [
        *(["a query's own document is dropped"] if rule.drop_self else []),
        *([f"relevant from grade {rule.relevance_level}"] if rule.relevance_level > 1 else []),
    ]


def _rule(rule: rules.Rule) -> str:
    return "; ".join([*_own(rule), ", ".join(rule.measures), *([rule.note] if rule.note else [])])
