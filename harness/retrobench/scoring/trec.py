"""
TREC's files: runs of millions of lines as arrays, and judgements.

* read_run(path) -> Run        six columns: query, Q0, document, rank, score, tag
* read_qrels(path) -> dict     four columns: query, 0, document, grade; or BEIR's three with tabs and a header

Columns are parted by any blanks, a file may be gzipped whatever its name, and lines that begin with # at its head are
skipped (ir_metadata). A faulty line is a RetrobenchError that names file and line.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, dropwhile
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import numpy as np

from retrobench.errors import RetrobenchError
from retrobench.scoring import ranking
from retrobench.scoring.ranking import Ranked

__all__ = ["Run", "read_qrels", "read_run"]

_COLUMNS = ("query", "Q0", "document", "rank", "score", "tag")
_LAYOUT = "six columns: query, Q0, document, rank, score, tag"
_CHUNK = 2**24  # bytes
_TOGETHER = 8  # queries whose documents are looked through together: they fit a processor's cache
_LARGEST = float(np.finfo(np.float32).max)
_JUDGEMENTS = (
    "four columns are expected (query, 0, document, grade), or three after a header (query-id, corpus-id, score)"
)
_GRADE = re.compile(rb"[-+]?\d+")
_NUMBER = re.compile(rb"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Run:
    """The hits of a run file, a list for each query in the order in which the file first names it.

    `documents` is an Arrow array of the document ids of all n lines, those of a query together; `rows` [Q, k] int32
    count into it, -1 where a list ends; `scores` [Q, k] float32, as trec_eval keeps them. No text becomes a Python
    object before it is asked for.
    """

    tag: str
    queries: list[str]
    documents: Any
    rows: np.ndarray
    scores: np.ndarray

    def ranked(self, drop_self: bool = False) -> Ranked:
        """The ranking, in whatever order the file was: scores decide. `rows` count into `documents`."""
        tied = ranking.tied(self.rows, self.scores)
        places = np.zeros(len(self.documents), np.int32)
        places[tied] = ranking.precedence(self.documents.take(tied).to_pylist())
        own = self._own() if drop_self else None
        return ranking.finish(self.rows, self.scores, places, self.rows.shape[1], own)

    def _own(self) -> np.ndarray:
        """The row of each query's own document, [Q]; -1 where it has none."""
        import pyarrow as pa
        from pyarrow import compute

        lengths = (self.rows >= 0).sum(1)
        query = np.repeat(np.arange(len(self.queries)), lengths)
        asked = pa.array(self.queries, pa.large_string()).take(query)
        found = np.flatnonzero(compute.equal(self.documents, asked))
        own = np.full(len(self.queries), -1, np.int32)
        own[query[found]] = found
        return own

    def known(self, rows: np.ndarray, ids: Sequence[str]) -> np.ndarray:
        """Rows of `documents` as rows of `ids`: -2 for a document that is not among them, -1 where a list ends."""
        import pyarrow as pa
        from pyarrow import compute

        of_line = compute.index_in(self.documents, value_set=pa.array(ids, pa.large_string()))
        of_line = np.append(of_line.fill_null(-2).to_numpy(), np.int32(-1))  # and -1 is the last
        return np.asarray(of_line[rows])


def read_run(path: Path) -> Run:
    """The run of a file. The column rank is not read: scores decide, as in trec_eval.

    RetrobenchError where a line is faulty, a score is not finite in 32 bits, a query names a document twice, or there
    is no line at all.
    """
    from pyarrow import ArrowInvalid

    with _opened(path) as file:
        first = next(_said(file), b"")
        if not first:
            raise RetrobenchError(f"{path} holds no hit at all; for each, a run has a line with {_LAYOUT}.")
        try:
            table = _parsed(_Evened(file, first))
        except ArrowInvalid as error:
            _blame(path, str(error))
    with np.errstate(over="ignore"):
        scores = table["score"].to_numpy().astype(np.float32)
    if not np.isfinite(scores).all():
        _blame(path, "a score is not finite")
    query, queries = _codes(table["query"])
    documents = table["document"].combine_chunks()
    if (np.diff(query) < 0).any():  # a query's lines are not all together
        together = np.argsort(query, kind="stable")
        query, documents, scores = query[together], documents.take(together), scores[together]
    if (twice := _repetition(query, documents)) is not None:
        _blame_repetition(path, queries[twice])
    tag = first.split()[-1].decode()
    return Run(tag, queries, documents, *_lists(query, scores, len(queries)))


def _parsed(lines: _Evened) -> Any:
    """The columns query, document and score as an Arrow table, parsed in parallel."""
    import pyarrow as pa
    from pyarrow import csv

    types = {"query": pa.dictionary(pa.int32(), pa.string()), "document": pa.large_string(), "score": pa.float64()}
    read = csv.ReadOptions(column_names=_COLUMNS, block_size=_CHUNK)
    parse = csv.ParseOptions(delimiter=" ", quote_char=False, double_quote=False)
    convert = csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=[])
    return csv.read_csv(pa.PythonFile(lines, mode="r"), read, parse, convert)


def _codes(column: Any) -> tuple[np.ndarray, list[str]]:
    """A column of texts as numbers [n] into the list of what differs, in order of appearance."""
    chunks = column.unify_dictionaries().chunks
    return np.concatenate([chunk.indices.to_numpy() for chunk in chunks]), chunks[0].dictionary.to_pylist()


