"""Settings of a frozen dataclass: types, errors and texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Interval

from retrobench.core.settings import build_record, from_text
from retrobench.errors import RetrobenchError


@dataclass(frozen=True)
class Base:
    steps: int = 100


@dataclass(frozen=True)
class Settings(Base):
    rate: float = 0.1
    shared: bool = True
    label: str = "x"
    form: Literal["mean", "sum"] | None = None
    sizes: tuple[int, ...] = ()
    tables: dict[str, int] | None = None


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("steps", 3, 3),
        ("rate", 2, 2.0),
        ("shared", False, False),
        ("label", "", ""),
        ("form", "sum", "sum"),
        ("form", None, None),
        ("sizes", [1, 2], (1, 2)),
    ],
)
def test_a_fitting_value_is_converted(key: str, value: Any, expected: Any) -> None:
    settings = build_record(Settings, {key: value}, "recipe")
    result = getattr(settings, key)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("steps", True, "a whole number"),
        ("steps", 2.0, "a whole number"),
        ("steps", "2", "a whole number"),
        ("rate", "much", "a finite number"),
        ("rate", float("nan"), "a finite number"),
        ("shared", 1, "true or false"),
        ("label", 1, "a text"),
        ("form", "max", "one of 'mean', 'sum' or none"),
        ("sizes", [1, "2"], "a list of which each is a whole number"),
        (
            "tables",
            {"a": 1},
            "a field of type bool, int, float, str, ModelFolder, Literal, tuple[X, ...] or X | None, "
            "not dict[str, int] or none",
        ),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: Any, expected: str) -> None:
    with pytest.raises(RetrobenchError) as error:
        build_record(Settings, {key: value}, "recipe")
    assert str(error.value) == f"{key} must be {expected}, got {value!r} (recipe)."


def test_an_unknown_key_names_the_known_ones() -> None:
    names = "form, label, rate, shared, sizes, steps, tables"
    with pytest.raises(RetrobenchError, match=f"^Unknown setting 'step'. Did you mean 'steps'\\? Known: {names} "):
        build_record(Settings, {"step": 1}, "recipe")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "200", 200),
        ("steps", "2e2", "2e2"),  # stays text, which `build_record` refuses
        ("rate", "1e-4", 1e-4),
        ("rate", ".5", 0.5),
        ("rate", "3", 3.0),
        ("shared", "false", False),
        ("label", "200", "200"),
        ("label", "true", "true"),
        ("label", "two words", "two words"),
        ("form", "sum", "sum"),
        ("form", "none", None),
        ("sizes", "[1, 2]", (1, 2)),
        ("unheard", "1", "1"),
    ],
)
def test_text_is_read_by_the_type_of_its_field(key: str, text: str, value: Any) -> None:
    result = from_text(Settings, {key: text})[key]
    assert result == value
    assert type(result) is type(value)


@dataclass(frozen=True)
class Inner:
    depth: Annotated[int, Ge(1)] = 5


@dataclass(frozen=True)
class Outer:
    base: str
    share: Annotated[float, Interval(gt=0, le=1)] = 0.5
    inner: Inner = Inner()

    def __post_init__(self) -> None:
        if self.base == "none":
            raise ValueError("base is none")


def test_keys_of_an_inner_record_belong_to_the_outer_record() -> None:
    assert build_record(Outer, {"base": "b", "depth": 3}, "file") == Outer("b", inner=Inner(3))
    assert from_text(Outer, {"depth": "7"}) == {"depth": 7}


def test_one_error_lists_every_fault() -> None:
    with pytest.raises(RetrobenchError) as error:
        build_record(Outer, {"share": 0, "depth": 0, "width": 1}, "file", "outer.")
    for fault in (
        "outer.share must be above 0, got 0",
        "outer.depth must be at least 1, got 0",
        "Unknown setting 'outer.width'",
        "outer.base is missing (file).",
    ):
        assert fault in str(error.value)
    with pytest.raises(RetrobenchError, match=r"^share must be at most 1, got 2 \(file\)\.$"):
        build_record(Outer, {"base": "b", "share": 2}, "file")
    with pytest.raises(RetrobenchError, match=r"^outer: base is none \(file\)\.$"):
        build_record(Outer, {"base": "none"}, "file", "outer.")
