"""
The rows that measure a claim, and the rows that no claim may be compared with.

* RowFile            the rows of a track's folder, or of a file named by the user
* check_rows         refuses rows measured on other data than the table's
* rows_of            the rows that measure one system
* find_unused        the rows that measure no system
* difference         the recipe of rows beside the claimed one, in words
* nearest_miss       the row that almost measures a system, and the keys in which it differs
* distribution_key   equal for rows that differ in their random draws alone
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retrobench.config import Baseline, discover, parse_objective, read_entrant
from retrobench.leaderboard.claims import Excerpt, System
from retrobench.leaderboard.comparison import check_same_data
from retrobench.leaderboard.reproduce.recipes import (
    ALIKE,
    UNCOUNTED,
    Settings,
    claimed_recipe,
    describe,
    differences,
    kept_settings,
    matches,
    row_settings,
    table_recipe,
    varied_keys,
)
from retrobench.leaderboard.rows import Load, Row, UnlikeError, nearest_files, per_query_loader, read_file

__all__ = ["RowFile", "check_rows", "difference", "distribution_key", "find_unused", "nearest_miss", "rows_of"]

# Facts of a dataset that a row may leave out. Where a row has them, they must match.
OPTIONAL = ("judgements", "corpus", "qrels")

NEXT_STEP = "Give the rows of one of them by --rows FILE."
NEAR = 5  # differing keys of a near miss, at most
LISTED = 8  # differing keys of a row of another track that are named, at most


@dataclass(frozen=True)
class RowFile:
    """Rows by their location, `FILE:LINE`."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    folder: Path = Path()  # holds their values by query
    tracks: Mapping[str, Settings] = field(default_factory=dict)  # identity -> settings, of the tracks kept beside them
    chosen: bool = False  # named by the user: rows of any track, with any overrides

    @classmethod
    def read(cls, file: Path, chosen: bool = True) -> RowFile:
        """Read a file, by default one that the user chose."""
        rows = read_file(file)
        return cls(rows, file.parent, kept_settings(file.parent, rows.values()), chosen)

    @classmethod
    def in_folder(cls, folder: Path) -> RowFile:
        """Read the rows of a track's folder; without `rows.jsonl` there are none."""
        file = folder / "rows.jsonl"
        return cls.read(file, chosen=False) if file.is_file() else cls()

    @classmethod
    def of_track(cls, track: str, leaderboard: Path | None = None) -> RowFile:
        """Read the rows of a track, from the nearest folder that has some."""
        file = nearest_files("rows.jsonl", leaderboard).get(track)
        return cls.in_folder(file.parent) if file else cls()

    @property
    def load(self) -> Load | None:
        """Return the loader of values by query; None where a file of them is missing."""
        return per_query_loader(self.folder, self.rows.values())


def check_rows(table: str, excerpts: Sequence[Excerpt], file: RowFile) -> RowFile:
    """Return `file`, if its rows were measured on the table's data. Else raise UnlikeError that names the difference.

    In a file that the user chose every row has to fit; in a track's own, the rows that measure the table.
    """
    for location, row in file.rows.items():
        if file.chosen or _measures_any(excerpts, row, file):
            _check_data(table, excerpts, f"{location}: the row of {row.entrant}, track {row.track},", row)
    for excerpt in excerpts:
        _check_recipes(table, excerpt, file)
    return file


def rows_of(excerpt: Excerpt, system: System, file: RowFile) -> list[Row]:
    """Return the rows that measure a system."""
    return [row for row in file.rows.values() if _measures(excerpt, system, row, file)]


def find_unused(excerpts: Sequence[Excerpt], file: RowFile) -> list[str]:
    """Return the locations of the rows that measure no system, with their entrants."""
    unused = []
    for location, row in file.rows.items():
        if not _measures_any(excerpts, row, file):
            unused.append(f"{location} ({row.entrant})")
    return unused