def _repetition(query: np.ndarray, documents: Any) -> int | None:
    """The first query that names a document twice; `query` [n] ascends."""
    ends = np.cumsum(np.bincount(query))
    for first in range(0, len(ends), _TOGETHER):
        start, end = int(ends[first - 1]) if first else 0, int(ends[first : first + _TOGETHER][-1])
        codes = documents.slice(start, end - start).dictionary_encode().indices.to_numpy()
        pairs = np.sort(query[start:end].astype(np.int64) * (end - start) + codes)
        twice = np.flatnonzero(pairs[1:] == pairs[:-1])
        if len(twice):
            return int(pairs[twice[0]] // (end - start))
    return None


def _lists(query: np.ndarray, scores: np.ndarray, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines [n], `query` ascending, as a list for each query, [Q, k], -1 and -inf where one ends."""
    lengths = np.bincount(query, minlength=queries)
    place = np.arange(len(query)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows = np.full((queries, int(lengths.max())), -1, np.int32)
    values = np.full(rows.shape, -np.inf, np.float32)
    rows[query, place], values[query, place] = np.arange(len(query), dtype=np.int32), scores
    return rows, values


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, gzipped or not."""
    try:
        with path.open("rb") as file:
            zipped = file.peek(2)[:2] == b"\x1f\x8b"
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if zipped else file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RetrobenchError(f"{path} is a broken gzip file ({error}); fetch or write it again.") from None
    except OSError as error:
        raise RetrobenchError(f"{path} cannot be read ({error.strerror}); give a file of TREC lines.") from None


def _said(lines: Iterable[bytes]) -> Iterator[bytes]:
    """What is no blank line, after the head."""
    return dropwhile(lambda line: line.startswith(b"#"), (line for line in lines if line.strip()))


class _Evened:
    """A file from its first line on, columns parted by one space, for a parser that splits at single ones."""

    closed = False

    def __init__(self, file: IO[bytes], first: bytes) -> None:
        self.file, self.first, self.rest = file, first, memoryview(b"")

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        if not self.rest:
            lines = self.first + self.file.read(_CHUNK) + self.file.readline()
            self.first, self.rest = b"", memoryview(_evened(lines))
        found, self.rest = self.rest[:size], self.rest[size:]
        return bytes(found)


def _evened(lines: bytes) -> bytes:
    """Whole lines with single spaces between columns and none at either end."""
    blank = np.frombuffer(lines, np.uint8) <= 32
    if (blank[1:] & blank[:-1]).any() or b"\t" in lines or b" " in (lines[:1], lines[-1:]):
        return re.sub(rb" ?\n ?", b"\n", re.sub(rb"[ \t\r\f\v]+", b" ", lines)).strip(b" ")
    return lines


def _lines_of(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """Number and columns of each line that says something, after the head."""
    with _opened(path) as file:
        columns = ((number, line.split()) for number, line in enumerate(file, 1))
        yield from dropwhile(lambda line: line[1][0].startswith(b"#"), (line for line in columns if line[1]))


def _blame(path: Path, why: str) -> NoReturn:
    """Name the first faulty line of a run. `why` is for a fault that only the parser knows."""
    for number, columns in _lines_of(path):
        if len(columns) != len(_COLUMNS):
            expected = f"{_LAYOUT} were expected, not {len(columns)}"
        elif not _NUMBER.fullmatch(columns[4]) or not abs(float(columns[4])) <= _LARGEST:
            expected = f"a finite score was expected in column 5, not {columns[4].decode(errors='replace')!r}"
        elif not _is_text(b" ".join(columns)):
            expected = "UTF-8 was expected"
        else:
            continue
        raise RetrobenchError(f"{path}, line {number}: {expected}.")
    raise RetrobenchError(f"{path} cannot be read as a run ({why}); a line has {_LAYOUT}.")


def _is_text(line: bytes) -> bool:
    try:
        return bool(line.decode())
    except UnicodeDecodeError:
        return False


def _blame_repetition(path: Path, query: str) -> NoReturn:
    seen: dict[bytes, int] = {}
    for number, columns in _lines_of(path):
        if columns[0] == query.encode() and (before := seen.setdefault(columns[2], number)) != number:
            document = columns[2].decode()
            raise RetrobenchError(
                f"{path}, line {number}: query {query!r} has document {document!r} on line {before} already; keep one."
            )
    raise AssertionError("the parser saw a repetition that the file does not have")


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Query id -> document id -> grade. Grades below 0 are kept: what they count is for the measure to say.

    RetrobenchError for a faulty line, a grade that is no whole number, two grades of one pair, and an empty file.
    """
    lines = _lines_of(path)
    number, columns = next(lines, (0, []))
    width = len(columns)
    if not width:
        raise RetrobenchError(f"{path} holds no judgement; {_JUDGEMENTS}.")
    if width == 4:
        lines = chain([(number, columns)], lines)
    elif width != 3:
        raise RetrobenchError(f"{path}, line {number}: {width} columns are no judgement; {_JUDGEMENTS}.")
    elif _GRADE.fullmatch(columns[2]):
        raise RetrobenchError(f"{path}, line {number}: three columns need a header, query-id, corpus-id, score.")
    grades: dict[str, dict[str, int]] = {}
    for number, columns in lines:
        if len(columns) != width or not _GRADE.fullmatch(columns[-1]) or not _is_text(b" ".join(columns)):
            shown = b" ".join(columns).decode(errors="replace")
            expected = f"{width} columns in UTF-8, a whole number in the last,"
            raise RetrobenchError(f"{path}, line {number}: {expected} were expected, not {shown!r}.")
        query, document, grade = columns[0].decode(), columns[-2].decode(), int(columns[-1])
        if grades.setdefault(query, {}).setdefault(document, grade) != grade:
            raise RetrobenchError(
                f"{path}, line {number}: query {query!r} and document {document!r} are judged {grade} here and "
                f"{grades[query][document]} before; remove one of the two."
            )
    if not grades:
        raise RetrobenchError(f"{path} holds no judgement; {_JUDGEMENTS}.")
    return grades
