"""A folder in BEIR's layout, read with beir: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv.

Only corpus.jsonl is needed until queries or judgements are asked for. Each faulty line is named in a
RetrobenchError, where beir would drop it, overwrite another or fail without saying where.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from retrobench.errors import RetrobenchError

if TYPE_CHECKING:
    from beir.datasets.data_loader import GenericDataLoader

__all__ = ["checked", "document_count", "documents", "judgements", "queries"]

LAYOUT = "corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv"
T = TypeVar("T")


def checked(folder: Path) -> Path:
    """The folder itself, if it has documents."""
    if not (folder / "corpus.jsonl").is_file():
        raise RetrobenchError(f"Folder {folder} has no corpus.jsonl; BEIR's layout is {LAYOUT}.")
    return folder


def documents(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Id, title and text of each document in file order, all read before the first is given."""
    _check_records(folder / "corpus.jsonl")
    rows = _through_beir(folder, lambda loader: loader.load_corpus())
    return ((key, row["title"] or "", row["text"] or "") for key, row in rows.items())


def document_count(folder: Path) -> int:
    """The number of lines of corpus.jsonl."""
    with (folder / "corpus.jsonl").open("rb") as lines:
        return sum(1 for _ in lines)


def queries(folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """Id and text of each query that the split judges, in the order of its judgements."""
    file = folder / "queries.jsonl"
    if not file.is_file():
        raise RetrobenchError(f"Folder {folder} has no queries.jsonl, so no queries; BEIR's layout is {LAYOUT}.")
    _check_records(file)
    for _ in judgements(folder, split):
        pass  # so that a faulty row is named here rather than met by beir

    def read(loader: GenericDataLoader) -> dict[str, str]:
        loader.corpus = {"": {}}  # were it empty, load() would read the documents too
        return dict(loader.load(split)[1])

    try:
        texts = _through_beir(folder, read)
    except KeyError as error:
        raise RetrobenchError(f"{_qrels(folder, split)} judges query {error}, which {file} lacks.") from None
    return ((key, text or "") for key, text in texts.items())


def judgements(folder: Path, split: str) -> Iterator[tuple[str, str, int]]:
    """Query id, document id and grade of each row after the header.

    A missing header is an error: beir would take the first judgement for one.
    """
    file = _qrels(folder, split)
    if not file.is_file():
        known = ", ".join(sorted(other.stem for other in file.parent.glob("*.tsv"))) or "none"
        raise RetrobenchError(f"No file {file}. Splits there: {known}; name one as {folder}:SPLIT.")
    with file.open(encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines, delimiter="\t")
        if _is_judgement(next(rows, [])):
            raise RetrobenchError(f"{file} has no header; let its first line be query-id, corpus-id, score.")
        for number, row in enumerate(rows, 2):
            if not _is_judgement(row):
                expected = "a query id, a document id and a whole number with tabs between them"
                raise RetrobenchError(f"{file}, line {number}: {expected} were expected, not {row}.")
            yield row[0], row[1], int(row[2])


def _qrels(folder: Path, split: str) -> Path:
    return folder / "qrels" / f"{split}.tsv"


def _is_judgement(row: list[str]) -> bool:
    return len(row) == 3 and row[2].removeprefix("-").isdecimal()


def _through_beir(folder: Path, read: Callable[[GenericDataLoader], dict[str, T]]) -> dict[str, T]:
    """What `read` gets from beir's loader of `folder`."""
    from beir.datasets.data_loader import GenericDataLoader

    # beir draws a progress bar, and leaves closing its files to the garbage collector.
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        return read(GenericDataLoader(str(folder)))


def _check_records(file: Path) -> None:
    """Raise for the first line that is not an object of strings with an id of its own."""
    stamp = file.stat()
    _check_lines(file, stamp.st_mtime_ns, stamp.st_size)


# Cached, since checking costs as much as reading: once for each state of a file.
@functools.lru_cache
def _check_lines(file: Path, modified: int, size: int) -> None:
    seen: dict[str, int] = {}
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                key = _record_id(line)
            except ValueError as error:
                raise RetrobenchError(f"{file}, line {number}: {error}.") from None
            if key in seen:
                raise RetrobenchError(f"{file}, line {number}: id {key!r} was used on line {seen[key]}.")
            seen[key] = number
    if not seen:
        raise RetrobenchError(f"{file} is empty; one JSON object per line is expected.")


def _record_id(line: str) -> str:
    """The id of a line of corpus.jsonl or queries.jsonl; ValueError says what is wrong with the line."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not a JSON object ({error})") from None
    if not isinstance(row, dict) or not isinstance(row.get("_id"), str):
        raise ValueError("not a JSON object with a string '_id'")
    for field in ("title", "text"):
        if not isinstance(row.get(field), str | None):
            raise ValueError(f"{field!r} is not a string but {row[field]!r}")
    return str(row["_id"])
