"""
The settings that a claim requires of a row, and the settings of a row.

* ClaimedRecipe, claimed_recipe   a system's settings: its table's, changed by its own `set`
* kept_settings                   the settings of the tracks kept beside rows
* row_settings                    the settings of a row's track
* differences                     the keys in which two tracks differ
* describe                        differences in words

Settings are compared by key, never by the hash of a track, so that a difference can be named.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from retrobench.config import INTERVALS, KNOBS, read_track, resolve
from retrobench.leaderboard.claims import Excerpt, System
from retrobench.leaderboard.comparison import format_override
from retrobench.leaderboard.rows import Row, load_track

__all__ = [
    "ALIKE",
    "UNCOUNTED",
    "ClaimedRecipe",
    "Differences",
    "Settings",
    "claimed_recipe",
    "describe",
    "differences",
    "fixed_texts",
    "kept_settings",
    "matches",
    "row_settings",
    "table_recipe",
    "varied_keys",
]

Settings = Mapping[str, Any]
"""Key of a track, such as `finetune.batch` -> its value."""

Differences = Mapping[str, tuple[Any, Any]]
"""Key -> the claimed and the measured value."""

# Keys that change no result: they stand in no resolved track, but a row's overrides may name them.
UNCOUNTED = tuple(f"*.{name}" for name in (*INTERVALS, *KNOBS))

# The parts of a batch draw their own dropout and masks. Other draws of one distribution measure the same claim.
ALIKE = ("*.shards",)

ABSENT = "none"  # in words: a key that one side does not have


@dataclass(frozen=True)
class ClaimedRecipe:
    """The settings that a claim's `set` requires of a row."""

    track: Settings
    free: tuple[str, ...]  # patterns of the track's keys that may have any value
    objective: tuple[str, ...]  # `objective.KEY=VALUE`, and those of single stages
    representation: str


def claimed_recipe(excerpt: Excerpt, system: System) -> ClaimedRecipe:
    """Return the recipe of a system: its table's, changed by its own `set`."""
    return _recipe(excerpt.track_file, (*excerpt.set, *system.set))


def table_recipe(excerpt: Excerpt) -> ClaimedRecipe:
    """Return the recipe that the systems of a table share."""
    return _recipe(excerpt.track_file, excerpt.set)


def fixed_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts `KEY=VALUE` without those that admit any value."""
    return tuple(text for text in texts if not text.endswith("=*"))


def varied_keys(excerpt: Excerpt) -> set[str]:
    """Return the keys of the track that tell a table's systems apart."""
    common = table_recipe(excerpt).track
    keys: set[str] = set()
    for system in excerpt.systems:
        keys |= differences(common, claimed_recipe(excerpt, system).track).keys()
    return keys


def kept_settings(folder: Path, rows: Iterable[Row]) -> dict[str, Settings]:
    """Return identity -> settings of the tracks that were kept beside rows."""
    settings: dict[str, Settings] = {}
    for identity in {row.identity for row in rows}:
        track = load_track(folder, identity)
        if track is not None:
            settings[identity] = _by_key(track)
    return settings


def row_settings(row: Row, kept: Mapping[str, Settings], excerpt: Excerpt) -> Settings:
    """Return the settings of a row's track as kept; else those of the excerpt's track, changed by the row."""
    if row.identity in kept:
        return kept[row.identity]
    return _change(_track_settings(excerpt.track_file, ()), row.overrides)


def differences(claimed: Settings, measured: Settings, ignored: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Return the keys that differ. `ignored` are patterns of keys beside those that change no result."""
    patterns = (*UNCOUNTED, *ALIKE, *ignored)
    differing = {}
    for key in sorted(claimed.keys() | measured.keys()):
        pair = (claimed.get(key), measured.get(key))
        if pair[0] != pair[1] and not matches(key, patterns):
            differing[key] = pair
    return _without_absent_section(differing)


def matches(key: str, patterns: Sequence[str]) -> bool:
    """Return whether any pattern matches a key."""
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def describe(differing: Differences) -> str:
    """Return differences in words: each measured value, and the claimed one behind it."""
    texts = []
    for key, (claimed, measured) in differing.items():
        texts.append(f"{format_override(key, _shown(measured))} (claimed {_value(key, claimed)})")
    return ", ".join(texts)


def _shown(value: Any) -> Any:
    return ABSENT if value is None else value


def _value(key: str, value: Any) -> str:
    text = format_override(key, _shown(value)).removeprefix(f"{key}=")
    return text or '""'


@functools.cache
def _recipe(track_file: Path | None, texts: tuple[str, ...]) -> ClaimedRecipe:
    """Return the recipe in texts `KEY=VALUE`, as `--set` takes them. `KEY=*` admits any value."""
    track_texts = []
    free = []
    objective = []
    representation = ""
    for text in texts:
        key, _, value = text.partition("=")
        section, _, name = key.partition(".")
        if section == "objective" or name.partition(".")[0] == "objective":
            objective.append(text)
        elif key == "entrant.representation":
            representation = value
        elif section == "entrant":
            continue  # a checkpoint changes no recipe
        elif value == "*":
            free.append(key)
        else:
            track_texts.append(text)
    track = _track_settings(track_file, tuple(track_texts))
    return ClaimedRecipe(track, tuple(free), tuple(objective), representation)


@functools.cache
def _track_settings(track_file: Path | None, texts: tuple[str, ...]) -> Settings:
    """Return a track's settings, changed by texts `KEY=VALUE`; the changes alone where there is no track."""
    if track_file is not None:
        return _by_key(resolve(read_track(track_file, track_file.parent.name, texts)))
    changes = {}
    for text in texts:
        key, _, value = text.partition("=")
        changes[key] = _parse(value)
    return changes


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _by_key(track: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a resolved track by `SECTION.KEY`. A track without `[adapt]` adapts on no corpus."""
    settings: dict[str, Any] = {}
    for section, values in track.items():
        for name, value in values.items():
            settings[f"{section}.{name}"] = value
    settings.setdefault("adapt.corpus", [])
    return settings


def _change(settings: Settings, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with overrides in their place."""
    changed = {**settings, **overrides}
    if changed.get("adapt.corpus") == []:
        changed = {key: value for key, value in changed.items() if not _follows_adapt(key)}
    return changed


def _without_absent_section(differing: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Leave out the keys of `[adapt]` where one side has no such section: its corpus says so."""
    if [] not in differing.get("adapt.corpus", ()):
        return differing
    return {key: pair for key, pair in differing.items() if not _follows_adapt(key)}


def _follows_adapt(key: str) -> bool:
    return key.startswith("adapt.") and key != "adapt.corpus"
