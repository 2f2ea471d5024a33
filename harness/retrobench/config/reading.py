"""Tracks and entrants from TOML files and from the command line. An error tells every fault at once."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

from retrobench.config.discovery import Found, configure, get, parse_objective, preset
from retrobench.config.experiment import BASELINES, Baseline, Entrant
from retrobench.config.track import (
    Distil,
    Evaluate,
    Finetune,
    Mine,
    Model,
    Optimisation,
    Performance,
    Pretrain,
    Representations,
    Track,
)
from retrobench.core import attempt, build, from_text, types_of
from retrobench.errors import RetrobenchError, unknown

__all__ = ["REPRESENTATIONS", "read_entrant", "read_track"]

REPRESENTATIONS = ("cls", "mean", "terms", "cls+terms")
SECTIONS: dict[str, type] = {
    "model": Model,
    "pretrain": Pretrain,
    "adapt": Pretrain,
    "finetune": Finetune,
    "mine": Mine,
    "distil": Distil,
    "evaluate": Evaluate,
    "representation": Representations,
}


@dataclass(frozen=True)
class _EntrantFile:
    """The keys of an entrant's file beside its table `[settings]`."""

    objective: str
    name: str = ""
    preset: str = ""
    representation: str = ""
    checkpoint: str = ""


@dataclass(frozen=True)
class _Heading:
    """The keys of a track's file beside its sections."""

    title: str = ""
    description: str = ""


def read_track(file: Path, name: str, overrides: Sequence[str]) -> Track:
    """Return the track in `file`, with its sections changed by `KEY=VALUE` overrides.

    A changed track is another track: `overrides` on it lists the changes, and tables show its rows apart.
    """
    document = _load(file)
    texts = _by_section(overrides)
    tables = {key: value for key, value in document.items() if isinstance(value, dict)}
    heading = build(_Heading, {key: value for key, value in document.items() if key not in tables}, str(file))
    recipe = _sections(tables, f"track {name}")
    changed = _sections(_changed(tables, texts), f"track {name}")
    differences: dict[str, Any] = {}
    for section in SECTIONS:
        differences |= _differences(section, recipe[section], changed[section])
    return Track(name=name, overrides=differences, **asdict(heading), **changed)


def read_entrant(text: str, rows: Iterable[Found], overrides: Sequence[str]) -> Entrant | Baseline:
    """Return the entrant that `text` names, as `objective.KEY=VALUE` overrides change it.

    `text` is NAME, NAME:PRESET, a baseline such as `bm25`, or a TOML file. `rows` are the installed objectives.
    """
    texts = _by_section(overrides)
    file, settings = _entrant_file(text)
    typed = from_text(_EntrantFile, texts.get("entrant", {}))
    changes = build(_EntrantFile, {"objective": "", **typed}, "--set", "entrant.")
    file = replace(file, **{key: value for key, value in asdict(changes).items() if value})
    objective_texts = texts.get("objective", {})
    if file.objective in BASELINES:
        record = BASELINES[file.objective]
        settings = {**settings, **from_text(record, objective_texts)}
        return Baseline(file.name, file.objective, build(record, settings, file.objective, "objective."))
    row = get(file.objective, rows, BASELINES)
    assert row.objective is not None
    settings = {**preset(row.objective, file.preset or None), **settings}
    objective = configure(row.objective, {**settings, **from_text(row.objective, objective_texts)})
    representation = file.representation or objective.representation
    if representation not in REPRESENTATIONS:
        raise unknown("representation", representation, REPRESENTATIONS)
    name = file.name + (" (changed)" if objective_texts else "")
    return Entrant(name, objective, representation, file.checkpoint, row.distribution, row.version, row.code)


