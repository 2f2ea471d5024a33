"""
Read the files of a collection line by line: JSON Lines and tab-separated text, gzipped or not.

* records      id, title and text of documents or queries
* judgements   query id, document id and grade
* pairs        query id and document id
* scored_pairs query id, document id and score

A JSON Lines record has its id in `_id`, `id`, `docid` or `query_id`, and its text in `text`, `contents` or `query`. A
`title` is optional. Tab-separated columns are id, text or id, title, text, without header and quotes. The first line
sets the number of columns. An error names the file and the line.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import math
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrobench.core import parse_json
from retrobench.errors import RetrobenchError, clip, quote

__all__ = ["FaultyFile", "IdPair", "Judgement", "Record", "count", "judgements", "pairs", "records", "scored_pairs"]

ID_FIELDS = ("_id", "id", "docid", "query_id")
TEXT_FIELDS = ("text", "contents", "query")

PAIRS_HEADER = ("query-id", "corpus-id")
JUDGEMENTS_HEADER = (*PAIRS_HEADER, "score")
LONGEST_GRADE = 18  # digits

Judgement = tuple[str, str, int]  # query id, document id, grade
ScoredPair = tuple[str, str, float]
IdPair = tuple[str, str]  # query id, document id
Line = tuple[int, str]  # number, from 1, and text


class FaultyFile(RetrobenchError):
    """A file whose content does not have the format of its name. Line 0 stands for the whole file."""

    def __init__(self, file: Path, line: int, fault: str) -> None:
        location = f"{file}, line {line}:" if line else str(file)
        super().__init__(f"{location} {fault}.")


class Record(NamedTuple):
    """A document, or a query without a title."""

    id: str
    title: str
    text: str


def records(file: Path) -> Iterator[Record]:
    """Yield the records of a file named `*.jsonl`, `*.tsv`, `*.jsonl.gz` or `*.tsv.gz`, in file order.

    Raise FaultyFile at a line that is no record. A repeated id raises it after the last record: only 8 bytes of each
    id stay in memory, 72 MB for nine million ids.
    """
    hashes = array("q")
    for _, record in _numbered_records(file):
        hashes.append(hash(record.id))
        yield record
    if not hashes:
        expected = "a document or query" if _is_tsv(file) else "one JSON object"
        raise FaultyFile(file, 0, f"is empty; {expected} per line is expected")
    ascending = np.sort(np.frombuffer(hashes, np.int64))
    is_repeated = ascending[1:] == ascending[:-1]
    repeated = ascending[1:][is_repeated]
    if len(repeated):
        _check_repetition(file, set(repeated.tolist()))


def count(file: Path) -> int:
    """Return the number of lines, without parsing any."""
    with _opened(file) as lines:
        try:
            return sum(1 for _ in lines)
        except (OSError, EOFError, zlib.error) as error:
            raise FaultyFile(file, 0, f"cannot be read ({clip(error)})") from None


def judgements(file: Path) -> Iterator[Judgement]:
    """Yield query id, document id and grade of each row in BEIR's form or TREC's.

    BEIR's form is a header, then query id, document id and grade between tabs. TREC's is query id, iteration, document
    id and grade. A missing header is an error, because other readers would skip the first judgement.
    """
    lines = _lines(file)
    first = next(lines, (1, ""))
    lines = itertools.chain([first], lines)
    _, first_text = first
    columns = first_text.split()
    if _is_grade(columns[3:]):
        yield from _trec_judgements(file, lines)
    else:
        yield from _beir_judgements(file, lines)


def pairs(file: Path) -> Iterator[IdPair]:
    """Yield query id and document id of each row below the header `query-id`, `corpus-id`."""
    for number, line in _lines(file):
        row = tuple(line.rstrip("\r\n").split("\t"))
        if number == 1:
            if row != PAIRS_HEADER:
                raise FaultyFile(file, 0, "has no header; let its first line be query-id, corpus-id")
            continue
        if len(row) != 2 or not all(row):
            raise FaultyFile(file, number, f"a query id and a document id were expected, not {quote(list(row))}")
        yield row[0], row[1]


def scored_pairs(file: Path) -> Iterator[ScoredPair]:
    """Yield query id, document id and score of each row below the header `query-id`, `corpus-id`, `score`."""
    for number, line in _lines(file):
        row = tuple(line.rstrip("\r\n").split("\t"))
        if number == 1:
            if row != JUDGEMENTS_HEADER:
                raise FaultyFile(file, 0, "has no header; let its first line be query-id, corpus-id, score")
            continue
        score = _parse_score(row)
        if not math.isfinite(score):
            expected = "query-id, corpus-id and a finite score with tabs between them"
            raise FaultyFile(file, number, f"{expected} were expected, not {quote(list(row))}")
        yield row[0], row[1], score


def _parse_score(row: Sequence[str]) -> float:
    """Return the score of a row, NaN where it has none."""
    if len(row) != 3:
        return math.nan
    try:
        return float(row[2])
    except ValueError:
        return math.nan


def _opened(file: Path) -> gzip.GzipFile:
    # Bytes, because text mode would also end a line at a lone carriage return.
    try:
        if file.suffix == ".gz":
            return gzip.open(file, "rb")
        return file.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise FaultyFile(file, 0, f"cannot be read ({error.strerror})") from error


def _lines(file: Path) -> Iterator[Line]:
    """Yield the lines with their numbers."""
    with _opened(file) as lines:
        for number in itertools.count(1):
            try:
                line = next(lines, b"").decode("utf-8-sig" if number == 1 else "utf-8")  # a mark begins no id
            except UnicodeDecodeError as error:
                raise FaultyFile(file, number, f"byte {error.start + 1} is not UTF-8") from None
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise FaultyFile(file, number, f"the gzip file is damaged ({error})") from None
            except OSError as error:  # of a folder, or of a disk
                raise FaultyFile(file, number, f"cannot be read ({error.strerror})") from error
            if not line:
                return
            if "\r" in line.removesuffix("\n")[:-1]:
                raise FaultyFile(file, number, "a carriage return within a line; end lines with a line feed")
            yield number, line


def _is_tsv(file: Path) -> bool:
    return ".tsv" in file.suffixes[-2:]


def _numbered_records(file: Path) -> Iterator[tuple[int, Record]]:
    tabbed = _is_tsv(file)
    columns = 0
    for number, line in _lines(file):
        try:
            if tabbed:
                row = line.rstrip("\r\n").split("\t")
                columns = columns or len(row)
                record = _from_row(row, columns)
            else:
                record = _from_json(line)
        except ValueError as error:
            raise FaultyFile(file, number, str(error)) from None
        yield number, record


def _from_json(line: str) -> Record:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(f"not a JSON object ({clip(error)})") from None
    if not isinstance(row, dict):
        row = {}
    identifier = row.get(_first_field(row, ID_FIELDS))
    if not isinstance(identifier, str):
        raise ValueError("not a JSON object with a string '_id'")
    text_field = _first_field(row, TEXT_FIELDS)
    for field in ("title", text_field):
        if not isinstance(row.get(field), str | None):
            raise ValueError(f"{field!r} is not a string but {quote(row[field])}")
    title = row.get("title") or ""
    text = row.get(text_field) or ""
    if "\\u" in line:  # no tokenizer takes half of a pair
        try:
            f"{title}{text}".encode()
        except UnicodeEncodeError:
            raise ValueError("a lone surrogate, which is no letter") from None
    return Record(identifier, title, text)


def _first_field(row: dict[str, Any], fields: Sequence[str]) -> str:
    """Return the first of these fields that the row has, or the first of all."""
    for field in fields:
        if field in row:
            return field
    return fields[0]


def _from_row(row: list[str], columns: int) -> Record:
    if len(row) == columns and row[0]:
        if columns == 2:
            return Record(id=row[0], title="", text=row[1])
        if columns == 3:
            return Record(*row)
    expected = "an id and a text"
    if columns == 3:
        expected = "an id, a title and a text"
    raise ValueError(f"{expected} with tabs between them were expected, not {len(row)} columns: {quote(row[:3])}")


def _check_repetition(file: Path, hashes: set[int]) -> None:
    """Read the file again and raise FaultyFile for a repeated id. Different ids with equal hashes are no fault."""
    first_lines: dict[str, int] = {}
    for number, record in _numbered_records(file):
        if hash(record.id) not in hashes:
            continue
        if record.id in first_lines:
            first_line = first_lines[record.id]
            raise FaultyFile(file, number, f"id {quote(record.id)} was used on line {first_line}")
        first_lines[record.id] = number


def _beir_judgements(file: Path, lines: Iterator[Line]) -> Iterator[Judgement]:
    # A quote character is a part of an id, as it is in corpus.jsonl.
    rows = csv.reader((line for _, line in lines), delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        header = tuple(next(rows, JUDGEMENTS_HEADER))
        if header != JUDGEMENTS_HEADER:
            raise FaultyFile(file, 0, "has no header; let its first line be query-id, corpus-id, score")
        for number, row in enumerate(rows, 2):
            if len(row) != 3 or not _is_grade(row[2:]):
                expected = "a query id, a document id and a whole number with tabs between them"
                raise FaultyFile(file, number, f"{expected} were expected, not {quote(row)}")
            yield row[0], row[1], int(row[2])
    except csv.Error as error:
        raise FaultyFile(file, rows.line_num, str(error)) from None


def _trec_judgements(file: Path, lines: Iterator[Line]) -> Iterator[Judgement]:
    for number, line in lines:
        row = line.split()
        if len(row) != 4 or not _is_grade(row[3:]):
            expected = "a query id, an iteration, a document id and a whole number"
            raise FaultyFile(file, number, f"{expected} were expected, not {quote(row)}")
        yield row[0], row[2], int(row[3])


def _is_grade(columns: list[str]) -> bool:
    """Tell whether the columns are a single whole number."""
    if len(columns) != 1:
        return False
    digits = columns[0].removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= LONGEST_GRADE
