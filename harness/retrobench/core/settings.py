"""
Settings of a frozen dataclass: read from text, checked against the fields' types, built.

* build        settings -> the record, an unknown key or a value of the wrong type refused in one line
* from_text    `KEY=VALUE` texts -> typed values
* types_of     field -> its type, for the fields that are settings
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from retrobench.errors import RetrobenchError, unknown

__all__ = ["build", "from_text", "types_of"]

T = TypeVar("T")

KINDS = "bool, int, float, str, Literal, tuple[X, ...] or X | None"
PLAIN = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    type(None): "none",
}


def build(record: type[T], settings: Mapping[str, Any], label: str) -> T:
    """A `record` with `settings` in place of its defaults; `label` is what an error calls it.

    Raises RetrobenchError for an unknown key, for a value that is not of its field's type, and with the text
    of a ValueError from `__post_init__`. Lists become tuples and whole numbers floats where the field is one.
    """
    types = types_of(record)
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in types:
            raise unknown(f"{label} setting", key, types)
        try:
            values[key] = _fit(value, types[key])
        except ValueError:
            expected = _describe(types[key])
            raise RetrobenchError(f"{label} setting {key!r} is {value!r}; expected {expected}.") from None
    try:
        return cast(Callable[..., T], record)(**values)
    except ValueError as error:
        raise RetrobenchError(f"{label} refuses its settings: {error}") from error


def from_text(record: type, texts: Mapping[str, str]) -> dict[str, Any]:
    """The texts read by the type of each field. What cannot be read stays text, for `build` to refuse."""
    types = types_of(record)
    return {key: _read(text, types[key]) if key in types else text for key, text in texts.items()}


def types_of(record: type) -> dict[str, Any]:
    """The type of each field."""
    # One by one, since what a ClassVar is annotated with may be imported for type checkers only.
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, record)):
        owner = next(base for base in record.__mro__ if field.name in inspect.get_annotations(base))
        text: Any = field.type
        found[field.name] = eval(text, vars(sys.modules[owner.__module__])) if isinstance(text, str) else text
    return found


def _fit(value: Any, annotation: Any) -> Any:
    """`value` as a field of this type holds it, or ValueError."""
    kind, options = get_origin(annotation), get_args(annotation)
    if kind in (Union, UnionType):
        for option in options:
            with suppress(ValueError):
                return _fit(value, option)
    elif kind is Literal and any(value == option and type(value) is type(option) for option in options):
        return value
    elif kind is tuple and options[1:] == (...,) and isinstance(value, (list, tuple)):
        return tuple(_fit(part, options[0]) for part in value)
    elif annotation is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    elif annotation in PLAIN and annotation is not float and type(value) is annotation:
        return value
    raise ValueError(value)


def _describe(annotation: Any) -> str:
    kind, options = get_origin(annotation), get_args(annotation)
    if kind in (Union, UnionType):
        return " or ".join(_describe(option) for option in options)
    if kind is Literal:
        return "one of " + ", ".join(repr(option) for option in options)
    if kind is tuple and options[1:] == (...,):
        return f"a list of which each is {_describe(options[0])}"
    return PLAIN.get(annotation, f"a field of type {KINDS}, not {annotation}")


def _read(text: str, annotation: Any) -> Any:
    readings: list[Any] = [None] if text == "none" else []
    with suppress(tomllib.TOMLDecodeError):
        readings.append(tomllib.loads(f"value = {text}")["value"])
    with suppress(ValueError):
        readings.append(float(text))  # `.5` is no TOML
    for reading in (*readings, text):
        with suppress(ValueError):
            return _fit(reading, annotation)
    return text
