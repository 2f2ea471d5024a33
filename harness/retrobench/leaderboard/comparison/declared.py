"""
The tables that a track's folder declares in `tables.toml`, beside the tables of its identities.

* Declared      the tables and expectations of a folder
* Grid          scores of one setting's values, by entrant
* Across        entrants that differ in one setting of the track, such as equal time in place of equal steps
* Expectation   a paper's claim about two lines, held against their difference

    [[grid]]
    title = "Learning rates"
    key = "pretrain.learning_rate"
    overrides = ['evaluate.datasets=["retrobench/squad/val"]']  # of its rows beside the key

    [[across]]
    title = "Equal cost"
    key = "pretrain.steps"
    entrants = ["mlm", "dupmae (cls)"]  # all, where they are left out

    [[expectation]]
    paper = "RetroMAE, table 1"
    claim = "RetroMAE's pre-training makes a better retriever than BERT"
    better = "retromae"
    worse = "bert"

`[[coverage]]` has the fields of an expectation, and is held against term coverage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from retrobench.core import build_record, read_toml, take_tables
from retrobench.errors import unknown

__all__ = ["FILE", "Across", "Declared", "Expectation", "Grid"]

FILE = "tables.toml"

R = TypeVar("R")


@dataclass(frozen=True)
class Grid:
    """Scores of an entrant for each value of a setting, where a row was measured."""

    title: str
    key: str  # SECTION.KEY of the track
    overrides: tuple[str, ...] = ()  # of its rows beside the key, as tables show them after `with`
    text: str = ""


@dataclass(frozen=True)
class Across:
    """Entrants in one table whose tracks differ in one setting alone.

    An entrant stands there under the values that were set for it, and else under the track's own.
    """

    title: str
    key: str  # SECTION.KEY of the track
    entrants: tuple[str, ...] = ()  # ENTRANT or ENTRANT (REPRESENTATION); empty: all
    text: str = ""


@dataclass(frozen=True)
class Expectation:
    """A paper's claim that one line is better than another.

    A line is named ENTRANT (REPRESENTATION), or as in the table of differences.
    """

    paper: str
    claim: str
    better: str
    worse: str


@dataclass(frozen=True)
class Declared:
    """Everything that a folder's `tables.toml` declares."""

    grids: tuple[Grid, ...] = ()
    across: tuple[Across, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    coverage: tuple[Expectation, ...] = ()  # about term coverage

    @classmethod
    def read(cls, file: Path) -> Declared:
        """Return the declarations of a file; none where there is no such file. RetrobenchError names a fault."""
        if not file.is_file():
            return cls()
        document = read_toml(file)
        names = ("grid", "across", "expectation", "coverage")
        for name in document:
            if name not in names:
                raise unknown(f"table of {file}", name, names)
        return cls(
            _records(Grid, document, "grid", file),
            _records(Across, document, "across", file),
            _records(Expectation, document, "expectation", file),
            _records(Expectation, document, "coverage", file),
        )


def _records(record: type[R], document: dict[str, Any], name: str, file: Path) -> tuple[R, ...]:
    entries = take_tables(document, name, str(file))
    return tuple(build_record(record, entry, f"{name} {number} of {file}") for number, entry in enumerate(entries, 1))
