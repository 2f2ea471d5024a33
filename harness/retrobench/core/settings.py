"""
Typed settings of frozen dataclasses.

* build      settings -> the record; one error tells every fault
* attempt    settings -> the record, or its faults, for callers that gather faults of several records
* from_text  `KEY=VALUE` texts -> typed values
* types_of   key -> type
* describe   a type in words

A field's type is one of bool, int, float, str, Literal, tuple[X, ...] and unions of them. `Annotated[int, Ge(1)]`, with
the bounds of annotated-types, limits it. A field that is a record itself lends its keys to the record around it.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import operator
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt

from retrobench.errors import RetrobenchError, unknown

__all__ = ["attempt", "build", "describe", "from_text", "types_of"]

T = TypeVar("T")

KINDS = "bool, int, float, str, Literal, tuple[X, ...] or X | None"
PLAIN = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    type(None): "none",
}
BOUNDS: dict[type, tuple[str, Callable[[Any, Any], bool], str]] = {
    Ge: ("ge", operator.ge, "at least"),
    Gt: ("gt", operator.gt, "above"),
    Le: ("le", operator.le, "at most"),
    Lt: ("lt", operator.lt, "below"),
}


def build(record: type[T], settings: Mapping[str, Any], source: str, prefix: str = "") -> T:
    """Return a `record` with `settings` in place of its defaults.

    `prefix` stands before each key in an error, `source` behind all of them: a file, a track, an objective. Lists
    become tuples and whole numbers floats where the field is one. RetrobenchError tells every fault at once: unknown
    keys, values of another type or out of bounds, missing keys, and a ValueError of `__post_init__`.
    """
    built, faults = attempt(record, settings, prefix)
    if built is None:
        raise RetrobenchError(f"{'; '.join(faults)} ({source}).")
    return built


def attempt(record: type[T], settings: Mapping[str, Any], prefix: str = "") -> tuple[T | None, list[str]]:
    """Return the record as `build` does and no faults, or None and the faults."""
    types = types_of(record)
    values: dict[str, Any] = {}
    faults = []
    for key, value in settings.items():
        if key not in types:
            faults.append(str(unknown("setting", prefix + key, [prefix + known for known in types])).rstrip(". "))
            continue
        try:
            values[key] = _fit(value, types[key])
        except ValueError as error:
            faults.append(f"{prefix}{key} must be {error}, got {value!r}")
    faults += [f"{prefix}{key} is missing" for key in _required(record) if key not in settings]
    if faults:
        return None, faults
    try:
        return _assemble(record, values), []
    except (ValueError, RetrobenchError) as error:
        return None, [f"{prefix.rstrip('.')}: {error}".removeprefix(": ").rstrip(".")]


def from_text(record: type, texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the texts read by the type of each key. A text that cannot be read stays text, for `build` to refuse."""
    types = types_of(record)
    return {key: _read(text, types[key]) if key in types else text for key, text in texts.items()}


def types_of(record: type) -> dict[str, Any]:
    """Return the type of each key, the keys of records within the record included."""
    types: dict[str, Any] = {}
    for name, annotation in _annotations(record).items():
        is_record = dataclasses.is_dataclass(annotation)
        types |= types_of(cast(type, annotation)) if is_record else {name: annotation}
    return types


def _annotations(record: type) -> dict[str, Any]:
    annotations: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, record)):
        owner = next(base for base in record.__mro__ if field.name in inspect.get_annotations(base))
        # Alone, since a ClassVar beside it may be annotated with a name that only type checkers import.
        alone = SimpleNamespace(__annotations__={field.name: field.type})
        annotations |= get_type_hints(alone, vars(sys.modules[owner.__module__]), include_extras=True)
    return annotations


def _required(record: type) -> list[str]:
    """Return the keys without a default. A record within the record has defaults for all of its own."""
    missing = dataclasses.MISSING
    fields = dataclasses.fields(cast(Any, record))
    return [field.name for field in fields if field.default is missing and field.default_factory is missing]


def _assemble(record: type[T], values: Mapping[str, Any]) -> T:
    """Return the record, and the records within it, from fitting values by key."""
    parts: dict[str, Any] = {}
    for name, annotation in _annotations(record).items():
        if dataclasses.is_dataclass(annotation):
            inner = types_of(cast(type, annotation))
            parts[name] = _assemble(cast(type, annotation), {key: values[key] for key in inner if key in values})
        elif name in values:
            parts[name] = values[name]
    return cast(Callable[..., T], record)(**parts)


def _fit(value: Any, annotation: Any) -> Any:
    """Return `value` as a field of this type holds it. ValueError says what was expected."""
    kind, options = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        fitted = _fit(value, options[0])
        for bound in _bounds(options[1:]):
            _check_bound(fitted, bound)
        return fitted
    if kind in (Union, UnionType):
        for option in options:
            with suppress(ValueError):
                return _fit(value, option)
    elif kind is Literal and any(value == option and type(value) is type(option) for option in options):
        return value
    elif kind is tuple and options[1:] == (...,) and isinstance(value, (list, tuple)):
        with suppress(ValueError):
            return tuple(_fit(element, options[0]) for element in value)
    elif annotation is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    elif annotation in PLAIN and annotation is not float and type(value) is annotation:
        return value
    raise ValueError(_describe(annotation))


def _bounds(metadata: Sequence[Any]) -> list[Any]:
    bounds: list[Any] = []
    for entry in metadata:
        bounds += entry if isinstance(entry, GroupedMetadata) else [entry]
    return bounds


def _check_bound(value: Any, bound: Any) -> None:
    attribute, holds, words = BOUNDS[type(bound)]
    limit = getattr(bound, attribute)
    if not holds(value, limit):
        raise ValueError(f"{words} {limit:g}")


def describe(annotation: Any) -> str:
    """Return a type in words, with its bounds."""
    if get_origin(annotation) is not Annotated:
        return _describe(annotation)
    base, *metadata = get_args(annotation)
    bounds = [f"{BOUNDS[type(bound)][2]} {getattr(bound, BOUNDS[type(bound)][0]):g}" for bound in _bounds(metadata)]
    return ", ".join([_describe(base), *bounds])


def _describe(annotation: Any) -> str:
    kind, options = get_origin(annotation), get_args(annotation)
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
    readings: list[Any] = [None] if text == "none" else []
    with suppress(tomllib.TOMLDecodeError):
        readings.append(tomllib.loads(f"value = {text}")["value"])
    with suppress(ValueError):
        readings.append(float(text))  # `.5` is no TOML
    unbounded = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    for reading in (*readings, text):
        with suppress(ValueError):
            return _fit(reading, unbounded)
    return text
