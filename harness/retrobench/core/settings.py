"""
Typed settings of frozen dataclasses.

* build_record      make a record from settings; one error lists every fault.
* try_build_record  make a record or return its faults, for callers that gather the faults of several records.
* from_text         convert `KEY=VALUE` texts to typed values.
* types_of          return the type of each key.
* describe          a type in words, with its bounds.

A field's type is bool, int, float, str, ModelFolder, Literal, tuple[X, ...] or a union of them. The bounds of
annotated-types limit it, as in `Annotated[int, Ge(1)]`. The keys of a record within a record count as keys of the outer
record.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import operator
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt

from retrobench.core.documents import parse_toml
from retrobench.errors import RetrobenchError, quote, unknown
from retrobench.objective import ModelFolder

__all__ = ["build_record", "describe", "from_text", "try_build_record", "types_of"]

T = TypeVar("T")

KINDS = "bool, int, float, str, ModelFolder, Literal, tuple[X, ...] or X | None"
PLAIN = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    ModelFolder: "the folder or hub id of a model",
    type(None): "none",
}
BOUNDS: dict[type, tuple[str, Callable[[Any, Any], bool], str]] = {
    Ge: ("ge", operator.ge, "at least"),
    Gt: ("gt", operator.gt, "above"),
    Le: ("le", operator.le, "at most"),
    Lt: ("lt", operator.lt, "below"),
}


def build_record(record: type[T], settings: Mapping[str, Any], source: str, prefix: str = "") -> T:
    """Return a `record` with `settings` in place of its defaults.

    Errors put `prefix` before each key, and name the `source` at the end: a file, a track, an objective. A list becomes
    a tuple, and a whole number a float, where the field needs it. RetrobenchError lists every fault: unknown keys,
    values of a wrong type or out of bounds, missing keys, and a ValueError of `__post_init__`.
    """
    result, faults = try_build_record(record, settings, prefix)
    if result is None:
        raise RetrobenchError(f"{'; '.join(faults)} ({source}).")
    return result


def try_build_record(record: type[T], settings: Mapping[str, Any], prefix: str = "") -> tuple[T | None, list[str]]:
    """Return the record as `build_record` does and no faults, or None and the faults."""
    types = types_of(record)
    values: dict[str, Any] = {}
    faults = []
    for key, value in settings.items():
        if key not in types:
            names = [prefix + name for name in types]
            faults.append(str(unknown("setting", prefix + key, names)).rstrip(". "))
            continue
        try:
            values[key] = _convert(value, types[key])
        except ValueError as error:
            faults.append(f"{prefix}{key} must be {error}, got {quote(value)}")
    for key in _required_keys(record):
        if key not in settings:
            faults.append(f"{prefix}{key} is missing")
    if faults:
        return None, faults
    try:
        return _assemble(record, values), []
    except (ValueError, RetrobenchError) as error:
        fault = f"{prefix.rstrip('.')}: {error}".removeprefix(": ")
        return None, [fault.rstrip(".")]


def from_text(record: type, texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the texts converted by the type of each key. `build_record` refuses a text that cannot be converted."""
    types = types_of(record)
    values: dict[str, Any] = {}
    for key, text in texts.items():
        values[key] = _read(text, types[key]) if key in types else text
    return values


def types_of(record: type) -> dict[str, Any]:
    """Return the type of each key, including the keys of records within the record."""
    types: dict[str, Any] = {}
    for name, annotation in _annotations(record).items():
        if dataclasses.is_dataclass(annotation):
            types |= types_of(cast(type, annotation))
        else:
            types[name] = annotation
    return types


def _annotations(record: type) -> dict[str, Any]:
    """Return the type of each field. A base class's field is resolved in the base's module."""
    annotations: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, record)):
        owner = next(base for base in record.__mro__ if field.name in inspect.get_annotations(base))
        namespace = vars(sys.modules[owner.__module__])
        # Each field alone: a ClassVar beside it may be annotated with a name that only type checkers import.
        holder = SimpleNamespace(__annotations__={field.name: field.type})
        annotations |= get_type_hints(holder, namespace, include_extras=True)
    return annotations


