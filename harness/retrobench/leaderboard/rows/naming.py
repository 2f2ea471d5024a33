"""
Rows by their names: the start of an id, TRACK:ENTRANT:SEED, or TRACK:ENTRANT (REPRESENTATION):SEED.

* inspect_tracks   every line of the rows of a track, or of all tracks
* row_name         the name of a row for a reader
* find_row         the one row with a name
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from retrobench.errors import RetrobenchError, unknown
from retrobench.leaderboard.rows.file import Inspected, inspect
from retrobench.leaderboard.rows.folders import folders_with_rows, track_name
from retrobench.leaderboard.rows.row import Row, full_entrant

__all__ = ["find_row", "inspect_tracks", "row_name"]


def inspect_tracks(track: str = "", leaderboard: Path | None = None) -> dict[Path, list[Inspected]]:
    """Return the inspected lines of a track, the user's and the shipped, by folder; of all tracks without `track`."""
    folders = folders_with_rows(leaderboard)
    if track:
        name = track_name(Path(track)) if track.endswith(".toml") else track
        if name not in folders:
            raise unknown("track with rows", name, folders, "--leaderboard DIR adds another folder of tracks.")
        folders = {name: folders[name]}
    inspected = {}
    for name in sorted(folders):
        for folder in folders[name]:
            inspected[folder] = inspect(folder / "rows.jsonl")
    return inspected


def row_name(row: Row) -> str:
    """Return TRACK:ENTRANT:SEED, with "-" for the seed of a row without one."""
    seed = "-" if row.seed is None else row.seed
    return f"{row.track}:{row.entrant}:{seed}"


def _name_with_representation(row: Row) -> str:
    return row_name(replace(row, entrant=full_entrant(row.entrant, row.representation)))


def find_row(name: str, leaderboard: Path | None = None) -> tuple[Path, Inspected]:
    """Return the folder and the line of a row. RetrobenchError for an unknown name, and for one of several rows.

    The start of an id is searched in every folder. TRACK:ENTRANT:SEED names a row of the nearest folder: the user's
    own row comes before a shipped one, and a row of the track as it is before those of changed ones. The others are
    reached by their ids. Of an entrant that is read in several ways, TRACK:ENTRANT (REPRESENTATION):SEED names a row.
    """
    names: set[str] = set()
    matches: dict[str, tuple[Path, Inspected]] = {}
    nearest: Path | None = None
    for folder, lines in inspect_tracks("", leaderboard).items():
        for line in lines:
            if line.row is None:
                continue
            full_name = row_name(line.row)
            names.add(full_name)
            is_named = name in (full_name, _name_with_representation(line.row))
            if is_named and nearest is None:
                nearest = folder
            has_name = is_named and folder == nearest
            has_id = name != "" and line.row.id.startswith(name)
            if has_name or has_id:
                matches.setdefault(line.row.id, (folder, line))
    if not matches:
        raise unknown("row", name, names, "Or give the first 8 digits of its id: `retrobench verify` prints them.")
    if ":" in name:
        matches = _of_unchanged_tracks(matches) or matches
    if len(matches) > 1:
        raise _ambiguous(name, [line.row for _, line in matches.values()])
    return next(iter(matches.values()))


def _of_unchanged_tracks(matches: Mapping[str, tuple[Path, Inspected]]) -> dict[str, tuple[Path, Inspected]]:
    unchanged = {}
    for row_id, (folder, line) in matches.items():
        if line.row is not None and not line.row.overrides:
            unchanged[row_id] = (folder, line)
    return unchanged


def _ambiguous(name: str, rows: Iterable[Row | None]) -> RetrobenchError:
    choices = []
    for row in rows:
        if row is not None:
            choices.append(f"{row.id} ({_name_with_representation(row)}, {row.date})")
    return RetrobenchError(
        f"{len(choices)} rows are called {name!r}: {', '.join(choices)}. Give an id, or a name with the representation."
    )
