"""
Term coverage beside the rows of a track: one line of `coverage.jsonl` for each row and dataset.

* CoverageRecord    the coverage of a row's encoders, or of a model
* append_coverage   write a record beside the rows
* read_coverage     the records of a track's folder
"""

from __future__ import annotations

import json
import typing
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from retrobench.core import atomic_write
from retrobench.errors import RetrobenchError

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

Means = dict[str, dict[str, float]]  # measure -> mean, low, high


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
    measures: dict[str, dict[str, Means]]  # state -> projection -> measure -> mean and 95 % interval
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
        return f"{self.entrant} ({self.representation})"

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
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        try:
            document = json.loads(line)
            names = {member.name for member in fields(CoverageRecord)}
            for name in names:
                check_type(document[name], TYPES[name], collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
            records.append(CoverageRecord(**{name: document[name] for name in names}))
        except (ValueError, TypeError, LookupError, TypeCheckError) as error:
            reason = " ".join(str(error).split())
            raise RetrobenchError(
                f"{file}:{number} is no record of coverage ({reason}). "
                "Delete the line and measure the row again with `retrobench coverage`."
            ) from error
    return records
