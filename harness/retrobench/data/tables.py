"""
The files of a collection, line by line and never whole: JSON Lines and tab-separated text, gzipped or not.

* records      id, title and text of documents or queries
* judgements   query id, document id and grade
* pairs        query id and document id

A record in JSON Lines has its id in `_id`, `id`, `docid` or `query_id`, its text in `text`, `contents` or `query`, and
perhaps a `title`. In tab-separated text it is id, text or id, title, text: as many columns as the first line has,
no header, no quotes. Each faulty line is named by file and number.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retrobench.errors import RetrobenchError

__all__ = ["FaultyFile", "Record", "count", "judgements", "pairs", "records"]

IDS = ("_id", "id", "docid", "query_id")
TEXTS = ("text", "contents", "query")


class FaultyFile(RetrobenchError):
    """A file that is not what its name promises. The message says where."""

    def __init__(self, file: Path, line: int, fault: str) -> None:
        super().__init__(f"{file}, line {line}: {fault}." if line else f"{file} {fault}.")


class Record(NamedTuple):
    """A document, or a query without a title."""

    id: str
    title: str
    text: str


def records(file: Path) -> Iterator[Record]:
    """The records of a file named `*.jsonl` or `*.tsv`, or such a file gzipped, in file order.

    FaultyFile where a line is not a record, and after the last one where an id was used twice: 8 bytes are kept
    for each id, so that nine million of them take no more than 72 MB.
    """
    hashes = array("q")
    for _, record in _numbered(file):
        hashes.append(hash(record.id))
        yield record
    if not hashes:
        expected = "a document or query" if _is_tsv(file) else "one JSON object"
        raise FaultyFile(file, 0, f"is empty; {expected} per line is expected")
    inorder = np.sort(np.frombuffer(hashes, np.int64))
    twice = inorder[1:][inorder[1:] == inorder[:-1]]
    if len(twice):
        _name_repetition(file, set(twice.tolist()))


def count(file: Path) -> int:
    """The number of lines, none of them read as a record."""
    with _opened(file) as lines:
        return sum(1 for _ in lines)


def judgements(file: Path) -> Iterator[tuple[str, str, int]]:
    """The rows of a file in BEIR's form (a header, then query id, document id, grade between tabs) or in TREC's (query
    id, iteration, document id, grade).

    A missing header in the first form is an error: other readers would take the first judgement for one.
    """
    lines = _lines(file)
    first = next(lines, (1, ""))
    if _is_grade(first[1].split()[3:]):
        yield from _by_trec(file, itertools.chain([first], lines))
    else:
        yield from _by_beir(file, itertools.chain([first], lines))


def pairs(file: Path) -> Iterator[tuple[str, str]]:
    """The rows of a file whose header is `query-id`, `corpus-id`, with a tab between."""
    for number, line in _lines(file):
        row = tuple(line.rstrip("\r\n").split("\t"))
        if number == 1:
            if row != ("query-id", "corpus-id"):
                raise FaultyFile(file, 0, "has no header; let its first line be query-id, corpus-id")
        elif len(row) != 2 or not all(row):
            raise FaultyFile(file, number, f"a query id and a document id were expected, not {list(row)}")
        else:
            yield row[0], row[1]


def _opened(file: Path) -> gzip.GzipFile:
    # Opened as bytes: text mode would end a line at a lone carriage return too.
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, from 1."""
    with _opened(file) as lines:
        for number in itertools.count(1):
            try:
                line = next(lines, b"").decode()
            except UnicodeDecodeError as error:
                raise FaultyFile(file, number, f"byte {error.start + 1} is not UTF-8") from None
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise FaultyFile(file, number, f"the gzip file is damaged ({error})") from None
            if not line:
                return
            yield number, line


def _is_tsv(file: Path) -> bool:
    return ".tsv" in file.suffixes[-2:]


def _numbered(file: Path) -> Iterator[tuple[int, Record]]:
    tabbed, columns = _is_tsv(file), 0
    for number, line in _lines(file):
        row = line.rstrip("\r\n").split("\t") if tabbed else []
        columns = columns or len(row)
        try:
            record = _from_row(row, columns) if tabbed else _from_json(line)
        except ValueError as error:
            raise FaultyFile(file, number, str(error)) from None
        yield number, record


def _from_json(line: str) -> Record:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not a JSON object ({error})") from None
    key = next((row[name] for name in IDS if name in row), None) if isinstance(row, dict) else None
    if not isinstance(key, str):
        raise ValueError("not a JSON object with a string '_id'")
    text = next((name for name in TEXTS if name in row), "text")
    for field in ("title", text):
        if not isinstance(row.get(field), str | None):
            raise ValueError(f"{field!r} is not a string but {row[field]!r}")
    return Record(key, row.get("title") or "", row.get(text) or "")


def _from_row(row: list[str], columns: int) -> Record:
    if columns not in (2, 3) or len(row) != columns or not row[0]:
        expected = {2: "an id and a text", 3: "an id, a title and a text"}.get(columns, "an id and a text")
        raise ValueError(f"{expected} with tabs between them were expected, not {len(row)} columns: {row[:3]}")
    return Record(row[0], row[1] if columns == 3 else "", row[-1])


def _name_repetition(file: Path, hashes: set[int]) -> None:
    """Read again, for the lines: of two ids with one hash both may be innocent."""
    seen: dict[str, int] = {}
    for number, record in _numbered(file):
        if hash(record.id) in hashes:
            if record.id in seen:
                raise FaultyFile(file, number, f"id {record.id!r} was used on line {seen[record.id]}")
            seen[record.id] = number


def _by_beir(file: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[str, str, int]]:
    rows = csv.reader((line for _, line in lines), delimiter="\t")
    if len(first := next(rows, [])) == 3 and _is_grade(first[2:]):
        raise FaultyFile(file, 0, "has no header; let its first line be query-id, corpus-id, score")
    try:
        for number, row in enumerate(rows, 2):
            if len(row) != 3 or not _is_grade(row[2:]):
                expected = "a query id, a document id and a whole number with tabs between them"
                raise FaultyFile(file, number, f"{expected} were expected, not {row}")
            yield row[0], row[1], int(row[2])
    except csv.Error as error:
        raise FaultyFile(file, rows.line_num, str(error)) from None


def _by_trec(file: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[str, str, int]]:
    for number, line in lines:
        row = line.split()
        if len(row) != 4 or not _is_grade(row[3:]):
            expected = "a query id, an iteration, a document id and a whole number"
            raise FaultyFile(file, number, f"{expected} were expected, not {row}")
        yield row[0], row[2], int(row[3])


def _is_grade(column: list[str]) -> bool:
    return len(column) == 1 and column[0].removeprefix("-").isdecimal()
