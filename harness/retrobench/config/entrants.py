"""Entrants from TOML files and from the command line. An error lists every fault."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from retrobench.config.baseline import BASELINES, Baseline
from retrobench.config.composition import Component, Composition, is_composition, parse_parts
from retrobench.config.declaration import REPRESENTATIONS, configure_objective, find_preset, own_settings, split_stages
from retrobench.config.discovery import InstalledObjective, find_objective, parse_objective
from retrobench.config.experiment import Entrant
from retrobench.config.reading import STAGES, by_section
from retrobench.core import build_record, from_text, read_toml, take_table, types_of
from retrobench.errors import RetrobenchError, unknown
from retrobench.objective import Objective

__all__ = ["read_entrant"]


@dataclass(frozen=True)
class _EntrantFile:
    """The keys of an entrant's file beside its tables `[settings]`, `[pretrain]` and `[adapt]`."""

    objective: str
    name: str = ""
    preset: str = ""
    representation: str = ""
    checkpoint: str = ""


@dataclass(frozen=True)
class _StageTable:
    """The keys of `[pretrain]` or `[adapt]` in an entrant's file beside its table of settings."""

    objective: str = ""


def read_entrant(text: str, installed: Iterable[InstalledObjective], overrides: Sequence[str]) -> Entrant | Baseline:
    """Return the entrant that `text` names, as `objective.KEY=VALUE` overrides change it.

    `text` is NAME, NAME:PRESET, a baseline such as `bm25`, or a TOML file. `adapt.objective=NAME` and
    `adapt.objective.KEY=VALUE` change the stage `adapt` alone.
    """
    rows = list(installed)
    texts = by_section(overrides)
    objective_texts = texts.get("objective", {})
    file, settings = _entrant_file(text)
    file = _override_entrant(file, texts.get("entrant", {}))
    if file.objective in BASELINES:
        record = BASELINES[file.objective]
        settings = {**find_preset(record, file.preset or None), **settings, **from_text(record, objective_texts)}
        baseline = build_record(record, settings, file.objective, "objective.")
        return Baseline(_changed_name(file.name, objective_texts), file.objective, baseline)
    if is_composition(file.objective):
        entrant = _compose(file, settings, rows, texts)
        return replace(entrant, name=_changed_name(file.name, objective_texts), checkpoint=file.checkpoint)
    row = find_objective(file.objective, rows, BASELINES)
    assert row.objective is not None
    own, by_stage = split_stages({**find_preset(row.objective, file.preset or None), **settings})
    own |= from_text(row.objective, objective_texts)
    entrant = _configure(row, own)
    representation = file.representation or entrant.representation
    if representation not in REPRESENTATIONS:
        raise unknown("representation", representation, REPRESENTATIONS)
    stages = {}
    changes = dict(objective_texts)
    for stage in STAGES:
        stage_texts = texts.get(f"{stage}.objective", {})
        changes |= stage_texts
        stage_entrant = _configure_stage(row, own, by_stage[stage], stage_texts, rows)
        if stage_entrant is not None:
            stages[stage] = stage_entrant
    name = _changed_name(file.name, changes)
    return replace(entrant, name=name, representation=representation, checkpoint=file.checkpoint, stages=stages)


