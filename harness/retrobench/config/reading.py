"""Tracks and entrants from TOML files and from the command line. An unknown key is refused, naming the known ones."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from retrobench.config import track as e
from retrobench.config.discovery import Found, configure, get, parse_objective, preset
from retrobench.core import build, from_text
from retrobench.errors import RetrobenchError, unknown

__all__ = ["REPRESENTATIONS", "read_entrant", "read_track"]

REPRESENTATIONS = ("cls", "mean", "terms", "cls+terms")
SECTIONS: dict[str, type] = {
    "model": e.Model,
    "pretrain": e.Pretrain,
    "adapt": e.Pretrain,
    "finetune": e.Finetune,
    "mine": e.Mine,
    "distil": e.Distil,
    "evaluate": e.Evaluate,
    "representation": e.Representations,
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


def read_track(file: Path, name: str, overrides: Sequence[str]) -> e.Track:
    """The track in `file`, with what `KEY=VALUE` overrides of its sections change.

    A changed track is another track: `overrides` on it says how, and tables show its rows apart.
    """
    document = _load(file)
    tables = {key: value for key, value in document.items() if isinstance(value, dict)}
    for key in tables.keys() - SECTIONS.keys():
        raise unknown(f"section in {file}", key, SECTIONS)
    heading = build(_Heading, {k: v for k, v in document.items() if k not in tables}, str(file))
    changed = _sections(overrides)
    parts: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    for section, record in SECTIONS.items():
        label = f"{section} section of track {name}"
        table, typed = tables.get(section, {}), from_text(record, changed.get(section, {}))
        before, parts[section] = _part(section, table, label), _part(section, {**table, **_one_budget(typed)}, label)
        differences |= _differences(section, before, parts[section])
    return e.Track(name=name, overrides=differences, **asdict(heading), **parts)


def read_entrant(text: str, found: Iterable[Found], overrides: Sequence[str]) -> e.Entrant:
    """The entrant that `text` names (NAME, NAME:PRESET, `bm25` or a TOML file), as `objective.KEY=VALUE` changes it."""
    changed = _sections(overrides)
    if text.endswith(".toml"):
        document = _load(Path(text))
        settings = document.pop("settings", {})
        if not isinstance(settings, dict):
            raise RetrobenchError(f"In the entrant file {text} settings is {settings!r}; expected a table [settings].")
        asked = _build(_EntrantFile, document, f"entrant file {text}")
        asked = replace(asked, name=asked.name or Path(text).stem)
    else:
        name, chosen = parse_objective(text)
        asked, settings = _EntrantFile(objective=name, preset=chosen or "", name=text), {}
    extra = build(_EntrantFile, {"objective": "", **from_text(_EntrantFile, changed.get("entrant", {}))}, "entrant")
    asked = replace(asked, **{key: value for key, value in asdict(extra).items() if value})
    if asked.objective == e.Bm25.name:
        bm25 = build(e.Bm25, {**settings, **from_text(e.Bm25, changed.get("objective", {}))}, "bm25")
        return e.Entrant(asked.name, bm25, "bm25")
    lexical = Found(e.Bm25.name, "retrobench", "", "", "ok", "")  # so that an error for a wrong name lists it
    row = get(asked.objective, [*found, lexical])
    assert row.objective is not None
    settings = {**preset(row.objective, asked.preset or None), **settings}
    objective = configure(row.objective, {**settings, **from_text(row.objective, changed.get("objective", {}))})
    representation = asked.representation or objective.representation
    if representation not in REPRESENTATIONS:
        raise unknown("representation", representation, REPRESENTATIONS)
    name = asked.name + (" (changed)" if changed.get("objective") else "")
    return e.Entrant(name, objective, representation, asked.checkpoint, row.distribution, row.version, row.code)


def _part(section: str, table: Mapping[str, Any], label: str) -> Any:
    """The record of a section; None for `adapt` where it is left out, or its corpus is empty."""
    if section == "adapt" and not (table and table.get("corpus", True)):
        return None
    record = SECTIONS[section]
    if issubclass(record, e.Optimisation) and not table.keys() & {"steps", "epochs"}:
        raise RetrobenchError(f"{label} lacks a value: give steps or epochs.")
    return _build(record, table, label)


def _one_budget(typed: Mapping[str, Any]) -> dict[str, Any]:
    """Steps on the command line take the place of a file's epochs, and epochs of its steps."""
    other: dict[str, dict[str, Any]] = {"steps": {"epochs": 0.0}, "epochs": {"steps": 0}}
    changed = [name for name in other if name in typed]
    return {**(other[changed[0]] if len(changed) == 1 else {}), **typed}


def _differences(section: str, before: Any, after: Any) -> dict[str, Any]:
    """What overrides changed in a section, as the command line would say it."""
    old, new = asdict(before) if before else {}, asdict(after) if after else {"corpus": ()}
    means = {of.name for of in fields(SECTIONS[section]) if of.metadata.get("means")}
    changed = {key: value for key, value in new.items() if (before or after) and value != old.get(key, ...)}
    changed = {key: value for key, value in changed.items() if key not in means}
    return {f"{section}.{key}": list(value) if isinstance(value, tuple) else value for key, value in changed.items()}


def _load(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise RetrobenchError(f"Cannot read {file}: {error.strerror}. Give a .toml file that exists.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RetrobenchError(f"{file} is not valid TOML: {error}.") from error


def _build(record: type, table: Mapping[str, Any], label: str) -> Any:
    try:
        return build(record, table, label)
    except TypeError as error:  # a field without default that nobody set
        raise RetrobenchError(f"{label} lacks a value: {error}.") from error


def _sections(overrides: Sequence[str]) -> dict[str, dict[str, str]]:
    """`KEY=VALUE` texts by section; the sections `objective` and `entrant` are the entrant's."""
    found: dict[str, dict[str, str]] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        section, dot, setting = key.strip().partition(".")
        if not equals or not dot:
            raise RetrobenchError(f"--set takes SECTION.KEY=VALUE, such as pretrain.steps=200, not {text!r}.")
        if section not in {*SECTIONS, "objective", "entrant"}:
            raise unknown("track key", key, [f"{name}.{k}" for name, r in SECTIONS.items() for k in _keys(r)])
        if section in SECTIONS and setting not in _keys(SECTIONS[section]):
            raise unknown(f"{section} key", key, [f"{section}.{k}" for k in _keys(SECTIONS[section])])
        found.setdefault(section, {})[setting] = value.strip()
    return found


def _keys(record: type) -> list[str]:
    return list(record.__dataclass_fields__)  # type: ignore[attr-defined]
