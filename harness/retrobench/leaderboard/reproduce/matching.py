"""
Which rows measure which claim, and which rows no claim may be held against.

* offered, Offer   the rows of a track's folder, or of a file given by name
* checked          the same, refused where a row is of anything else than the table is about
* matching         the rows that measure one system; unclaimed: those that measure none
"""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from retrobench.config import configure_objective, discover, find_objective, find_preset, parse_objective
from retrobench.core import from_text
from retrobench.leaderboard.claims import Part, System
from retrobench.leaderboard.comparison import Load, alike, override
from retrobench.leaderboard.folders import places
from retrobench.leaderboard.rows import Row, UnlikeError, load_per_query, read_file

__all__ = ["Offer", "Recipe", "checked", "difference", "matching", "offered", "recipe", "unclaimed"]

# Settings of a track that no number depends on.
HARMLESS = ("*.checkpoint_every", "*.log_every")

# What a dataset's cells have in common with a row's, if the row says nothing of it: these need not be said.
OPTIONAL = ("judgements", "corpus", "qrels")

NEXT = "Give the rows of one of them by --rows FILE."


@dataclass(frozen=True)
class Offer:
    """Rows by the place where each stands, `FILE:LINE`."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    folder: Path = Path()  # their values by query lie under it
    named: bool = False  # given by a person: whatever their track and its overrides

    @classmethod
    def named_by(cls, file: Path) -> Offer:
        """The rows of a file."""
        return cls(read_file(file), file.parent, named=True)

    @property
    def load(self) -> Load | None:
        """How values by query are read; None where they are not beside the rows."""
        here = self.rows and all((self.folder / row.per_query).is_file() for row in self.rows.values())
        return partial(load_per_query, self.folder) if here else None


@dataclass(frozen=True)
class Recipe:
    """What a system's `set` asks for."""

    overrides: frozenset[str]  # `KEY=VALUE` as a row's overrides are shown
    free: tuple[str, ...]  # patterns of keys whose value does not matter
    settings: Mapping[str, str]  # of the objective
    representation: str


def offered(track: str | Path, leaderboard: Path | None = None) -> Offer:
    """The rows of a track, from the nearest folder that has any, or those of the folder itself if it is a path."""
    if not track:
        return Offer()
    folders = [track] if isinstance(track, Path) else [place / track for place in places(leaderboard)]
    folder = next((folder for folder in folders if (folder / "rows.jsonl").is_file()), None)
    return Offer(read_file(folder / "rows.jsonl"), folder) if folder else Offer()


def checked(table: str, parts: Sequence[Part], offer: Offer) -> Offer:
    """`offer`, if none of its rows is of anything else than the table is about; else UnlikeError names the difference.

    Of rows given by name each has to fit; of a track's own, those that measure something here.
    """
    for where, row in offer.rows.items():
        if offer.named or any(_measures(part, system, row, False) for part in parts for system in part.systems):
            _check(table, parts, f"{where}: the row of {row.entrant}, track {row.track},", row)
    for part in parts:
        _agree(table, part, offer)
    return offer


def matching(part: Part, system: System, offer: Offer) -> list[Row]:
    """The rows that measure a system."""
    return [row for row in offer.rows.values() if _measures(part, system, row, offer.named)]


def unclaimed(parts: Sequence[Part], offer: Offer) -> list[str]:
    """Where the rows stand that measure no system of these parts."""
    used = [row for part in parts for system in part.systems for row in matching(part, system, offer)]
    return [f"{where} ({row.entrant})" for where, row in offer.rows.items() if row not in used]


def recipe(part: Part, system: System | None = None) -> Recipe:
    """The part's `set`, and the system's."""
    pairs = [text.partition("=")[::2] for text in (*part.set, *(system.set if system else ()))]
    track = [(key, value) for key, value in pairs if key.partition(".")[0] not in ("objective", "entrant")]
    return Recipe(
        frozenset(override(key, _value(value)) for key, value in track if value != "*"),
        (*HARMLESS, *(key for key, value in track if value == "*")),
        {key.partition(".")[2]: value for key, value in pairs if key.startswith("objective.")},
        dict(pairs).get("entrant.representation", ""),
    )


def difference(part: Part, system: System, row: Row) -> str:
    """How a row's recipe is not the system's, or fills in what that leaves open; empty where neither is so."""
    wanted = recipe(part, system)
    given = _given(row, wanted)
    said = _given(row, replace(wanted, free=HARMLESS))
    words = [f"track {row.track}"] if row.track != part.track else []
    words += sorted(said - wanted.overrides)
    words += [f"without {text}" for text in sorted(wanted.overrides - given)]
    return ", ".join(words)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _given(row: Row, wanted: Recipe) -> frozenset[str]:
    kept = {k: v for k, v in row.overrides.items() if not any(fnmatchcase(k, free) for free in wanted.free)}
    return frozenset(override(key, value) for key, value in kept.items())


