"""
Read TREC's files: runs of millions of lines as arrays, and judgements.

* read_run(path) -> Run        six columns: query, Q0, document, rank, score, tag
* read_qrels(path) -> dict     four columns: query, 0, document, grade; or BEIR's three with tabs and a header

Any blanks separate columns. A file may be gzipped, whatever its name. A byte order mark at its beginning and leading
lines that begin with # are skipped (ir_metadata). A faulty line raises RetrobenchError with file and line number.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, dropwhile
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import numpy as np

from retrobench.data import LARGEST_GRADE, TOO_LARGE, UNFIT, Exclusions, fits_trec
from retrobench.errors import RetrobenchError, clip, quote
from retrobench.scoring import ranking
from retrobench.scoring.ranking import Ranking, Removals

__all__ = ["Run", "read_qrels", "read_run"]

_COLUMNS = ("query", "Q0", "document", "rank", "score", "tag")
_LAYOUT = "six columns: query, Q0, document, rank, score, tag"
_CHUNK = 2**24  # bytes
_GROUP = 8  # queries whose documents are searched together: they fit a processor's cache
_LARGEST = float(np.finfo(np.float32).max)
_JUDGEMENTS = (
    "four columns are expected (query, 0, document, grade), or three after a header (query-id, corpus-id, score)"
)
_GRADE = re.compile(rb"[-+]?\d{1,18}")
_HEADER = [b"query-id", b"corpus-id", b"score"]
_NUMBER = re.compile(rb"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_CONTROLS = bytes([*range(9), *range(14, 32), 127])  # without white space
_LONE_RETURN = re.compile(rb"\r(?!\n|\Z)")
_GZIP_MAGIC = b"\x1f\x8b"
_MARK = "\ufeff".encode()  # a byte order mark

_Line = tuple[int, list[bytes]]  # its number and columns


@dataclass(frozen=True)
class Run:
    """
    Hold the hits of a run file, a list for each query in the order of the queries' first lines.

    `documents` is an Arrow array of the document ids of all n lines, grouped by query. `rows` [Q, k] int32 index it;
    -1 ends a list. `scores` [Q, k] are float32, as in trec_eval. Ids stay in Arrow until a caller needs Python strings.
    """

    tag: str
    queries: list[str]
    documents: Any
    rows: np.ndarray
    scores: np.ndarray

    def rank(self, exclusions: Exclusions | None = None) -> Ranking:
        """Return the ranking by score, whatever the order of the file, without the documents that a rule excludes.

        Its rows index `documents`.
        """
        tied = ranking.tied(self.rows, self.scores)
        precedences = np.zeros(len(self.documents), np.int32)
        precedences[tied] = ranking.precedence(self.documents.take(tied).to_pylist())
        removals = None
        if exclusions:
            removals = self._removals(exclusions)
        depth = self.rows.shape[1]
        return ranking.finish(self.rows, self.scores, precedences, depth, removals)

    def _removals(self, exclusions: Exclusions) -> Removals:
        own_lines = np.full(len(self.queries), -1, np.int32)
        if exclusions.own:
            own_lines = self._own_lines()
        excluded_lines: list[list[int]] = [[] for _ in self.queries]
        for position, query in enumerate(self.queries):
            excluded_documents = exclusions.documents.get(query)
            if not excluded_documents:
                continue
            lines = self.rows[position]
            lines = lines[lines >= 0]
            for line, document in zip(lines.tolist(), self.documents.take(lines).to_pylist(), strict=True):
                if document in excluded_documents:
                    excluded_lines[position].append(line)
        return Removals(own_lines, ranking.padded(excluded_lines))

    def _own_lines(self) -> np.ndarray:
        """Return the line of each query's own document, [Q]; -1 for a query without."""
        import pyarrow as pa
        from pyarrow import compute

        lengths = (self.rows >= 0).sum(1)
        query_of_line = np.repeat(np.arange(len(self.queries)), lengths)
        query_ids = pa.array(self.queries, pa.large_string()).take(query_of_line)
        own_lines = np.flatnonzero(compute.equal(self.documents, query_ids))
        own = np.full(len(self.queries), -1, np.int32)
        own[query_of_line[own_lines]] = own_lines
        return own

    def rows_among(self, ids: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Convert rows of `documents` to rows of `ids`: -2 for a document not among them; -1 ends a list."""
        import pyarrow as pa
        from pyarrow import compute

        row_of_line = compute.index_in(self.documents, value_set=pa.array(ids, pa.large_string()))
        row_of_line = row_of_line.fill_null(-2).to_numpy()
        row_of_line = np.append(row_of_line, np.int32(-1))  # row -1 indexes the last entry
        return np.asarray(row_of_line[rows])


def read_run(path: Path) -> Run:
    """
    Read the run of a file. The column rank is ignored: scores decide, as in trec_eval.

    Raises RetrobenchError for a faulty line, a score that is non-finite in 32 bits, a document that a query names
    twice, and a file without a hit.
    """

    with _open(path) as file:
        first_line = _first_line(file)
        if not first_line:
            raise RetrobenchError(f"{path} holds no hit at all; for each, a run has a line with {_LAYOUT}.")
        try:
            lines = _SingleSpaced(file, first_line)
            table = _parse(lines)
        except ValueError as error:  # ArrowInvalid is one
            _raise_faulty_line(path, str(error))
    with np.errstate(over="ignore"):
        scores = table["score"].to_numpy().astype(np.float32)
    if not np.isfinite(scores).all():
        _raise_faulty_line(path, "a score is not finite")
    query_of_line, queries = _encode(table["query"])
    documents = table["document"].combine_chunks()
    identifiers = queries if lines.is_ascii else [*queries, *documents.unique().to_pylist()]
    if not all(map(fits_trec, identifiers)):
        _raise_faulty_line(path, f"it has {UNFIT}")
    grouped = (np.diff(query_of_line) >= 0).all()
    if not grouped:
        by_query = np.argsort(query_of_line, kind="stable")
        query_of_line = query_of_line[by_query]
        documents = documents.take(by_query)
        scores = scores[by_query]
    repeating = _first_repetition(query_of_line, documents)
    if repeating is not None:
        _raise_repetition(path, queries[repeating])
    rows, list_scores = _lists(query_of_line, scores, len(queries))
    tag = first_line.split()[-1].decode(errors="replace")
    return Run(tag, queries, documents, rows, list_scores)


def _parse(lines: _SingleSpaced) -> Any:
    """Parse the columns query, document and score in parallel; return an Arrow table."""
    import pyarrow as pa
    from pyarrow import csv

    types = {"query": pa.dictionary(pa.int32(), pa.string()), "document": pa.large_string(), "score": pa.float64()}
    read = csv.ReadOptions(column_names=_COLUMNS, block_size=_CHUNK)
    parse = csv.ParseOptions(delimiter=" ", quote_char=False, double_quote=False)
    convert = csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=[])
    return csv.read_csv(pa.PythonFile(lines, mode="r"), read, parse, convert)


def _encode(column: Any) -> tuple[np.ndarray, list[str]]:
    """Return a column of texts as indices [n] into its distinct texts, and these in order of appearance."""
    chunks = column.unify_dictionaries().chunks
    indices = np.concatenate([chunk.indices.to_numpy() for chunk in chunks])
    return indices, chunks[0].dictionary.to_pylist()


def _first_repetition(query_of_line: np.ndarray, documents: Any) -> int | None:
    """Return the first query that names a document twice; `query_of_line` [n] ascends."""
    ends = np.cumsum(np.bincount(query_of_line))
    start = 0
    for first in range(0, len(ends), _GROUP):
        end = int(ends[first : first + _GROUP][-1])
        size = end - start
        document_codes = documents.slice(start, size).dictionary_encode().indices.to_numpy()
        # A number for each pair of query and document: equal pairs are neighbours once sorted.
        query_codes = query_of_line[start:end].astype(np.int64) * size
        pairs = np.sort(query_codes + document_codes)
        repeated = np.flatnonzero(pairs[1:] == pairs[:-1])
        if len(repeated):
            return int(pairs[repeated[0]] // size)
        start = end
    return None


def _lists(query_of_line: np.ndarray, scores: np.ndarray, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and scores [Q, k] of the lines, a list for each query; -1 and -inf end a list."""
    lengths = np.bincount(query_of_line, minlength=queries)
    starts = np.cumsum(lengths) - lengths
    lines = np.arange(len(query_of_line))
    position = lines - np.repeat(starts, lengths)
    rows = np.full((queries, int(lengths.max())), -1, np.int32)
    list_scores = np.full(rows.shape, -np.inf, np.float32)
    rows[query_of_line, position] = lines
    list_scores[query_of_line, position] = scores
    return rows, list_scores


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, gzipped or not, for reading bytes."""
    try:
        with path.open("rb") as file:
            content: Any = file
            if file.peek(2)[:2] == _GZIP_MAGIC:
                content = gzip.GzipFile(fileobj=file)
            if content.peek(3)[:3] == _MARK:
                content.read(3)
            yield cast("IO[bytes]", content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RetrobenchError(f"{path} is a broken gzip file ({error}); fetch or write it again.") from None
    except OSError as error:
        raise RetrobenchError(f"{path} cannot be read ({error.strerror}); give a file of TREC lines.") from None


def _first_line(file: IO[bytes]) -> bytes:
    """Return the first line after the head that is not blank; empty at the end of the file."""
    for line in file:
        if line.strip() and not line.startswith(b"#"):
            return line
    return b""


class _SingleSpaced:
    """Read a file from its first line on with single spaces between columns, for a parser that splits at each."""

    closed = False

    def __init__(self, file: IO[bytes], first_line: bytes) -> None:
        self.file = file
        self.first_line = first_line
        self.unread = memoryview(b"")
        self.is_ascii = True

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`; none at the end. ValueError for bytes that no id can hold."""
        if not self.unread:
            lines = self.first_line + self.file.read(_CHUNK) + self.file.readline()
            self.first_line = b""
            self.is_ascii = self.is_ascii and lines.isascii()
            if _MARK in lines or len(lines.translate(None, _CONTROLS)) < len(lines):
                raise ValueError(f"it has {UNFIT}")
            if b"\r" in lines and _LONE_RETURN.search(lines):
                raise ValueError("it has a carriage return within a line")
            self.unread = memoryview(_single_spaced(lines))
        chunk = self.unread[:size]
        self.unread = self.unread[size:]
        return bytes(chunk)


def _single_spaced(lines: bytes) -> bytes:
    """Return whole lines with single spaces between columns and none at either end."""
    blank = np.frombuffer(lines, np.uint8) <= 32
    adjacent = (blank[1:] & blank[:-1]).any()
    if not adjacent and b"\t" not in lines and b" " not in (lines[:1], lines[-1:]):
        return lines
    lines = re.sub(rb"[ \t\r\f\v]+", b" ", lines)
    lines = re.sub(rb" ?\n ?", b"\n", lines)
    return lines.strip(b" ")


def _read_lines(path: Path) -> Iterator[_Line]:
    """Yield number and columns of each line after the head that is not blank."""
    with _open(path) as file:
        yield from dropwhile(_is_head, _split_lines(path, file))


def _split_lines(path: Path, file: IO[bytes]) -> Iterator[_Line]:
    for number, line in enumerate(file, 1):
        if _LONE_RETURN.search(line):
            raise RetrobenchError(
                f"{path}, line {number}: a carriage return within a line. End lines with a line feed."
            )
        columns = line.split()
        if columns:
            yield number, columns


def _is_head(line: _Line) -> bool:
    _, columns = line
    return columns[0].startswith(b"#")


def _raise_faulty_line(path: Path, reason: str) -> NoReturn:
    """Raise RetrobenchError for the first faulty line of a run; `reason` is for a fault only the parser sees."""
    for number, columns in _read_lines(path):
        if len(columns) != len(_COLUMNS):
            raise RetrobenchError(f"{path}, line {number}: {_LAYOUT} were expected, not {len(columns)}.")
        score = columns[4]
        if not _NUMBER.fullmatch(score) or not abs(float(score)) <= _LARGEST:
            raise RetrobenchError(
                f"{path}, line {number}: a finite score was expected in column 5, not "
                f"{quote(score.decode(errors='replace'))}."
            )
        if not _is_utf8(columns):
            raise RetrobenchError(f"{path}, line {number}: UTF-8 was expected.")
        for column in (columns[0], columns[2]):
            _check_id(path, number, column.decode())
    raise RetrobenchError(f"{path} cannot be read as a run ({clip(reason)}); a line has {_LAYOUT}.")


def _check_id(path: Path, number: int, identifier: str) -> None:
    if not fits_trec(identifier):
        raise RetrobenchError(f"{path}, line {number}: {quote(identifier)} is among the {UNFIT}.")


def _is_utf8(columns: Sequence[bytes]) -> bool:
    try:
        b" ".join(columns).decode()
    except UnicodeDecodeError:
        return False
    return True


def _raise_repetition(path: Path, query: str) -> NoReturn:
    first_lines: dict[bytes, int] = {}
    for number, columns in _read_lines(path):
        if columns[0] != query.encode():
            continue
        first_line = first_lines.setdefault(columns[2], number)
        if first_line != number:
            document = columns[2].decode()
            raise RetrobenchError(
                f"{path}, line {number}: query {quote(query)} has document {quote(document)} on line {first_line} "
                "already; keep one."
            )
    raise AssertionError("the parser saw a repetition that the file does not have")


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """
    Read query id -> document id -> grade. Grades below 0 are kept; measures interpret them.

    Raises RetrobenchError for a faulty line, a grade that is too large or no whole number, two grades of a pair, and an
    empty file.
    """
    lines = _read_lines(path)
    first_line = next(lines, None)
    if first_line is None:
        raise RetrobenchError(f"{path} holds no judgement; {_JUDGEMENTS}.")
    number, columns = first_line
    width = len(columns)
    if width not in (3, 4):
        raise RetrobenchError(f"{path}, line {number}: {width} columns are no judgement; {_JUDGEMENTS}.")
    if width == 4:
        lines = chain([first_line], lines)
    elif columns != _HEADER:
        raise RetrobenchError(f"{path}, line {number}: three columns need a header, query-id, corpus-id, score.")
    qrels: dict[str, dict[str, int]] = {}
    for number, columns in lines:
        query, document, grade = _parse_judgement(path, number, columns, width)
        earlier = qrels.setdefault(query, {}).setdefault(document, grade)
        if earlier != grade:
            raise RetrobenchError(
                f"{path}, line {number}: query {quote(query)} and document {quote(document)} are judged {grade} here "
                f"and {earlier} before; remove one of the two."
            )
    if not qrels:
        raise RetrobenchError(f"{path} holds no judgement; {_JUDGEMENTS}.")
    return qrels


def _parse_judgement(path: Path, number: int, columns: list[bytes], width: int) -> tuple[str, str, int]:
    """Return query, document and grade of a line."""
    well_formed = len(columns) == width and _GRADE.fullmatch(columns[-1])
    if not well_formed or not _is_utf8(columns):
        line = b" ".join(columns).decode(errors="replace")
        expected = f"{width} columns in UTF-8, a whole number in the last,"
        raise RetrobenchError(f"{path}, line {number}: {expected} were expected, not {quote(line)}.")
    query = columns[0].decode()
    document = columns[-2].decode()
    grade = int(columns[-1])
    for identifier in (query, document):
        _check_id(path, number, identifier)
    if abs(grade) > LARGEST_GRADE:
        raise RetrobenchError(f"{path}, line {number}: {grade} is among the {TOO_LARGE}.")
    return query, document, grade
