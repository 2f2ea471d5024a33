"""Everything about an objective that its author declares, and its measured cost, as text and as JSON."""

from __future__ import annotations

import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from retrobench.config import (
    BASELINES,
    InstalledObjective,
    as_in_toml,
    configure_objective,
    discover,
    field_comments,
    find_objective,
    own_settings,
    parse_objective,
)
from retrobench.core import describe, quiet_transformers, types_of, width_for
from retrobench.errors import RetrobenchError
from retrobench.objective import Objective
from retrobench.testing.cost import MODEL, Cost, measure_cost

__all__ = ["Description", "describe_objective"]

WIDTH = 100  # of a line of text, in letters


class Setting(NamedTuple):
    """A setting of an objective. `value` is the preset's, or the default."""

    name: str
    type: str
    default: Any
    value: Any
    meaning: str  # the comment at the field in the source


@dataclasses.dataclass(frozen=True)
class Description:
    """An objective, with the preset that was asked for. `cost` is None where `cost_note` says why."""

    row: InstalledObjective
    objective: type[Objective]
    preset: str | None
    settings: Sequence[Setting]
    cost: Cost | None
    cost_note: str

    def json(self) -> str:
        """Return one JSON document. A value that is missing is null."""
        objective = self.objective
        cost = None
        if self.cost is not None:
            cost = {**self.cost._asdict(), "ratio": self.cost.ratio}
        document = {
            "name": objective.name,
            "preset": self.preset,
            "paper": objective.paper,
            "idea": _idea(objective),
            "distribution": self.row.distribution,
            "version": self.row.version or None,
            "representation": objective.representation,
            "pretrains": objective.pretrains,
            "couples_batch": objective.couples_batch,
            "settings": [setting._asdict() for setting in self.settings],
            "presets": {name: self._changes(preset) for name, preset in objective.presets.items()},
            "cost": cost,
            "cost_note": self.cost_note,
        }
        return json.dumps(document, indent=2, ensure_ascii=False)

    def text(self) -> str:
        """Return lines for a terminal."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        objective = self.objective
        title = objective.name if self.preset is None else f"{objective.name}:{self.preset}"
        yield title
        yield ""
        yield from _wrap(_idea(objective), "  ")
        yield ""
        yield from _wrap(objective.paper, "paper           ")
        yield from _wrap(self.row.source, "source          ")
        yield f"representation  {objective.representation}"
        if objective.couples_batch:
            yield "batch           stays whole, since the loss compares its examples"
        yield from _wrap(self._cost_line(), "cost            ")
        if self.settings:
            yield from ("", "settings")
        for setting in self.settings:
            yield from _setting_lines(setting)
        if objective.presets:
            yield from ("", "presets")
        for name, preset in objective.presets.items():
            changes = [f"{key} = {as_in_toml(value)}" for key, value in self._changes(preset).items()]
            yield from _wrap(", ".join(changes) or "the defaults", f"  {name}: ")

    def _changes(self, preset: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a preset that differ from the defaults, those of single stages among them."""
        defaults = {setting.name: setting.default for setting in self.settings}
        return {key: value for key, value in preset.items() if key not in defaults or value != defaults[key]}

    def _cost_line(self) -> str:
        if self.cost is None:
            return self.cost_note
        ours, mlm = 1000 * self.cost.seconds, 1000 * self.cost.mlm_seconds
        return f"{self.cost.ratio:.2f} times mlm's: {ours:.1f} ms beside {mlm:.1f} ms. {self.cost_note}"


def describe_objective(target: str, plugins: Sequence[Path] = ()) -> Description:
    """Return the description of NAME or NAME:PRESET. Its cost is measured, which takes seconds.

    RetrobenchError for an unknown name or preset, and for an objective that cannot be used.
    """
    name, preset = parse_objective(target)
    if name in BASELINES:
        raise RetrobenchError(f"{name} is a baseline, which trains nothing. `retrobench objectives` lists objectives.")
    quiet_transformers()
    row = find_objective(name, discover(plugins))
    objective = row.objective
    assert objective is not None
    own = own_settings(objective, preset)
    configured = configure_objective(objective, own)
    settings = _settings(objective, configured)
    return Description(row, objective, preset, settings, *_measure(name, configured))


def _settings(objective: type[Objective], configured: Objective) -> list[Setting]:
    comments = field_comments(objective)
    defaults = _values(configure_objective(objective, {}))
    values = _values(configured)
    settings = []
    for key, annotation in types_of(objective).items():
        settings.append(Setting(key, describe(annotation), defaults[key], values[key], comments.get(key, "")))
    return settings


def _values(record: Any) -> dict[str, Any]:
    """Return the values of a record by key, with the keys of records within it."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        values |= _values(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return values


def _measure(name: str, configured: Objective) -> tuple[Cost | None, str]:
    """Return the cost and how it was measured, or None and the reason."""
    if not configured.pretrains:
        return None, "none: nothing is pre-trained"
    mlm = find_objective("mlm", discover()).objective
    try:
        cost = measure_cost(configured, configure_objective(cast("type[Objective]", mlm), {}))
    except Exception as error:
        fault = " ".join(str(error).split())
        return None, f"not measured: {type(error).__name__}: {fault}. `retrobench objectives check {name}` tries it."
    note = f"Forward and backward pass, median of {cost.rounds}, measured now on this machine: {MODEL}."
    return cost, note


def _idea(objective: type[Objective]) -> str:
    """Return the docstring; empty where `dataclass` made it."""
    docstring = objective.__doc__ or ""
    if docstring.startswith(f"{objective.__name__}("):
        return ""
    return inspect.cleandoc(docstring)


def _setting_lines(setting: Setting) -> Iterator[str]:
    value = as_in_toml(setting.value)
    if setting.value != setting.default:
        value += f" (default {as_in_toml(setting.default)})"
    yield from _wrap(setting.type, f"  {setting.name} = {value}: ")
    yield from _wrap(setting.meaning, "      ")


def _wrap(text: str, label: str) -> list[str]:
    """Return a text in lines behind a label. Paragraphs stay apart."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines += textwrap.wrap(
            paragraph, width_for(WIDTH), initial_indent=label, subsequent_indent=" " * min(len(label), 16)
        )
        label = " " * min(len(label), 16)
    return lines
