"""
Every key of a track: its type, default and meaning, read off the records in `track`.

* track_keys       list the keys of all sections.
* field_comments   return the comment at each field of a record, for objectives too.
* as_in_toml       return a setting as TOML and `--set` have it.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import re
import tokenize
from contextlib import suppress
from typing import Any, NamedTuple

from retrobench.config.reading import SECTIONS
from retrobench.core import describe, types_of

__all__ = ["TrackKey", "as_in_toml", "field_comments", "track_keys"]


class TrackKey(NamedTuple):
    """One key of a section of a track's file."""

    section: str
    key: str
    type: str
    default: str  # empty where the key is required
    meaning: str


def track_keys() -> list[TrackKey]:
    """Return the keys of all sections, in the order of the records.

    The meaning of a key is the comment behind its field in the source, or the comment lines above it.
    """
    keys = []
    for section, record in SECTIONS.items():
        meanings, defaults = field_comments(record), _defaults(record)
        for key, annotation in types_of(record).items():
            keys.append(TrackKey(section, key, describe(annotation), defaults[key], meanings.get(key, "")))
    return keys


def _defaults(record: Any) -> dict[str, str]:
    """Return the default of each key as TOML has it, the keys of records within the record included."""
    defaults: dict[str, str] = {}
    for field in dataclasses.fields(record):
        if dataclasses.is_dataclass(field.default):
            defaults |= _defaults(type(field.default))
        else:
            defaults[field.name] = "" if field.default is dataclasses.MISSING else as_in_toml(field.default)
    return defaults


def as_in_toml(value: Any) -> str:
    """Return a setting as TOML has it; none, which TOML lacks, as `--set` takes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(as_in_toml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def field_comments(record: type) -> dict[str, str]:
    """Return the comment at each field of a record, of its bases and of the records within it."""
    meanings: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        with suppress(OSError, TypeError):  # a class that was made without a file has no source
            meanings |= _comments(inspect.getsource(base))
        for field in dataclasses.fields(base):
            if dataclasses.is_dataclass(field.default):
                meanings |= field_comments(type(field.default))
    return meanings


def _comments(source: str) -> dict[str, str]:
    """Return the comment behind `name: type`, or the comment lines above it, for each such line of a class."""
    comments: dict[str, str] = {}
    above: list[str] = []
    row_above = 0  # of the last comment that stands alone
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        row = token.start[0]
        text = token.string.lstrip("# ")
        before = lines[row - 1][: token.start[1]].strip()
        field = re.match(r"(\w+): ", before)
        if field:
            comments[field[1]] = text
        if before:
            continue
        if row != row_above + 1:
            above = []
        above.append(text)
        row_above = row
        field = re.match(r"\s+(\w+): ", lines[row])
        if field:
            comments[field[1]] = " ".join(above)
    return comments
