"""
The rows that measure a claim, and the rows that no claim may be compared with.

* RowFile        the rows of a track's folder, or of a file named by the user
* check_rows     refuses rows measured on other data than the table's
* rows_of        the rows that measure one system
* find_unused    the rows that measure no system
* parse_recipe   the recipe in a claim's `set`
* difference     a row's recipe beside the claimed one, in words
"""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from retrobench.config import configure_objective, discover, find_objective, find_preset, parse_objective
from retrobench.core import from_text
from retrobench.leaderboard.claims import Excerpt, System
from retrobench.leaderboard.comparison import check_same_data
from retrobench.leaderboard.evidence import Load, per_query_loader
from retrobench.leaderboard.folders import nearest_files
from retrobench.leaderboard.lines import format_override
from retrobench.leaderboard.rows import Row, UnlikeError, read_file

__all__ = [
    "ClaimedRecipe",
    "RowFile",
    "check_rows",
    "claimed_recipe",
    "difference",
    "find_unused",
    "parse_recipe",
    "rows_of",
]

# Keys of a track that change no number.
HARMLESS = ("*.checkpoint_every", "*.log_every")

# Facts of a dataset that a row may leave out. Where a row has them, they must match.
OPTIONAL = ("judgements", "corpus", "qrels")

NEXT_STEP = "Give the rows of one of them by --rows FILE."


@dataclass(frozen=True)
class RowFile:
    """Rows by their location, `FILE:LINE`."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    folder: Path = Path()  # holds their values by query
    chosen: bool = False  # named by the user: rows of any track, with any overrides

    @classmethod
    def read(cls, file: Path) -> RowFile:
        """Read a file that the user chose."""
        return cls(read_file(file), file.parent, chosen=True)

    @classmethod
    def in_folder(cls, folder: Path) -> RowFile:
        """Read the rows of a track's folder; without `rows.jsonl` there are none."""
        file = folder / "rows.jsonl"
        return cls(read_file(file), folder) if file.is_file() else cls()

    @classmethod
    def of_track(cls, track: str, leaderboard: Path | None = None) -> RowFile:
        """Read the rows of a track, from the nearest folder that has some."""
        file = nearest_files("rows.jsonl", leaderboard).get(track)
        return cls.in_folder(file.parent) if file else cls()

    @property
    def load(self) -> Load | None:
        """Return the loader of values by query; None where a file of them is missing."""
        return per_query_loader(self.folder, self.rows.values())


@dataclass(frozen=True)
class ClaimedRecipe:
    """The settings that a claim's `set` requires of a row."""

    overrides: frozenset[str]  # of the track, as `format_override` gives them
    free: tuple[str, ...]  # patterns of the track's keys that may have any value
    settings: Mapping[str, str]  # of the objective
    representation: str


def parse_recipe(texts: Iterable[str]) -> ClaimedRecipe:
    """Return the recipe in texts `KEY=VALUE`, as `--set` takes them. `KEY=*` admits any value."""
    overrides = set()
    free = list(HARMLESS)
    settings = {}
    representation = ""
    for text in texts:
        key, _, value = text.partition("=")
        section, _, name = key.partition(".")
        if section == "objective":
            settings[name] = value
        elif key == "entrant.representation":
            representation = value
        elif section == "entrant":
            continue  # a checkpoint changes no recipe
        elif value == "*":
            free.append(key)
        else:
            overrides.add(format_override(key, _parse_value(value)))
    return ClaimedRecipe(frozenset(overrides), tuple(free), settings, representation)


def claimed_recipe(excerpt: Excerpt, system: System) -> ClaimedRecipe:
    """Return the recipe of a system: its table's, changed by its own `set`."""
    return parse_recipe((*excerpt.set, *system.set))


def check_rows(table: str, excerpts: Sequence[Excerpt], file: RowFile) -> RowFile:
    """Return `file`, if its rows were measured on the table's data. Else raise UnlikeError that names the difference.

    In a file that the user chose every row has to fit; in a track's own, the rows that measure the table.
    """
    for location, row in file.rows.items():
        if file.chosen or _measures_any(excerpts, row, chosen=False):
            _check_data(table, excerpts, f"{location}: the row of {row.entrant}, track {row.track},", row)
    for excerpt in excerpts:
        _check_recipes(table, excerpt, file)
    return file


def rows_of(excerpt: Excerpt, system: System, file: RowFile) -> list[Row]:
    """Return the rows that measure a system."""
    return [row for row in file.rows.values() if _measures(excerpt, system, row, file.chosen)]


