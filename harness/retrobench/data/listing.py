"""List the groups, the datasets with rules of their own, the shipped collection and the collections made here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from retrobench.core import Column, Table
from retrobench.data import catalogue, folder, groups, rules
from retrobench.data.datasets import load, local_root
from retrobench.data.embedded import SHIPPED
from retrobench.data.fetching import entities
from retrobench.errors import RetrobenchError

__all__ = ["list_datasets"]

SMALL = 100_000_000  # bytes of a local corpus, up to which the list counts its lines

MSMARCO = (
    "msmarco-passage/train",
    "msmarco-passage/train/triples-v2",
    "msmarco-passage/dev/small",
    "msmarco-passage/trec-dl-2019/judged",
    "msmarco-passage/trec-dl-2020/judged",
    "msmarco-passage/trec-dl-hard",
    "beir/msmarco/dev",
)

COLUMNS = (
    Column("dataset"),
    Column("documents", "right", "number"),
    Column("queries", "right", "number"),
    Column("download", "right", "number"),
    Column("here"),
    Column("licence"),
    Column("rule"),
)


@dataclass(frozen=True)
class ListedDataset:
    """A line of the list. None is a fact that only gigabytes of reading or the network would tell."""

    id: str
    kind: str  # group, catalogue, shipped, local or to build
    documents: int | None = None
    queries: int | None = None
    bytes: int | None = None  # to download
    at_hand: bool | None = None
    licence: str | None = None
    rule: rules.Rule | None = None
    members: tuple[str, ...] = ()
    fault: str = ""  # the reason why a local folder cannot be used

    def cells(self) -> list[str]:
        """Return the cells of `COLUMNS`."""
        at_hand = {True: "yes", False: "no", None: "?"}[self.at_hand]
        size = "-"
        if self.bytes is not None:
            size = f"{self.bytes / 1e6:,.1f} MB"
        documents = _number(self.documents)
        queries = _number(self.queries)
        licence = self.licence or "-"
        return [self.id, documents, queries, size, at_hand, licence, self._remark()]

    def _remark(self) -> str:
        if self.fault:
            return self.fault
        if self.rule:
            return "; ".join(self.rule.departures())
        if self.members:
            return f"{len(self.members)} members"
        return f"`retrobench data fetch {self.id}` makes it"


def _number(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count:,}"


def list_datasets(as_json: bool) -> str:
    """Return all listed datasets as a table, or as a JSON array."""
    datasets = [*_groups(), *_published(), *_shipped(), *_local(), *_to_build()]
    if as_json:
        records = [asdict(dataset) for dataset in datasets]
        return json.dumps(records, indent=2, ensure_ascii=False)
    table = Table(COLUMNS, [dataset.cells() for dataset in datasets])
    folders = f"ir_datasets keeps its files in {catalogue.home()}; collections made here lie in {local_root()}."
    return f"{table.text()}\n\n{folders}"


def _groups() -> Iterator[ListedDataset]:
    for name in reversed(list(groups.GROUPS)):
        files: dict[str, catalogue.DownloadFile] = {}  # by URL, because members share archives
        for member in groups.expand(name):
            for file in catalogue.files(member):
                files[file.url] = file
        yield ListedDataset(
            id=name,
            kind="group",
            bytes=_total_bytes(files.values()),
            at_hand=all(file.at_hand for file in files.values()),
            members=groups.GROUPS[name].members,
        )


def _total_bytes(files: Iterable[catalogue.DownloadFile]) -> int:
    """Return the known bytes of files; a file of unknown size adds none."""
    return sum(file.bytes or 0 for file in files)


def _published() -> Iterator[ListedDataset]:
    for name in dict.fromkeys([*groups.expand("beir"), *MSMARCO]):
        counts = catalogue.published(name)
        files = catalogue.files(name, *entities(name))
        at_hand = None
        if files:
            at_hand = all(file.at_hand for file in files)
        yield ListedDataset(
            id=name,
            kind="catalogue",
            documents=counts.get("docs"),
            queries=counts.get("queries"),
            bytes=_total_bytes(files) or None,
            at_hand=at_hand,
            licence=catalogue.licence(name),
            rule=rules.rule(name),
        )


def _shipped() -> Iterator[ListedDataset]:
    for name in SHIPPED:
        dataset = catalogue.entry(name)
        yield ListedDataset(
            id=name,
            kind="shipped",
            documents=dataset.docs_count(),
            queries=dataset.queries_count() if dataset.has("queries") else None,  # counted without reading any text
            bytes=0,
            at_hand=True,
            licence=catalogue.licence(name),
            rule=rules.rule(name),
        )


def _local() -> Iterator[ListedDataset]:
    for path in _local_folders():
        try:
            yield from _local_splits(path)
        except RetrobenchError as error:
            yield ListedDataset(path.name, "local", fault=str(error))


def _local_folders() -> list[Path]:
    """Return the folders of collections. An unfinished `NAME.partial` is no collection."""
    folders = []
    for path in sorted(local_root().glob("*/")):
        if path.suffix != ".partial" and any(path.glob("corpus.*")):
            folders.append(path)
    return folders


def _local_splits(path: Path) -> Iterator[ListedDataset]:
    """Yield each split of a local folder; the folder itself where nothing is judged."""
    splits = folder.splits(path)
    is_small = folder.size(path) < SMALL
    dataset_ids = [f"{path.name}:{split}" for split in splits]
    for dataset_id in dataset_ids or [path.name]:
        dataset = load(dataset_id)
        documents = queries = None
        if is_small:
            documents = dataset.document_count()
        if is_small and splits:
            judged = {query_id for query_id, _, _ in dataset.judgements()}
            queries = len(judged)
        yield ListedDataset(dataset.id, "local", documents, queries, at_hand=True, rule=dataset.rule)


def _to_build() -> Iterator[ListedDataset]:
    from retrobench.data.build import BUILDERS

    local = {path.name for path in _local_folders()}
    for name in sorted(BUILDERS):
        if name not in local:
            yield ListedDataset(name, "to build", at_hand=False)