def _required_keys(record: type) -> list[str]:
    """Return the keys without a default. A record within the record has defaults for all of its keys."""
    keys = []
    for field in dataclasses.fields(cast(Any, record)):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            keys.append(field.name)
    return keys


def _assemble(record: type[T], values: Mapping[str, Any]) -> T:
    """Return the record, and the records within it, from converted values by key."""
    arguments: dict[str, Any] = {}
    for name, annotation in _annotations(record).items():
        if dataclasses.is_dataclass(annotation):
            inner_record = cast(type, annotation)
            inner_values = {key: values[key] for key in types_of(inner_record) if key in values}
            arguments[name] = _assemble(inner_record, inner_values)
        elif name in values:
            arguments[name] = values[name]
    return cast(Callable[..., T], record)(**arguments)


def _convert(value: Any, annotation: Any) -> Any:
    """Return `value` in the form of a field of this type. ValueError names the expected values."""
    kind = get_origin(annotation)
    options = get_args(annotation)
    if kind is Annotated:
        return _convert_bounded(value, options[0], options[1:])
    if kind in (Union, UnionType):
        for option in options:
            with suppress(ValueError):
                return _convert(value, option)
    elif kind is Literal:
        if any(value == option and type(value) is type(option) for option in options):
            return value
    elif kind is tuple and options[1:] == (...,):
        if isinstance(value, (list, tuple)):
            with suppress(ValueError):
                return tuple(_convert(element, options[0]) for element in value)
    elif annotation is float:
        with suppress(OverflowError):  # of a whole number beyond any float
            if type(value) in (int, float) and math.isfinite(value):
                return float(value)
    elif annotation is ModelFolder:
        if isinstance(value, str):
            return ModelFolder(value)
    elif annotation in PLAIN and type(value) is annotation:
        return value
    raise ValueError(_describe(annotation))


def _convert_bounded(value: Any, annotation: Any, metadata: tuple[Any, ...]) -> Any:
    converted = _convert(value, annotation)
    for bound in _bounds(metadata):
        attribute, holds, words = BOUNDS[type(bound)]
        limit = getattr(bound, attribute)
        if not holds(converted, limit):
            raise ValueError(f"{words} {limit:g}")
    return converted


def _bounds(metadata: tuple[Any, ...]) -> list[Any]:
    """Return single bounds, also of groups such as an interval."""
    bounds: list[Any] = []
    for entry in metadata:
        bounds += entry if isinstance(entry, GroupedMetadata) else [entry]
    return bounds


def describe(annotation: Any) -> str:
    """Return a type in words, with its bounds."""
    if get_origin(annotation) is not Annotated:
        return _describe(annotation)
    base, *metadata = get_args(annotation)
    words = [_describe(base)]
    for bound in _bounds(tuple(metadata)):
        attribute, _, comparison = BOUNDS[type(bound)]
        words.append(f"{comparison} {getattr(bound, attribute):g}")
    return ", ".join(words)


def _describe(annotation: Any) -> str:
    kind = get_origin(annotation)
    options = get_args(annotation)
    if kind is Annotated:
        return _describe(options[0])
    if kind in (Union, UnionType):
        return " or ".join(_describe(option) for option in options)
    if kind is Literal:
        return "one of " + ", ".join(repr(option) for option in options)
    if kind is tuple and options[1:] == (...,):
        return f"a list of which each is {_describe(options[0])}"
    return PLAIN.get(annotation, f"a field of type {KINDS}, not {annotation}")


def _read(text: str, annotation: Any) -> Any:
    """Return the first reading of a text that fits the type: none, a TOML value, a number, the text itself."""
    readings: list[Any] = []
    if text == "none":
        readings.append(None)
    with suppress(ValueError):
        document = parse_toml(f"value = {text}")
        if len(document) == 1:  # a text of several lines could bring keys of its own
            readings.append(document["value"])
    with suppress(ValueError):
        readings.append(float(text))  # `.5` is no TOML
    readings.append(text)
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    for reading in readings:
        with suppress(ValueError):
            return _convert(reading, annotation)
    return text