def find_unused(excerpts: Sequence[Excerpt], file: RowFile) -> list[str]:
    """Return the locations of the rows that measure no system, with their entrants."""
    unused = []
    for location, row in file.rows.items():
        if not _measures_any(excerpts, row, file.chosen):
            unused.append(f"{location} ({row.entrant})")
    return unused


def difference(excerpt: Excerpt, system: System, row: Row) -> str:
    """Return how a row's recipe differs from the system's or fills in its free keys; empty where it does neither."""
    recipe = claimed_recipe(excerpt, system)
    texts = []
    if row.track != excerpt.track:
        texts.append(f"track {row.track}")
    texts += sorted(_overrides(row, HARMLESS) - recipe.overrides)
    texts += [f"without {text}" for text in sorted(recipe.overrides - _overrides(row, recipe.free))]
    return ", ".join(texts)


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _overrides(row: Row, free: Sequence[str]) -> frozenset[str]:
    """Return a row's overrides without the free keys."""
    overrides = set()
    for key, value in row.overrides.items():
        if not _matches(key, free):
            overrides.add(format_override(key, value))
    return frozenset(overrides)


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _measures_any(excerpts: Sequence[Excerpt], row: Row, chosen: bool) -> bool:
    """Return whether a row measures any system of the excerpts."""
    for excerpt in excerpts:
        for system in excerpt.systems:
            if _measures(excerpt, system, row, chosen):
                return True
    return False


def _measures(excerpt: Excerpt, system: System, row: Row, chosen: bool) -> bool:
    """Return whether a row measures a system. A chosen row may be of any track."""
    if not system.entrant or row.objective != parse_objective(system.entrant)[0]:
        return False
    recipe = claimed_recipe(excerpt, system)
    settings, representation = _configured(system.entrant, tuple(recipe.settings.items()))
    if any(settings.get(name) != value for name, value in row.settings.items()):
        return False
    if row.representation != (recipe.representation or representation):
        return False
    if system.round and (row.round or row.chosen) != system.round:
        return False
    overrides = _overrides(row, recipe.free)
    if not chosen:
        return row.track == excerpt.track and overrides == recipe.overrides
    # Only the keys that tell the table's systems apart have to match.
    varied = _varied_keys(excerpt)
    varied_overrides = {text for text in overrides if _key(text) in varied}
    return varied_overrides == _own_overrides(excerpt, system)


def _own_overrides(excerpt: Excerpt, system: System) -> frozenset[str]:
    """Return the overrides that a system adds to its table's."""
    return claimed_recipe(excerpt, system).overrides - parse_recipe(excerpt.set).overrides


def _varied_keys(excerpt: Excerpt) -> set[str]:
    keys: set[str] = set()
    for system in excerpt.systems:
        keys |= {_key(text) for text in _own_overrides(excerpt, system)}
    return keys


def _key(text: str) -> str:
    return text.partition("=")[0]


@functools.cache
def _configured(entrant: str, changed: tuple[tuple[str, str], ...]) -> tuple[dict[str, Any], str]:
    """Return an objective's settings, in the types that a row has them in, and its representation."""
    name, preset_name = parse_objective(entrant)
    objective = find_objective(name, discover()).objective
    assert objective is not None
    settings = {**find_preset(objective, preset_name), **from_text(objective, dict(changed))}
    configured: Any = configure_objective(objective, settings)
    as_in_rows = json.loads(json.dumps(asdict(configured)))
    return as_in_rows, objective.representation


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
    ignored = (*parse_recipe(excerpt.set).free, *_varied_keys(excerpt))
    first_rows: dict[str, Row] = {}  # by overrides
    for row in rows:
        common = _common_recipe(rows[0], ignored)
        recipe = _common_recipe(row, ignored)
        differing = [key for key in sorted(common | recipe) if common.get(key) != recipe.get(key)]
        if differing:
            raise UnlikeError(f"{_two(table, rows[0], row)}: they differ in {', '.join(differing)}. {NEXT_STEP}")
        first = first_rows.setdefault(json.dumps(row.overrides, sort_keys=True), row)
        if first.identity != row.identity:
            raise UnlikeError(f"{_two(table, first, row)}: track {row.track} was changed between them. {NEXT_STEP}")


def _common_recipe(row: Row, ignored: Sequence[str]) -> dict[str, Any]:
    """Return a row's track and overrides, without the keys in which the rows of an excerpt may differ."""
    recipe: dict[str, Any] = {"track": row.track}
    for key, value in row.overrides.items():
        if not _matches(key, ignored):
            recipe[key] = value
    return recipe


def _two(table: str, first: Row, second: Row) -> str:
    return f"{table}: the rows of {_dated(first)} and {_dated(second)} are of unlike identity"


def _dated(row: Row) -> str:
    return f"{row.entrant} of {row.date} ({row.identity[:8]})"
