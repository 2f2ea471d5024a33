"""Tracks from TOML files and from the command line. An error lists every fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from retrobench.config.limit import shorten
from retrobench.config.track import (
    INTERVALS,
    Data,
    Distil,
    Evaluate,
    Finetune,
    Knobs,
    Mine,
    Model,
    Optimisation,
    Pretrain,
    Representations,
    Track,
    without_added,
)
from retrobench.core import build_record, from_text, read_toml, try_build_record, types_of
from retrobench.errors import RetrobenchError, quote, unknown

__all__ = ["STAGES", "by_section", "read_track", "resolve"]

STAGES = ("pretrain", "adapt")  # the sections in which an objective trains
SECTIONS: dict[str, type] = {
    "model": Model,
    "pretrain": Pretrain,
    "adapt": Pretrain,
    "finetune": Finetune,
    "mine": Mine,
    "distil": Distil,
    "evaluate": Evaluate,
    "representation": Representations,
    "data": Data,
}


@dataclass(frozen=True)
class _Heading:
    """The keys of a track's file beside its sections."""

    title: str = ""
    description: str = ""


def read_track(file: Path, name: str, overrides: Sequence[str]) -> Track:
    """Return the track in `file`, with its sections changed by `KEY=VALUE` overrides.

    A changed track is a new track. `Track.overrides` lists the changes, and tables show its rows apart. A limit on the
    data changes the trainings too, except in the keys of the overrides.
    """
    document = read_toml(file)
    texts = by_section(overrides)
    tables = {key: value for key, value in document.items() if isinstance(value, dict)}
    keys = {key: value for key, value in document.items() if key not in tables}
    heading = build_record(_Heading, keys, str(file))
    recipe = shorten(_build_sections(tables, f"track {name}"), {})
    sections = shorten(_build_sections(_override(tables, texts), f"track {name}"), texts)
    for stage in STAGES:
        if sections[stage] is None and f"{stage}.objective" in texts:
            raise RetrobenchError(f"{stage}.objective is set, and track {name} has no section [{stage}] with a corpus.")
    changes: dict[str, Any] = {}
    for section in SECTIONS:
        changes |= _changes(section, recipe[section], sections[section])
    return Track(name=name, overrides=changes, **asdict(heading), **sections)


def resolve(track: Track) -> dict[str, dict[str, Any]]:
    """Return the settings behind a track's identity by section and key, as a track's file names them."""
    resolved = {}
    for section in SECTIONS:
        record = getattr(track, section)
        if record is not None:
            settings = _as_in_files(_settings(record))
            resolved[section] = {key: value for key, value in settings.items() if value is not None}
    return without_added(resolved)


def _build_sections(tables: Mapping[str, Mapping[str, Any]], source: str) -> dict[str, Any]:
    """Return the record of each section. `adapt` is None where it is missing or its corpus is empty."""
    sections: dict[str, Any] = {}
    faults = []
    for name in sorted(tables.keys() - SECTIONS.keys()):
        faults.append(str(unknown("section", name, SECTIONS)).rstrip(". "))
    for name, record in SECTIONS.items():
        table = tables.get(name, {})
        if name == "adapt" and not (table and table.get("corpus", True)):
            sections[name] = None
            continue
        sections[name], section_faults = try_build_record(record, table, f"{name}.")
        faults += section_faults
        if issubclass(record, Optimisation) and not table.keys() & {"steps", "epochs"}:
            faults.append(f"{name}.steps is missing, or {name}.epochs in its place")
    if faults:
        raise RetrobenchError(f"{'; '.join(faults)} ({source}).")
    return sections


def _override(
    tables: Mapping[str, Mapping[str, Any]], texts: Mapping[str, Mapping[str, str]]
) -> dict[str, Mapping[str, Any]]:
    """Return the sections' tables with the overrides in them."""
    changed = dict(tables)
    for section, record in SECTIONS.items():
        if section in texts:
            settings = from_text(record, texts[section])
            changed[section] = {**tables.get(section, {}), **_one_budget(settings)}
    return changed


def _one_budget(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Let steps from the command line replace a file's epochs, and epochs its steps."""
    if "steps" in settings and "epochs" not in settings:
        return {"epochs": 0.0, **settings}
    if "epochs" in settings and "steps" not in settings:
        return {"steps": 0, **settings}
    return dict(settings)


def _changes(section: str, recipe: Any, changed: Any) -> dict[str, Any]:
    """Return the changed settings of a section by key, in the command line's form."""
    if changed is None:
        return {} if recipe is None else {f"{section}.corpus": []}
    old = {} if recipe is None else _as_in_files(_settings(recipe))
    changes: dict[str, Any] = {}
    for key, value in _as_in_files(_settings(changed)).items():
        if key in old and value == old[key]:
            continue
        changes[f"{section}.{key}"] = value
    return changes


def _as_in_files(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with lists in place of tuples, as TOML and JSON have them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def _settings(record: Any) -> dict[str, Any]:
    """Return the settings of a section by key, without those that change no result."""
    settings: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Knobs) or field.name in INTERVALS:
            continue
        if is_dataclass(value):
            settings |= _settings(value)
        else:
            settings[field.name] = value
    return settings


def by_section(overrides: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the values of `SECTION.KEY=VALUE` texts by section and key.

    Those of `adapt.objective=NAME` and `adapt.objective.KEY=VALUE` are of the section "adapt.objective", for a stage
    may have another objective or settings.
    """
    texts: dict[str, dict[str, str]] = {}
    faults = []
    for override in overrides:
        name, equals, value = override.partition("=")
        section, dot, key = _section_and_key(name.strip())
        if not equals or not dot:
            faults.append(f"--set takes SECTION.KEY=VALUE, such as pretrain.steps=200, not {quote(override)}.")
            continue
        fault = _override_fault(name, section, key)
        if fault is None:
            texts.setdefault(section, {})[key] = value.strip()
        else:
            faults.append(str(fault))
    if faults:
        raise RetrobenchError(" ".join(faults))
    return texts


def _section_and_key(name: str) -> tuple[str, str, str]:
    """Return a setting's section, the dot behind it, and its key; "objective" is the key of a stage's objective."""
    for stage in STAGES:
        section = f"{stage}.objective"
        if name == section:
            return section, ".", "objective"
        if name.startswith(f"{section}."):
            return section, ".", name.removeprefix(f"{section}.")
    return name.partition(".")


def _override_fault(name: str, section: str, key: str) -> RetrobenchError | None:
    """Return the error for an unknown section or key of a track. The entrant's keys are checked elsewhere."""
    if section in ("objective", "entrant") or section.endswith(".objective"):
        return None
    if section not in SECTIONS:
        names: list[str] = []
        for track_section in SECTIONS:
            names += _key_names(track_section)
        return unknown("track key", name, names)
    if f"{section}.{key}" not in _key_names(section):
        return unknown(f"{section} key", name, _key_names(section))
    return None


def _key_names(section: str) -> list[str]:
    """Return the keys of a track's section as SECTION.KEY."""
    return [f"{section}.{key}" for key in types_of(SECTIONS[section])]
