"""
Term coverage beside the rows of a track: one line of `coverage.jsonl` for each row and dataset.

* CoverageRecord    the coverage of a row's encoders, or of a model
* append_coverage   write a record beside the rows
* read_coverage     the records of a track's folder
"""

from __future__ import annotations

import json
import typing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from retrobench.core import atomic_write, parse_json
from retrobench.errors import RetrobenchError, clip
from retrobench.leaderboard.rows.row import full_entrant
from retrobench.leaderboard.rows.values import check_typed, find_unfit

__all__ = [
    "ABOVE",
    "CONTROL",
    "COVERAGE_FILE",
    "LESS",
    "PRIOR",
    "STATES",
    "CoverageRecord",
    "append_coverage",
    "read_coverage",
]

COVERAGE_FILE = "coverage.jsonl"
STATES = ("pre-trained", "fine-tuned", "published")
CONTROL = "mlm"  # the entrant that is trained for equally many steps without a bottleneck
PRIOR = "unigram prior"
ABOVE = "above shuffled"
LESS = f"less {CONTROL}"


class Interval(TypedDict):
    """A mean over texts and its 95 % interval, as `scoring.Mean`."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class CoverageRecord:
    """The coverage of one model's encoders on one dataset, with the facts that it stands on."""

    row: str  # id of the row; the model's name where it is none
    entrant: str
    representation: str
    seed: int | None
    dataset: str
    corpus: str  # hash of the texts
    kind: str  # passage or query
    texts: int
    words: float  # distinct words of a text, on average
    max_length: int
    vector: str  # cls or mean
    chance: float  # R-coverage of a random order of the words
    ceilings: dict[str, float]  # coverage@N -> the most that texts of these lengths can have
    encoders: dict[str, str]  # state -> key
    measures: dict[str, dict[str, dict[str, Interval]]]  # state -> projection -> measure
    control: str  # id of the row of `mlm`; empty without one
    version: str
    commit: str
    command: str
    date: str

    @property
    def line(self) -> str:
        """Return the entrant with its representation."""
        if not self.representation:
            return self.entrant
        return full_entrant(self.entrant, self.representation)

    def mean(self, state: str, projection: str, measure: str) -> float | None:
        """Return a mean, None where it was not measured."""
        value = self.measures.get(state, {}).get(projection, {}).get(measure)
        return None if value is None else value["mean"]

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self), allow_nan=False)


TYPES = typing.get_type_hints(CoverageRecord)


def append_coverage(folder: Path, record: CoverageRecord) -> None:
    """Write a record beside the rows of a track's folder, in place of an earlier one of the row, dataset and kind."""
    from filelock import FileLock

    file = folder / COVERAGE_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            records = {_subject(earlier): earlier for earlier in read_coverage(folder)}
            records[_subject(record)] = record
            atomic_write(file, "".join(f"{kept.to_json()}\n" for kept in records.values()))
    except OSError as error:
        raise RetrobenchError(
            f"Cannot write {file}: {error.strerror}. Mend it, or give another --leaderboard DIR."
        ) from error


def _subject(record: CoverageRecord) -> tuple[str, str, str]:
    return record.row, record.dataset, record.kind


def read_coverage(folder: Path) -> list[CoverageRecord]:
    """Return the records of a track's folder, none without a file. RetrobenchError names a line that is no record."""
    file = folder / COVERAGE_FILE
    if not file.is_file():
        return []
    records = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            records.append(_parse(line))
        except ValueError as error:
            raise RetrobenchError(
                f"{file}:{number} is no record of coverage: {clip(error)}. "
                "Delete the line and measure the row again with `retrobench coverage`."
            ) from error
    return records


def _parse(line: bytes) -> CoverageRecord:
    """Return the record of a line. ValueError names its fault."""
    document = parse_json(line)
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    values: dict[str, Any] = {name: document.get(name) for name in TYPES}
    faults = [check_typed(name, values[name], annotation) for name, annotation in TYPES.items()]
    fault = next(filter(None, faults), "") or find_unfit(values)
    if fault:
        raise ValueError(fault)
    record = CoverageRecord(**values)
    if not record.measures or not all(record.measures.values()):
        raise ValueError("it measures nothing")
    return record