def difference(excerpt: Excerpt, system: System, rows: Sequence[Row], file: RowFile) -> str:
    """Return how the recipe of rows differs from the system's, or fills in its free keys; empty where it does not."""
    claimed = claimed_recipe(excerpt, system).track
    tracks = dict.fromkeys(row.track for row in rows)
    texts = [f"track {track}" for track in tracks if track != excerpt.track]
    differing: dict[str, tuple[Any, Any]] = {}
    for row in rows:
        settings = row_settings(row, file.tracks, excerpt)
        differing |= differences(claimed, settings)
        for key in claimed.keys() & settings.keys():
            if matches(key, ALIKE) and claimed[key] != settings[key]:
                differing[key] = (claimed[key], settings[key])
    listed = dict(list(differing.items())[:LISTED])
    if listed:
        texts.append(describe(listed))
    if len(differing) > LISTED:
        texts.append(f"and {len(differing) - LISTED} more keys")
    return ", ".join(texts)


def nearest_miss(excerpt: Excerpt, system: System, file: RowFile) -> str:
    """Return the row that would measure a system but for a few keys, and the keys; empty where no row is near."""
    nearest: tuple[Row, dict[str, tuple[Any, Any]]] | None = None
    for row in file.rows.values():
        if _measures_any([excerpt], row, file):
            continue
        differing = _differing(excerpt, system, row, file)
        if differing is None or len(differing) > NEAR:
            continue
        if nearest is None or len(differing) < len(nearest[1]):
            nearest = (row, differing)
    if nearest is None:
        return ""
    row, differing = nearest
    return f"the row {row.id[:8]} of {row.entrant} (seed {row.seed}) differs in {describe(differing)}"


def distribution_key(row: Row, excerpt: Excerpt, file: RowFile) -> str:
    """Return a text that is equal for rows whose tracks differ in random draws alone."""
    settings = row_settings(row, file.tracks, excerpt)
    counted = {key: value for key, value in settings.items() if not matches(key, (*UNCOUNTED, *ALIKE))}
    identity = "" if row.identity in file.tracks else row.identity
    return json.dumps([row.track, identity, counted], sort_keys=True)


def _measures_any(excerpts: Sequence[Excerpt], row: Row, file: RowFile) -> bool:
    """Return whether a row measures any system of the excerpts."""
    for excerpt in excerpts:
        for system in excerpt.systems:
            if _measures(excerpt, system, row, file):
                return True
    return False


def _measures(excerpt: Excerpt, system: System, row: Row, file: RowFile) -> bool:
    """Return whether a row measures a system. A chosen row may be of any track."""
    return _differing(excerpt, system, row, file) == {}


def _differing(excerpt: Excerpt, system: System, row: Row, file: RowFile) -> dict[str, tuple[Any, Any]] | None:
    """Return the keys in which a row differs from a system; None for another objective, round or track.

    In a file that the user chose, only the keys that tell the table's systems apart have to match.
    """
    if not system.entrant or row.objective != parse_objective(system.entrant)[0]:
        return None
    if system.round and (row.round or row.chosen) != system.round:
        return None
    if row.track != excerpt.track and not file.chosen:
        return None
    recipe = claimed_recipe(excerpt, system)
    adapts = recipe.track.get("adapt.corpus") != []
    settings, representation = _configured(system.entrant, recipe.objective, adapts)
    differing = _differing_settings(settings, row)
    representation = recipe.representation or representation
    if row.representation != representation:
        differing["entrant.representation"] = (representation, row.representation)
    track_keys = differences(recipe.track, row_settings(row, file.tracks, excerpt), recipe.free)
    if file.chosen:
        varied = varied_keys(excerpt)
        track_keys = {key: pair for key, pair in track_keys.items() if key in varied}
    return differing | track_keys


def _differing_settings(claimed: Mapping[str, Any], row: Row) -> dict[str, tuple[Any, Any]]:
    """Return the settings of the objective in which a row differs.

    A row of an earlier version lacks later settings. But a stage that has an objective or settings of its own must be
    in the row, unless the row starts from a checkpoint, which went through no stage.
    """
    names = list(row.settings)
    if not row.checkpoint:
        names += [name for name in claimed if _is_of_stage(name) and name not in row.settings]
    differing = {}
    for name in names:
        pair = (claimed.get(name), row.settings.get(name))
        if pair[0] != pair[1]:
            differing[_override_key(name)] = pair
    return differing


def _is_of_stage(setting: str) -> bool:
    """Return whether a row's setting is of one stage alone, as `pretrain.objective` and `pretrain.mask_ratio` are."""
    return "." in setting


def _override_key(setting: str) -> str:
    """Return the key that changes a row's setting on the command line."""
    stage, dot, name = setting.rpartition(".")
    if dot and name == "objective":
        return setting
    return f"{stage}{dot}objective.{name}"


