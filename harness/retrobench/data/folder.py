"""
A collection in a folder: BEIR's layout, or tab-separated text, each file gzipped or not.

    corpus.jsonl or corpus.tsv                  documents
    queries.jsonl or queries.tsv                queries of all splits
    queries.SPLIT.jsonl or queries.SPLIT.tsv    queries of one split, read in place of the file for all splits
    qrels/SPLIT.tsv or qrels.SPLIT.tsv          judgements, in BEIR's form or TREC's
    negatives/SPLIT.tsv                         documents that do not answer a query: query-id, corpus-id
    dataset.toml                                the name of the corpus variant, and the rule of scoring

Only the corpus is required. Two files for one purpose are an error. `tables` reads the files.

`dataset.toml` holds `title`, which names the corpus variant, `language`, by default `en`, and the fields of
`rules.Rule`. A table `[splits.SPLIT]` sets fields for one split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retrobench.core import build_record, read_toml, take_table
from retrobench.data import tables
from retrobench.data.rules import Rule
from retrobench.errors import RetrobenchError, quote

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
    """The content of `dataset.toml` for one split: the corpus variant and the rule."""

    title: str
    rule: Rule
    language: str = "en"  # of the documents, in two letters


def checked(folder: Path) -> Path:
    """Return the folder unchanged. Raise RetrobenchError if it has no documents."""
    _corpus_file(folder)
    return folder


def size(folder: Path) -> int:
    """Return the bytes of the corpus file."""
    return _corpus_file(folder).stat().st_size


def documents(folder: Path) -> Iterator[tables.Record]:
    """Yield id, title and text of each document in file order."""
    return tables.records(_corpus_file(folder))


def document_count(folder: Path) -> int:
    """Return the number of lines of the corpus file."""
    return tables.count(_corpus_file(folder))


def queries(folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """Return id and text of each query that the split judges, in the order of its judgements."""
    file = _queries_file(folder, split)
    texts = {record.id: record.text for record in tables.records(file)}
    judged = dict.fromkeys(query_id for query_id, _, _ in judgements(folder, split))
    for query_id in judged:
        if query_id not in texts:
            raise tables.FaultyFile(
                _qrels_file(folder, split), 0, f"judges query {quote(query_id)}, which {file} lacks"
            )
    return ((query_id, texts[query_id]) for query_id in judged)


def unjudged(folder: Path, split: str) -> int:
    """Count the queries in the split's file of queries that no split judges. They are never used."""
    judged: set[str] = set()
    for name in splits(folder):
        judged.update(query_id for query_id, _, _ in judgements(folder, name))
    count = 0
    for query in tables.records(_queries_file(folder, split)):
        if query.id not in judged:
            count += 1
    return count


def judgements(folder: Path, split: str) -> Iterator[tables.Judgement]:
    """Yield query id, document id and grade of each judgement of the split, in file order."""
    return tables.judgements(_qrels_file(folder, split))


def negatives(folder: Path, split: str) -> Iterator[tables.IdPair]:
    """Yield query id and document id of each negative of the split, in file order."""
    file = _only_file(folder, f"negatives/{split}.tsv")
    if file is None:
        names = ", ".join(_split_names(folder, "negatives/*.tsv")) or "none"
        raise RetrobenchError(f"No file {folder / 'negatives' / split}.tsv. Splits with negatives there: {names}.")
    return tables.pairs(file)


def splits(folder: Path) -> tuple[str, ...]:
    """Return the sorted names of the splits with judgements."""
    return _split_names(folder, "qrels/*.tsv", "qrels.*.tsv")


def describe(folder: Path, split: str) -> Description:
    """Return the description of a split in `dataset.toml`; without such a file, no title and the default rule."""
    file = folder / "dataset.toml"
    settings = read_toml(file) if file.is_file() else {}
    title = settings.pop("title", "")
    language = settings.pop("language", "en")
    if not isinstance(title, str) or not isinstance(language, str):
        raise RetrobenchError(f"{file}: title and language must be texts. Correct them there.")
    by_split = take_table(settings, "splits", str(file))
    split_settings = take_table(by_split, split, f"[splits] of {file}")
    rule = build_record(Rule, {"note": title, **settings, **split_settings}, str(file))
    return Description(title, rule, language)


def _corpus_file(folder: Path) -> Path:
    file = _only_file(folder, "corpus.jsonl", "corpus.tsv")
    if file is None:
        raise RetrobenchError(f"Folder {folder} has no corpus.jsonl; BEIR's layout is {LAYOUT}.")
    return file


def _queries_file(folder: Path, split: str) -> Path:
    file = _only_file(folder, f"queries.{split}.jsonl", f"queries.{split}.tsv")
    if file is None:
        file = _only_file(folder, "queries.jsonl", "queries.tsv")
    if file is None:
        raise RetrobenchError(f"Folder {folder} has no queries.jsonl, so no queries; BEIR's layout is {LAYOUT}.")
    return file


def _qrels_file(folder: Path, split: str) -> Path:
    file = _only_file(folder, f"qrels/{split}.tsv", f"qrels.{split}.tsv")
    if file is None:
        names = ", ".join(splits(folder)) or "none"
        raise RetrobenchError(
            f"No file {folder / 'qrels' / split}.tsv. Splits there: {names}; name one as {folder}:SPLIT."
        )
    return file


def _only_file(folder: Path, *names: str) -> Path | None:
    """Return the file with any of these names, gzipped or not. Raise RetrobenchError if there are two."""
    files = []
    for name in names:
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                files.append(file)
    if len(files) > 1:
        duplicates = " and ".join(str(file.relative_to(folder)) for file in files)
        raise RetrobenchError(f"Folder {folder} has {duplicates}, of which only one can count; move the other away.")
    return files[0] if files else None


def _split_names(folder: Path, *patterns: str) -> tuple[str, ...]:
    names = set()
    for pattern in patterns:
        for file in (*folder.glob(pattern), *folder.glob(f"{pattern}.gz")):
            stem = file.name.removesuffix(".gz").removesuffix(".tsv")
            names.add(stem.removeprefix("qrels."))
    return tuple(sorted(names))