def _entrant_file(text: str) -> tuple[_EntrantFile, dict[str, Any]]:
    """Return the entrant that `text` names, and the settings in its file."""
    if not text.endswith(".toml"):
        name, chosen = parse_objective(text)
        return _EntrantFile(objective=name, preset=chosen or "", name=text), {}
    document = _load(Path(text))
    settings = document.pop("settings", {})
    if not isinstance(settings, dict):
        raise RetrobenchError(f"In the entrant file {text} settings is {settings!r}; expected a table [settings].")
    file = build(_EntrantFile, document, f"entrant file {text}")
    return replace(file, name=file.name or Path(text).stem), settings


def _sections(tables: Mapping[str, Mapping[str, Any]], source: str) -> dict[str, Any]:
    """Return the record of each section; None for `adapt` where it is left out, or its corpus is empty."""
    sections: dict[str, Any] = {}
    faults = [str(unknown("section", name, SECTIONS)).rstrip(". ") for name in sorted(tables.keys() - SECTIONS.keys())]
    for name, record in SECTIONS.items():
        table = tables.get(name, {})
        if name == "adapt" and not (table and table.get("corpus", True)):
            sections[name] = None
            continue
        sections[name], section_faults = attempt(record, table, f"{name}.")
        faults += section_faults
        if issubclass(record, Optimisation) and not table.keys() & {"steps", "epochs"}:
            faults.append(f"{name}.steps is missing, or {name}.epochs in its place")
    if faults:
        raise RetrobenchError(f"{'; '.join(faults)} ({source}).")
    return sections


def _changed(
    tables: Mapping[str, Mapping[str, Any]], texts: Mapping[str, Mapping[str, str]]
) -> dict[str, Mapping[str, Any]]:
    """Return the sections' tables with the overrides in them."""
    changed = dict(tables)
    for section, record in SECTIONS.items():
        if section in texts:
            changed[section] = {**tables.get(section, {}), **_one_budget(from_text(record, texts[section]))}
    return changed


def _one_budget(typed: Mapping[str, Any]) -> dict[str, Any]:
    """Let steps on the command line take the place of a file's epochs, and epochs of its steps."""
    if "steps" in typed and "epochs" not in typed:
        return {"epochs": 0.0, **typed}
    if "epochs" in typed and "steps" not in typed:
        return {"steps": 0, **typed}
    return dict(typed)


def _differences(section: str, before: Any, after: Any) -> dict[str, Any]:
    """Return the changes of a section by key, as the command line would give them."""
    if before is None and after is None:
        return {}
    old = {} if before is None else _settings(before)
    new = {"corpus": ()} if after is None else _settings(after)
    changed = {key: value for key, value in new.items() if key not in old or value != old[key]}
    return {f"{section}.{key}": list(value) if isinstance(value, tuple) else value for key, value in changed.items()}


def _settings(record: Any) -> dict[str, Any]:
    """Return the settings of a section by key, without the performance knobs."""
    settings: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Performance):
            continue
        settings |= _settings(value) if is_dataclass(value) else {field.name: value}
    return settings


def _load(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise RetrobenchError(f"Cannot read {file}: {error.strerror}. Give a .toml file that exists.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RetrobenchError(f"{file} is not valid TOML: {error}.") from error


def _by_section(overrides: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return `KEY=VALUE` texts by section; the sections `objective` and `entrant` are the entrant's."""
    texts: dict[str, dict[str, str]] = {}
    faults = []
    for override in overrides:
        name, equals, value = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not equals or not dot:
            faults.append(f"--set takes SECTION.KEY=VALUE, such as pretrain.steps=200, not {override!r}.")
        elif section not in {*SECTIONS, "objective", "entrant"}:
            known = [f"{known_section}.{known}" for known_section in SECTIONS for known in _keys(known_section)]
            faults.append(str(unknown("track key", name, known)))
        elif section in SECTIONS and key not in _keys(section):
            faults.append(str(unknown(f"{section} key", name, [f"{section}.{known}" for known in _keys(section)])))
        else:
            texts.setdefault(section, {})[key] = value.strip()
    if faults:
        raise RetrobenchError(" ".join(faults))
    return texts


def _keys(section: str) -> Iterable[str]:
    return cast("Mapping[str, Any]", types_of(SECTIONS[section]))