@functools.cache
def _configured(text: str, overrides: tuple[str, ...], adapts: bool) -> tuple[dict[str, Any], str]:
    """Return an entrant's settings, in the types that a row has them in, and its representation."""
    entrant = read_entrant(text, discover(), overrides)
    assert not isinstance(entrant, Baseline)
    if not adapts:
        stages = {name: stage for name, stage in entrant.stages.items() if name != "adapt"}
        entrant = replace(entrant, stages=stages)
    as_in_rows = json.loads(json.dumps(entrant.settings))
    return as_in_rows, entrant.representation


def _check_data(table: str, excerpts: Sequence[Excerpt], subject: str, row: Row) -> None:
    """Raise UnlikeError where a row was measured on other data. `subject` begins the sentence."""
    datasets = _measurable_datasets(excerpts)
    if not datasets & row.measures.keys():
        raise UnlikeError(
            f"{subject} was measured on {_first_names(row.measures)}, and {table} is about {_first_names(datasets)}. "
            "Numbers of unlike identity share no table."
        )
    for excerpt in excerpts:
        for dataset in row.measures:
            # A mean of several datasets has no facts of its own.
            if dataset in excerpt.datasets and "(mean of" not in dataset:
                _check_facts(table, excerpt, subject, row, dataset)


def _check_facts(table: str, excerpt: Excerpt, subject: str, row: Row, dataset: str) -> None:
    facts = row.facts.get(dataset, {})
    for name, value in excerpt.datasets[dataset].needs.items():
        if name in OPTIONAL and name not in facts:
            continue
        if facts.get(name) != value:
            fault = f"does not say its {name}"
            if name in facts:
                fault = f"has {name} {facts[name]}"
            raise UnlikeError(
                f"{subject} {fault} on {dataset}, and {table} needs {value}. Numbers of unlike identity share no table."
            )


def _measurable_datasets(excerpts: Sequence[Excerpt]) -> dict[str, None]:
    """Return the table's datasets that a track measures; all of them where no track measures any."""
    measurable: dict[str, None] = {}
    datasets: dict[str, None] = {}
    for excerpt in excerpts:
        for column in excerpt.columns:
            datasets[column.dataset] = None
            claimed = excerpt.datasets.get(column.dataset)
            if excerpt.track and not (claimed and claimed.reason):
                measurable[column.dataset] = None
    return measurable or datasets


def _first_names(names: Iterable[str]) -> str:
    """Return the first three names, and the number of the remaining."""
    first, remaining = list(names)[:3], list(names)[3:]
    text = ", ".join(first)
    if remaining:
        text += f" and {len(remaining)} more"
    return text


def _check_recipes(table: str, excerpt: Excerpt, file: RowFile) -> None:
    """Raise UnlikeError where an excerpt's rows have different recipes, or were measured on different data."""
    rows: list[Row] = []
    for system in excerpt.systems:
        rows += rows_of(excerpt, system, file)
    check_same_data(rows)
    ignored = (*table_recipe(excerpt).free, *varied_keys(excerpt))
    first_rows: dict[str, Row] = {}  # by overrides
    for row in rows:
        differing = _unlike_keys(excerpt, rows[0], row, file, ignored)
        if differing:
            raise UnlikeError(f"{_two(table, rows[0], row)}: they differ in {', '.join(differing)}. {NEXT_STEP}")
        if row.identity in file.tracks:
            continue  # its settings were compared one by one
        first = first_rows.setdefault(json.dumps(row.overrides, sort_keys=True), row)
        if first.identity != row.identity:
            raise UnlikeError(f"{_two(table, first, row)}: track {row.track} was changed between them. {NEXT_STEP}")


def _unlike_keys(excerpt: Excerpt, first: Row, second: Row, file: RowFile, ignored: Sequence[str]) -> list[str]:
    """Return the keys in which two rows of an excerpt differ and may not."""
    settings = [row_settings(row, file.tracks, excerpt) for row in (first, second)]
    keys = list(differences(settings[0], settings[1], ignored))
    return ["track", *keys] if first.track != second.track else keys


def _two(table: str, first: Row, second: Row) -> str:
    return f"{table}: the rows of {_dated(first)} and {_dated(second)} are of unlike identity"


def _dated(row: Row) -> str:
    return f"{row.entrant} of {row.date} ({row.identity[:8]})"
