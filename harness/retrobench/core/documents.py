"""
JSON and TOML of the user's files. A document that cannot be read is a user's error.

* parse_json, parse_toml   a document; ValueError for any fault of it.
* read_json, read_toml     the document in a file; RetrobenchError names the file and the fault.
* take_table, take_tables  one table, or all tables of one name, out of a TOML document.

Python's readers take NaN and numbers beyond any float, which no table can hold. For deep nesting they raise
RecursionError.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retrobench.errors import RetrobenchError, clip, quote

__all__ = ["parse_json", "parse_toml", "read_json", "read_toml", "take_table", "take_tables"]

LONGEST_NUMBER = 300  # digits: a float can still hold it

Document = dict[str, Any]


def parse_json(content: str | bytes, has_values: bool = False) -> Any:
    """Return the document in a JSON text of UTF-8. ValueError for any fault, and for numbers that no float can hold.

    With `has_values` the caller checks numbers: a call for each of millions would take most of the time.
    """
    text = content.decode() if isinstance(content, bytes) else content
    decoder = _FAST if has_values else _STRICT
    try:
        return decoder.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_toml(text: str) -> Document:
    """Return the document in a TOML text. ValueError for any fault."""
    try:
        return tomllib.loads(text, parse_float=_float)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _int(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{clip(digits)} is no number")
    return value


_FAST = json.JSONDecoder(parse_constant=_float)
_STRICT = json.JSONDecoder(parse_int=_int, parse_float=_float, parse_constant=_float)


def read_json(file: Path, next_step: str) -> Any:
    """Return the document in a JSON file. RetrobenchError names the file and the fault, and ends in `next_step`."""
    return _read(file, parse_json, "JSON", next_step, next_step)


def read_toml(file: Path) -> Document:
    """Return the document in a TOML file. RetrobenchError names the file and the fault."""
    document: Document = _read(file, parse_toml, "TOML", "Correct it there.", "Give a .toml file that exists.")
    return document


def _read(file: Path, parse: Callable[[str], Any], kind: str, mend: str, replace: str) -> Any:
    try:
        return parse(file.expanduser().read_text("utf-8"))
    except OSError as error:
        raise RetrobenchError(f"Cannot read {clip(file)}: {error.strerror}. {replace}") from error
    except RuntimeError as error:  # of `expanduser`, for the home of an unknown user
        raise RetrobenchError(f"Cannot read {clip(file)}: {error} {replace}") from error
    except ValueError as error:  # UnicodeDecodeError too
        raise RetrobenchError(f"{clip(file)} is not {kind}: {clip(error)}. {mend}") from error


def take_table(document: Document, name: str, source: str) -> Document:
    """Take a table out of a document; it is empty where the document lacks it. RetrobenchError names the `source`."""
    table = document.pop(name, {})
    if not isinstance(table, dict):
        raise RetrobenchError(f"In {source} {name} is {quote(table)}; expected a table [{name}].")
    return dict(table)


def take_tables(document: Document, name: str, source: str) -> list[Document]:
    """Take all tables of a name out of a document; none where it lacks them. RetrobenchError names the `source`."""
    tables = document.pop(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise RetrobenchError(f"In {source} {name} is {quote(tables)}; expected [[{name}]] tables.")
    return tables
