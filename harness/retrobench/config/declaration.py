"""
An objective's class: the check of its declaration, its presets and its settings.

* check_objective_class  check a class against the contract
* find_preset            return the settings of a preset
* own_settings           return those of them that are not of single stages
* split_stages           divide settings into the objective's own and those of single stages
* configure_objective    make a frozen objective from settings
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any, cast

from retrobench.config.baseline import BASELINES, Bm25
from retrobench.config.reading import STAGES
from retrobench.core import build_record, types_of
from retrobench.errors import RetrobenchError, unknown
from retrobench.objective import Objective

__all__ = [
    "HOOK",
    "REPRESENTATIONS",
    "check_objective_class",
    "configure_objective",
    "find_preset",
    "own_settings",
    "split_stages",
]

HOOK = "retrobench_objectives"
CONTRACT = 1  # the version of the contract in `objective.py`
REPRESENTATIONS = ("cls", "mean", "terms", "cls+terms")
MEMBERS: dict[str, tuple[type, str]] = {
    "contract": (int, f"{CONTRACT}"),
    "name": (str, "a text"),
    "paper": (str, "a text"),
    "pretrains": (bool, "True or False"),
    "couples_batch": (bool, "True or False"),
    "representation": (str, "a text"),
    "presets": (Mapping, "a mapping from names to settings"),
}


def check_objective_class(candidate: object) -> type[Objective]:
    """Return `candidate` if it keeps the contract. RetrobenchError names the first member that breaks it."""
    if not isinstance(candidate, type):
        raise RetrobenchError(f"{HOOK}() must return classes, not {candidate!r}.")
    params = vars(candidate).get("__dataclass_params__")  # a parent's would not cover the fields added here
    if params is None or not params.frozen:
        raise RetrobenchError(
            f"{candidate.__name__} is not a frozen dataclass; decorate it with @dataclass(frozen=True)."
        )
    objective = cast("type[Objective]", candidate)
    fields = dataclasses.fields(cast(Any, candidate))
    _check_members(objective, fields)
    _check_values(objective)
    _check_methods(objective)
    _check_settings(objective, fields)
    return objective


def _check_members(objective: type[Objective], fields: tuple[dataclasses.Field[Any], ...]) -> None:
    label = objective.__name__
    keys = [field.name for field in fields]
    for member, (kind, words) in MEMBERS.items():
        if member in keys or not isinstance(getattr(objective, member, None), kind):
            raise RetrobenchError(f"{label}.{member} must be {words}, declared as a ClassVar.")
    if objective.contract != CONTRACT:
        raise RetrobenchError(
            f"{label}.contract is {objective.contract}, and this version of retrobench keeps contract {CONTRACT}. "
            "Install the versions of both that belong together."
        )


def _check_values(objective: type[Objective]) -> None:
    """Check the name, which stands on command lines beside files and baselines, and the representation."""
    label = objective.__name__
    name = objective.name
    if not re.fullmatch(r"\w[\w.-]*", name) or name.endswith((".toml", ".py")):
        raise RetrobenchError(
            f"{label}.name is {name!r}; use letters, digits and . _ -, a letter or digit first, no .toml or .py last."
        )
    if name in BASELINES:
        raise RetrobenchError(f"{label}.name is {name!r}, the name of a baseline; give it another.")
    if objective.representation not in REPRESENTATIONS:
        choices = ", ".join(REPRESENTATIONS)
        raise RetrobenchError(f"{label}.representation is {objective.representation!r}; known: {choices}.")


def _check_methods(objective: type[Objective]) -> None:
    if not objective.pretrains:
        return
    for method in ("collate", "wrap"):
        if getattr(objective, method, None) in (None, getattr(Objective, method)):
            raise RetrobenchError(f"{objective.__name__}.{method}() is missing; an objective that pre-trains needs it.")
    names = list(inspect.signature(objective.wrap).parameters)
    if len(names) != 3:
        raise RetrobenchError(
            f"{objective.__name__}.wrap() must take (self, backbone, context), not {', '.join(names)}."
        )


def _check_settings(objective: type[Objective], fields: tuple[dataclasses.Field[Any], ...]) -> None:
    """Check that every setting has a default, and that defaults and presets keep their types and bounds."""
    label = objective.__name__
    defaults: dict[str, Any] = {}
    for field in fields:
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
        else:
            raise RetrobenchError(f"{label}.{field.name} has no default; every setting needs one.")
    try:
        types_of(objective)
    except NameError as error:
        raise RetrobenchError(
            f"{label} has a setting of the type {error.name}, which its module does not import when it runs."
        ) from error
    configure_objective(objective, defaults)
    for name in objective.presets:
        own, by_stage = split_stages(find_preset(objective, name))
        configure_objective(objective, own)
        for settings in by_stage.values():
            if "objective" not in settings:
                configure_objective(objective, {**own, **settings})


def find_preset(objective: type[Objective] | type[Bm25], name: str | None) -> dict[str, Any]:
    """Return the settings of the preset `name` of an objective or a baseline; None has none."""
    if name is None:
        return {}
    if name not in objective.presets:
        raise unknown(f"{objective.name} preset", name, objective.presets)
    return dict(objective.presets[name])


def own_settings(objective: type[Objective], preset: str | None) -> dict[str, Any]:
    """Return the settings of a preset without those of single stages; None has none."""
    own, _ = split_stages(find_preset(objective, preset))
    return own


def split_stages(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return an objective's own settings, and the settings of each stage, which stand as `pretrain.KEY` or `adapt.KEY`.

    The key `objective` of a stage names another objective.
    """
    own: dict[str, Any] = {}
    by_stage: dict[str, dict[str, Any]] = {stage: {} for stage in STAGES}
    for key, value in settings.items():
        stage, dot, stage_key = key.partition(".")
        if dot and stage in by_stage:
            by_stage[stage][stage_key] = value
        else:
            own[key] = value
    return own, by_stage


def configure_objective(objective: type[Objective], settings: Mapping[str, Any]) -> Objective:
    """Return the frozen objective with `settings` in place of its defaults. Errors are those of `build_record`."""
    return build_record(objective, settings, objective.name, "objective.")
