"""
A collection's folder, written whole or not at all.

* make(folder, fill)     fills FOLDER.partial and gives it its name last
* write_corpus, write_queries, write_qrels, write_negatives, write_description     the files of BEIR's layout
* expect(...)            that as many of each thing were found as were published
"""

from __future__ import annotations

import errno
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from retrobench.core import move, sync
from retrobench.data.rules import Rule
from retrobench.errors import RetrobenchError

__all__ = [
    "Site",
    "expect",
    "make",
    "write_corpus",
    "write_description",
    "write_negatives",
    "write_qrels",
    "write_queries",
]


@dataclass(frozen=True)
class Site:
    """Where a collection is made: the folder to fill, its sources, and a folder that is gone in the end."""

    folder: Path
    sources: Path
    scratch: Path


def make(folder: Path, fill: Callable[[Site], str]) -> str:
    """
    The collection at `folder`, made by `fill`, which says in one line what it made.

    What a call that was cut short has left is thrown away, but for the sources. RetrobenchError where something is
    there already, and where the disk is full.
    """
    partial, sources = (folder.with_name(f"{folder.name}.{end}") for end in ("partial", "sources"))
    if folder.exists():
        raise RetrobenchError(f"{folder} is there already. Move it away to have it made again.")
    shutil.rmtree(partial, ignore_errors=True)
    site = Site(partial, sources, partial / "scratch")
    for place in (sources, site.scratch):
        place.mkdir(parents=True, exist_ok=True)
    try:
        made = fill(site)
        shutil.rmtree(site.scratch)
        sync(partial)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)  # gigabytes of no use to the next call
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            fault = f"The disk is full: {folder} was not made. Free space and run the same command again."
            raise RetrobenchError(fault) from None
        raise
    move(partial, folder)
    return made


def write_corpus(site: Site, documents: Iterable[tuple[str, str, str]]) -> int:
    """corpus.jsonl from id, title and text of each; returns how many."""
    rows = ({"_id": key, "title": title, "text": text} for key, title, text in documents)
    return _jsonl(site.folder / "corpus.jsonl", rows)


def write_queries(site: Site, texts: Mapping[str, str]) -> int:
    """queries.jsonl from the text of each id."""
    return _jsonl(site.folder / "queries.jsonl", ({"_id": key, "text": text} for key, text in texts.items()))


def write_qrels(site: Site, split: str, judgements: Iterable[tuple[str, str, int]]) -> int:
    """qrels/SPLIT.tsv from query id, document id and grade."""
    rows = (f"{query}\t{document}\t{grade}" for query, document, grade in judgements)
    return _tsv(site.folder / "qrels" / f"{split}.tsv", "query-id\tcorpus-id\tscore", rows)


def write_negatives(site: Site, split: str, pairs: Iterable[tuple[str, str]]) -> int:
    """negatives/SPLIT.tsv from query id and document id."""
    rows = (f"{query}\t{document}" for query, document in pairs)
    return _tsv(site.folder / "negatives" / f"{split}.tsv", "query-id\tcorpus-id", rows)


def write_description(site: Site, title: str, rule: Rule, splits: Mapping[str, Rule]) -> None:
    """dataset.toml: what the collection is, its rule, and that of the splits with another one."""
    # A JSON string or array is a TOML one too.
    text = [f"title = {json.dumps(title, ensure_ascii=False)}", *_settings(rule)]
    for split, other in splits.items():
        text += ["", f"[splits.{split}]", *_settings(other)]
    (site.folder / "dataset.toml").write_text("\n".join(text) + "\n", encoding="utf-8")


def _settings(rule: Rule) -> list[str]:
    return [f"relevance_level = {rule.relevance_level}", f"measures = {json.dumps(rule.measures)}"]


def expect(site: Site, found: Mapping[str, int], published: Mapping[str, int]) -> None:
    """Raise RetrobenchError for the first thing of which not as many were found as were published."""
    for name, wanted in published.items():
        if found[name] != wanted:
            raise RetrobenchError(
                f"{found[name]:,} {name} were found where {wanted:,} are published: a source is incomplete or another "
                f"one. Remove it from {site.sources} and run the same command again."
            )


def _jsonl(file: Path, rows: Iterable[Mapping[str, str]]) -> int:
    return _write(file, (json.dumps(row, ensure_ascii=False) for row in rows))


def _tsv(file: Path, header: str, rows: Iterable[str]) -> int:
    return _write(file, itertools.chain([header], rows)) - 1


def _write(file: Path, rows: Iterable[str]) -> int:
    """Write each as a line; returns how many."""
    file.parent.mkdir(exist_ok=True)
    count = 0
    with file.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(row + "\n")
            count += 1
    return count
