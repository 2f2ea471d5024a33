"""
A collection in a folder: BEIR's layout, or tab-separated text, each file gzipped or not.

    corpus.jsonl or corpus.tsv         documents
    queries.jsonl or queries.tsv       queries of all splits; queries.SPLIT.jsonl or .tsv, where there, those of one
    qrels/SPLIT.tsv or qrels.SPLIT.tsv judgements, in BEIR's form or TREC's
    negatives/SPLIT.tsv                documents that do not answer a query: query-id, corpus-id
    dataset.toml                       what the collection is, and how it is scored

Only the corpus is needed until more is asked for. Of two files for one purpose neither is taken. `tables` says how
the files are read. `dataset.toml` holds `title`, which names the variant of the corpus, the fields of `rules.Rule`,
and the same again for one split under `[splits.SPLIT]`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrobench.core import build_record
from retrobench.data import tables
from retrobench.data.rules import Rule
from retrobench.errors import RetrobenchError

__all__ = [
    "Description",
    "checked",
    "describe",
    "document_count",
    "documents",
    "judgements",
    "negatives",
    "queries",
    "size",
    "splits",
    "unjudged",
]

LAYOUT = "corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv"


@dataclass(frozen=True)
class Description:
    """What `dataset.toml` says: the corpus variant, and the rule of one split."""

    title: str
    rule: Rule


def checked(folder: Path) -> Path:
    """The folder itself, if it has documents."""
    _corpus(folder)
    return folder


def size(folder: Path) -> int:
    """The bytes of the corpus as it lies on the disk."""
    return _corpus(folder).stat().st_size


def documents(folder: Path) -> Iterator[tables.Record]:
    """Id, title and text of each document in file order."""
    return tables.records(_corpus(folder))


def document_count(folder: Path) -> int:
    """The number of lines of the corpus."""
    return tables.count(_corpus(folder))


def queries(folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """Id and text of each query that the split judges, in the order of its judgements."""
    file = _queries(folder, split)
    texts = {record.id: record.text for record in tables.records(file)}
    judged = dict.fromkeys(query for query, _, _ in judgements(folder, split))
    absent = next((query for query in judged if query not in texts), None)
    if absent is not None:
        raise tables.FaultyFile(_qrels(folder, split), 0, f"judges query {absent!r}, which {file} lacks")
    return ((query, texts[query]) for query in judged)


def unjudged(folder: Path, split: str) -> int:
    """The number of queries in the split's file of queries that no split judges, and that are therefore never used."""
    judged = {query for each in splits(folder) for query, _, _ in judgements(folder, each)}
    return sum(record.id not in judged for record in tables.records(_queries(folder, split)))


def judgements(folder: Path, split: str) -> Iterator[tuple[str, str, int]]:
    """Query id, document id and grade of each judgement of the split, in file order."""
    return tables.judgements(_qrels(folder, split))


def negatives(folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """Query id and document id of each negative of the split, in file order."""
    file = _one(folder, f"negatives/{split}.tsv")
    if file is None:
        known = ", ".join(_splits(folder, "negatives/*.tsv")) or "none"
        raise RetrobenchError(f"No file {folder / 'negatives' / split}.tsv. Splits with negatives there: {known}.")
    return tables.pairs(file)


def splits(folder: Path) -> tuple[str, ...]:
    """The splits with judgements, sorted."""
    return _splits(folder, "qrels/*.tsv", "qrels.*.tsv")


def describe(folder: Path, split: str) -> Description:
    """What `dataset.toml` says of the split; nothing, and the default rule, where there is no such file."""
    file = folder / "dataset.toml"
    try:
        found: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RetrobenchError(f"{file} is not TOML ({error}).") from None
    title, by_split = found.pop("title", ""), found.pop("splits", {})
    if not isinstance(title, str) or not isinstance(by_split, dict) or not isinstance(by_split.get(split, {}), dict):
        raise RetrobenchError(f"{file}: title must be a text, and splits a table like [splits.{split}].")
    rule = build_record(Rule, {"note": title, **found, **by_split.get(split, {})}, str(file))
    return Description(title, rule)


def _corpus(folder: Path) -> Path:
    file = _one(folder, "corpus.jsonl", "corpus.tsv")
    if file is None:
        raise RetrobenchError(f"Folder {folder} has no corpus.jsonl; BEIR's layout is {LAYOUT}.")
    return file


def _queries(folder: Path, split: str) -> Path:
    own = _one(folder, f"queries.{split}.jsonl", f"queries.{split}.tsv")
    file = own or _one(folder, "queries.jsonl", "queries.tsv")
    if file is None:
        raise RetrobenchError(f"Folder {folder} has no queries.jsonl, so no queries; BEIR's layout is {LAYOUT}.")
    return file


def _qrels(folder: Path, split: str) -> Path:
    file = _one(folder, f"qrels/{split}.tsv", f"qrels.{split}.tsv")
    if file is None:
        known = ", ".join(splits(folder)) or "none"
        raise RetrobenchError(
            f"No file {folder / 'qrels' / split}.tsv. Splits there: {known}; name one as {folder}:SPLIT."
        )
    return file


def _one(folder: Path, *names: str) -> Path | None:
    """The one file of these names, gzipped or not."""
    found = [folder / (name + end) for name in names for end in ("", ".gz") if (folder / (name + end)).is_file()]
    if len(found) > 1:
        there = " and ".join(str(file.relative_to(folder)) for file in found)
        raise RetrobenchError(f"Folder {folder} has {there}, of which only one can count; move the other away.")
    return found[0] if found else None


def _splits(folder: Path, *patterns: str) -> tuple[str, ...]:
    names = (file.name for pattern in patterns for end in ("", ".gz") for file in folder.glob(pattern + end))
    return tuple(sorted({name.removesuffix(".gz").removesuffix(".tsv").removeprefix("qrels.") for name in names}))