def _measures(part: Part, system: System, row: Row, named: bool) -> bool:
    if not system.entrant or row.objective != parse_objective(system.entrant)[0]:
        return False
    wanted = recipe(part, system)
    settings, representation = _expected(system.entrant, tuple(wanted.settings.items()))
    if any(settings.get(name) != value for name, value in row.settings.items()):
        return False
    if row.representation != (wanted.representation or representation):
        return False
    if system.round and (row.round or row.chosen) != system.round:
        return False
    given = _given(row, wanted)
    if named:  # of the track's overrides only what tells this system from the others of its table
        varied = _varied(part)
        return {text for text in given if _key(text) in varied} == wanted.overrides - recipe(part).overrides
    return row.track == part.track and given == wanted.overrides


def _varied(part: Part) -> set[str]:
    return {_key(text) for system in part.systems for text in recipe(part, system).overrides - recipe(part).overrides}


def _key(text: str) -> str:
    return text.partition("=")[0]


@functools.cache
def _expected(entrant: str, changed: tuple[tuple[str, str], ...]) -> tuple[dict[str, Any], str]:
    """The settings of an objective, and how its vectors are read."""
    name, chosen = parse_objective(entrant)
    objective = find_objective(name, discover()).objective
    assert objective is not None
    settings = {**find_preset(objective, chosen), **from_text(objective, dict(changed))}
    configured: Any = configure_objective(objective, settings)
    return json.loads(json.dumps(asdict(configured))), objective.representation  # as a row has them


def _check(table: str, parts: Sequence[Part], who: str, row: Row) -> None:
    about = {column.dataset: part for part in parts for column in part.columns}
    about = {name: part for name, part in about.items() if part.track and not _known(part, name, "reason")} or about
    shared = about.keys() & row.measures.keys()
    if not shared:
        raise UnlikeError(
            f"{who} was measured on {_some(row.measures)}, and {table} is about {_some(about)}. "
            "Numbers of unlike identity share no table."
        )
    for dataset, part in _needed(parts, row):
        facts = row.facts.get(dataset, {})
        for name, wanted in part.datasets[dataset].needs.items():
            if facts.get(name, wanted if name in OPTIONAL else None) != wanted:
                said = f"has {name} {facts[name]}" if name in facts else f"does not say its {name}"
                raise UnlikeError(
                    f"{who} {said} on {dataset}, and {table} needs {wanted}. Numbers of unlike identity share no table."
                )


def _needed(parts: Sequence[Part], row: Row) -> Iterator[tuple[str, Part]]:
    """The datasets whose facts are asked of a row: a mean of several has none of its own."""
    for part in parts:
        yield from ((name, part) for name in row.measures if name in part.datasets and "(mean of" not in name)


def _known(part: Part, dataset: str, name: str) -> Any:
    return getattr(part.datasets[dataset], name) if dataset in part.datasets else None


def _some(names: Mapping[str, object]) -> str:
    first = list(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _agree(table: str, part: Part, offer: Offer) -> None:
    """Raise UnlikeError where rows of this part were made by unlike recipes, or on unlike files."""
    rows = [row for system in part.systems for row in matching(part, system, offer)]
    alike(rows)
    free, varied = recipe(part).free, _varied(part)

    def fixed(row: Row) -> dict[str, Any]:
        kept = {k: v for k, v in row.overrides.items() if k not in varied and not any(fnmatchcase(k, f) for f in free)}
        return {"track": row.track, **kept}

    identities: dict[str, Row] = {}
    for row in rows:
        unlike = sorted(k for k in fixed(rows[0]) | fixed(row) if fixed(rows[0]).get(k) != fixed(row).get(k))
        if unlike:
            raise UnlikeError(f"{_two(table, rows[0], row)}: they differ in {', '.join(unlike)}. {NEXT}")
        first = identities.setdefault(json.dumps(row.overrides, sort_keys=True), row)
        if first.identity != row.identity:
            raise UnlikeError(f"{_two(table, first, row)}: track {row.track} was changed between them. {NEXT}")


def _two(table: str, first: Row, second: Row) -> str:
    names = " and ".join(f"{row.entrant} of {row.date} ({row.identity[:8]})" for row in (first, second))
    return f"{table}: the rows of {names} are of unlike identity"
