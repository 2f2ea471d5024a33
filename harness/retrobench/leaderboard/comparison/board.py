"""
The rows of a track from all its folders, with the files beside them: a trial run stands beside the shipped rows.

* Board           rows, and for each row its values by query, its clusters and the changes of its track
* Board.read      the rows of one folder
* Board.gather    the rows of a track in the user's folder and in the shipped folder
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrobench.config import read_track, resolve, with_added
from retrobench.data import groups
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.comparison import declared
from retrobench.leaderboard.comparison.declared import Declared
from retrobench.leaderboard.comparison.lines import format_override
from retrobench.leaderboard.rows import (
    Clusters,
    PerQuery,
    Row,
    folders_with_rows,
    has_values,
    load_per_query,
    load_track,
    locate,
    nearest_files,
    read,
    read_clusters,
    track_name,
)

__all__ = ["Board"]


@dataclass(frozen=True)
class Board:
    """Rows of a track, and the folder of each row by its id."""

    rows: tuple[Row, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict)  # empty for rows that lie in no folder
    own: frozenset[str] = frozenset()  # ids of the user's rows, where shipped rows stand beside them
    settings: Mapping[str, Mapping[str, Any]] | None = None  # of the track as its file has it now
    declared: Declared = field(default_factory=Declared)  # the tables of its folder
    # By row, once they were read: every table and every pair of lines asks again.
    _values: dict[str, PerQuery] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def read(cls, folder: Path) -> Board:
        """Return the rows of one folder. Its own `track.toml` is the track's file."""
        rows = read(folder)
        folders = dict.fromkeys([row.id for row in rows], folder)
        settings = _settings(folder / "track.toml")
        return cls(tuple(rows), folders, settings=settings, declared=Declared.read(folder / declared.FILE))

    @classmethod
    def gather(cls, track: str, leaderboard: Path | None = None) -> Board:
        """Return the rows of a track, given by name or TOML file: the user's and the shipped."""
        name = track_name(Path(track)) if track.endswith(".toml") else track
        rows: dict[str, Row] = {}
        folders: dict[str, Path] = {}
        own: set[str] = set()
        shipped = 0
        for number, folder in enumerate(folders_with_rows(leaderboard).get(name, [])):
            for row in read(folder):
                if row.id in rows:
                    continue
                rows[row.id] = row
                folders[row.id] = folder
                if number == 0:
                    own.add(row.id)
                else:
                    shipped += 1
        file = nearest_files("track.toml", leaderboard).get(name)
        if file is None and not rows:
            file = locate(track, leaderboard)
        tables = nearest_files(declared.FILE, leaderboard).get(name)
        beside = Declared.read(tables) if tables else Declared()
        return cls(tuple(rows.values()), folders, frozenset(own if shipped else ()), _settings(file), beside)

    @property
    def places(self) -> list[Path]:
        """Return the files of the rows."""
        return [folder / "rows.jsonl" for folder in dict.fromkeys(self.folders.values())]

    @property
    def has_values(self) -> bool:
        """Tell whether every row has its values by query."""
        return all(row.id in self.folders and has_values(self.folders[row.id], row) for row in self.rows)

    def load(self, row: Row) -> PerQuery:
        """Return a row's values by query."""
        if row.id not in self._values:
            self._values[row.id] = load_per_query(self.folders[row.id], row)
        return self._values[row.id]

    def load_clusters(self, rows: Iterable[Row], dataset: str) -> Clusters | None:
        """Return the clusters of a dataset of some rows, from the folder of the first row that has them."""
        measured = list(rows)
        for folder in dict.fromkeys(self.folders[row.id] for row in measured):
            clusters = read_clusters(folder, measured, dataset)
            if clusters is not None:
                return clusters
        return None

    def differences(self, row: Row) -> dict[str, Any] | None:
        """Return the settings of a row's track that differ from the track's file, by SECTION.KEY; None where unknown.

        A setting that the row's track lacks is None.
        """
        kept = self._kept(row)
        if self.settings is None or kept is None:
            return None
        differing = {}
        for section in sorted(kept.keys() | self.settings.keys()):
            measured = kept.get(section, {})
            present = self.settings.get(section, {})
            for key in sorted(measured.keys() | present.keys()):
                if measured.get(key) != present.get(key):
                    differing[f"{section}.{key}"] = measured.get(key)
        return differing

    def changes(self, row: Row) -> list[str] | None:
        """Return the differences of a row's track as `--set` takes them, or None where they are unknown."""
        differences = self.differences(row)
        if differences is None:
            return None
        return [format_override(key, value) for key, value in differences.items()]

    def transfer(self, row: Row) -> list[str]:
        """Return the datasets that a row's track tests where they are at hand, and the means of complete groups."""
        kept = self._kept(row) or {}
        names: list[str] = []
        for name in kept.get("evaluate", {}).get("transfer", []):
            names += groups.expand(name)
            if name in groups.GROUPS and groups.GROUPS[name].average:
                names.append(groups.GROUPS[name].average)
        return names

    def _kept(self, row: Row) -> dict[str, dict[str, Any]] | None:
        """Return the resolved track of a row; None where it was not kept."""
        if row.id not in self.folders:
            return None
        kept = load_track(self.folders[row.id], row.identity)
        return None if kept is None else with_added(kept)


def _settings(file: Path | None) -> dict[str, dict[str, Any]] | None:
    """Return the settings of a track's file; None without a usable file."""
    if file is None or not file.is_file():
        return None
    try:
        track = read_track(file, track_name(file), [])
    except RetrobenchError:
        return None  # a run names its faults; rows are shown all the same
    return with_added(resolve(track))