def _compose(
    file: _EntrantFile,
    settings: Mapping[str, Any],
    rows: Sequence[InstalledObjective],
    texts: Mapping[str, Mapping[str, str]],
) -> Entrant:
    """Return the entrant of a composition.

    A setting KEY is of every component that has it, and COMPONENT.KEY of one. RetrobenchError for a setting of no
    component, and for settings of single stages.
    """
    stages = [stage for stage in STAGES if texts.get(f"{stage}.objective")]
    if stages or file.preset:
        key = f"{stages[0]}.objective" if stages else "preset"
        raise RetrobenchError(f"{key} changes an objective, not the composition {file.objective!r}. Leave it out.")
    objective_texts = texts.get("objective", {})
    components = []
    parts: list[Entrant] = []
    known: list[str] = []  # keys of all components
    for part in parse_parts(file.objective):
        name, preset = parse_objective(part.text)
        row = find_objective(name, rows, BASELINES)
        assert row.objective is not None
        own = own_settings(row.objective, preset)
        own |= _of_component(row, settings)
        own |= from_text(row.objective, _of_component(row, objective_texts))
        parts.append(_configure(row, own))
        components.append(Component(parts[-1].objective, part.weight))
        for key in types_of(row.objective):
            known += [key, f"{name}.{key}"]
    for key in (*settings, *objective_texts):
        if key not in known:
            raise unknown("setting", f"objective.{key}", [f"objective.{name}" for name in known])
    composition = Composition(tuple(components))
    representation = file.representation or composition.representation
    if representation not in REPRESENTATIONS:
        raise unknown("representation", representation, REPRESENTATIONS)
    return Entrant(
        file.name,
        cast(Objective, composition),
        representation,
        distribution=" + ".join(dict.fromkeys(part.distribution for part in parts)),
        version=" + ".join(dict.fromkeys(part.version for part in parts)),
        code="+".join(dict.fromkeys(part.code for part in parts)),
        parts=tuple(parts),
    )


def _of_component(row: InstalledObjective, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a component by its own keys; NAME.KEY goes before KEY."""
    assert row.objective is not None
    keys = types_of(row.objective)
    own = {key: value for key, value in settings.items() if key in keys}
    prefix = f"{row.name}."
    return own | {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}


def _configure(row: InstalledObjective, settings: Mapping[str, Any]) -> Entrant:
    """Return an entrant with its objective configured."""
    assert row.objective is not None
    objective = configure_objective(row.objective, settings)
    return Entrant(
        row.name,
        objective,
        objective.representation,
        distribution=row.distribution,
        version=row.version,
        code=row.code,
        file=row.file,
    )


def _configure_stage(
    row: InstalledObjective,
    own: Mapping[str, Any],
    settings: Mapping[str, Any],
    texts: Mapping[str, str],
    rows: Sequence[InstalledObjective],
) -> Entrant | None:
    """Return the entrant of a stage that has another objective or settings than the entrant's `own`; else None.

    `settings` of the stage are from a preset or file, and `texts` from the command line. Their key "objective" is a
    NAME or NAME:PRESET.
    """
    if not settings and not texts:
        return None
    changed = dict(settings)
    changed_texts = dict(texts)
    other = changed_texts.pop("objective", changed.pop("objective", ""))
    start = dict(own)
    if other:
        name, preset = parse_objective(other)
        row = find_objective(name, rows, BASELINES)
        assert row.objective is not None
        start = own_settings(row.objective, preset)
    assert row.objective is not None
    return _configure(row, {**start, **changed, **from_text(row.objective, changed_texts)})


def _changed_name(name: str, changes: Mapping[str, str]) -> str:
    return f"{name} (changed)" if changes else name


def _entrant_file(text: str) -> tuple[_EntrantFile, dict[str, Any]]:
    """Return the entrant that `text` names, and the settings in its file; a stage's have the stage before their key."""
    if is_composition(text) and not text.endswith(".toml"):
        return _EntrantFile(objective=text, name=text), {}
    if not text.endswith(".toml"):
        name, preset = parse_objective(text)
        return _EntrantFile(objective=name, preset=preset or "", name=text), {}
    document = read_toml(Path(text))
    source = f"the entrant file {text}"
    settings = take_table(document, "settings", source)
    for stage in STAGES:
        table = take_table(document, stage, source)
        stage_settings = take_table(table, "settings", source)
        other = build_record(_StageTable, table, f"[{stage}] of entrant file {text}").objective
        if other:
            settings[f"{stage}.objective"] = other
        settings |= {f"{stage}.{key}": value for key, value in stage_settings.items()}
    file = build_record(_EntrantFile, document, f"entrant file {text}")
    return replace(file, name=file.name or Path(text).stem), settings


def _override_entrant(file: _EntrantFile, texts: Mapping[str, str]) -> _EntrantFile:
    """Return the entrant's keys with those of the command line in their place."""
    settings = {"objective": "", **from_text(_EntrantFile, texts)}
    changes = build_record(_EntrantFile, settings, "--set", "entrant.")
    return replace(file, **{key: value for key, value in asdict(changes).items() if value})
