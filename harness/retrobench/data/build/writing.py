"""
Write a collection's folder, whole or not at all.

* make(folder, fill)         fill FOLDER.partial, then rename it
* write_corpus, write_queries, write_qrels, write_negatives, write_description     write the files of BEIR's layout
* check_counts(...)          compare counts with the published ones
"""

from __future__ import annotations

import errno
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrobench.core import move, sync
from retrobench.data.rules import Rule
from retrobench.data.tables import IdPair, Judgement
from retrobench.data.tokens import TextRow
from retrobench.errors import RetrobenchError

__all__ = [
    "Site",
    "check_counts",
    "make",
    "write_corpus",
    "write_description",
    "write_negatives",
    "write_qrels",
    "write_queries",
]


@dataclass(frozen=True)
class Site:
    """The folders of a build: the collection to fill, its sources, and a folder deleted at the end."""

    folder: Path
    sources: Path
    scratch: Path


def make(folder: Path, fill: Callable[[Site], str]) -> str:
    """
    Make the collection at `folder`, and return the line that `fill` returns about it.

    Files of an interrupted call are deleted, except the sources. Raise RetrobenchError where `folder` exists, and where
    the disk is full.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    sources = folder.with_name(f"{folder.name}.sources")
    if folder.exists():
        raise RetrobenchError(f"{folder} is there already. Move it away to have it made again.")
    shutil.rmtree(partial, ignore_errors=True)
    site = Site(partial, sources, partial / "scratch")
    site.sources.mkdir(parents=True, exist_ok=True)
    site.scratch.mkdir(parents=True, exist_ok=True)
    try:
        summary = fill(site)
        shutil.rmtree(site.scratch)
        sync(partial)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)  # the next call has no use for these gigabytes
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            fault = f"The disk is full: {folder} was not made. Free space and run the same command again."
            raise RetrobenchError(fault) from None
        raise
    move(partial, folder)
    return summary


def write_corpus(site: Site, documents: Iterable[TextRow]) -> int:
    """Write corpus.jsonl from id, title and text of each document, and return their number."""
    rows = ({"_id": document_id, "title": title, "text": text} for document_id, title, text in documents)
    return _write_jsonl(site.folder / "corpus.jsonl", rows)


def write_queries(site: Site, texts: Mapping[str, str]) -> int:
    """Write queries.jsonl from the text of each query id, and return their number."""
    rows = ({"_id": query_id, "text": text} for query_id, text in texts.items())
    return _write_jsonl(site.folder / "queries.jsonl", rows)


def write_qrels(site: Site, split: str, judgements: Iterable[Judgement]) -> int:
    """Write qrels/SPLIT.tsv from query id, document id and grade, and return the number of judgements."""
    file = site.folder / "qrels" / f"{split}.tsv"
    return _write_tsv(file, ("query-id", "corpus-id", "score"), judgements)


def write_negatives(site: Site, split: str, pairs: Iterable[IdPair]) -> int:
    """Write negatives/SPLIT.tsv from query id and document id, and return the number of pairs."""
    file = site.folder / "negatives" / f"{split}.tsv"
    return _write_tsv(file, ("query-id", "corpus-id"), pairs)


def write_description(site: Site, title: str, rule: Rule, splits: Mapping[str, Rule]) -> None:
    """Write dataset.toml: the title, the rule, and the rules of the splits that depart from it."""
    # A JSON string or array is valid TOML.
    quoted_title = json.dumps(title, ensure_ascii=False)
    lines = [f"title = {quoted_title}", *_rule_settings(rule)]
    for split, split_rule in splits.items():
        lines += ["", f"[splits.{split}]", *_rule_settings(split_rule)]
    _write_lines(site.folder / "dataset.toml", lines)


def _rule_settings(rule: Rule) -> list[str]:
    measures = json.dumps(rule.measures)
    return [f"relevance_level = {rule.relevance_level}", f"measures = {measures}"]


def check_counts(site: Site, counts: Mapping[str, int], published: Mapping[str, int]) -> None:
    """Raise RetrobenchError for the first count that differs from the published one."""
    for name, expected in published.items():
        if counts[name] != expected:
            raise RetrobenchError(
                f"{counts[name]:,} {name} were found where {expected:,} are published: a source is incomplete or "
                f"differs from the published file. Remove it from {site.sources} and run the same command again."
            )


def _write_jsonl(file: Path, rows: Iterable[Mapping[str, str]]) -> int:
    return _write_lines(file, (json.dumps(row, ensure_ascii=False) for row in rows))


def _write_tsv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> int:
    """Write the header and the rows, and return the number of rows."""
    lines = ("\t".join(map(str, row)) for row in itertools.chain([header], rows))
    return _write_lines(file, lines) - 1


def _write_lines(file: Path, rows: Iterable[str]) -> int:
    """Write each row as a line, and return the number of lines."""
    file.parent.mkdir(exist_ok=True)
    count = 0
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(row + "\n")
            count += 1
    return count
