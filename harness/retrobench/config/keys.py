"""Every key of a track: its type, default and meaning, read off the records in `track`."""

from __future__ import annotations

import dataclasses
import inspect
import io
import re
import tokenize
from typing import Any, NamedTuple

from retrobench.config.reading import SECTIONS
from retrobench.core import describe, types_of

__all__ = ["TrackKey", "track_keys"]


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
        meanings, defaults = _meanings(record), _defaults(record)
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
            defaults[field.name] = "" if field.default is dataclasses.MISSING else _toml(field.default)
    return defaults


def _toml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _meanings(record: type) -> dict[str, str]:
    """Return the comment at each field of a record, of its bases and of the records within it."""
    meanings: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if dataclasses.is_dataclass(base):
            meanings |= _comments(inspect.getsource(base))
            for field in dataclasses.fields(base):
                if dataclasses.is_dataclass(field.default):
                    meanings |= _meanings(type(field.default))
    return meanings


def _comments(source: str) -> dict[str, str]:
    """Return the comment behind `name: type`, or the comment lines above it, for each such line of a class."""
    comments: dict[str, str] = {}
    above: list[str] = []
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        text = token.string.lstrip("# ")
        before = lines[token.start[0] - 1][: token.start[1]].strip()
        field = re.match(r"(\w+): ", before)
        if field:
            comments[field[1]] = text
            continue
        above.append(text)
        field = re.match(r"\s+(\w+): ", lines[token.start[0]])
        if field:
            comments[field[1]] = " ".join(above)
            above = []
    return comments
