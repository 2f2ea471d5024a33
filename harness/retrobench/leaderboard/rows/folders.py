"""Folders of tracks: where a track is looked up, where its rows go, and how its TOML files are read."""

from __future__ import annotations

import os
from pathlib import Path

from retrobench.errors import RetrobenchError, unknown

__all__ = [
    "check_writable",
    "folders_with_rows",
    "locate",
    "nearest_files",
    "rows_folder",
    "track_folders",
    "track_name",
]

PACKAGE = Path(__file__).resolve().parents[2]  # harness/retrobench, or retrobench where it is installed


def track_folders(leaderboard: Path | None = None) -> list[Path]:
    """Return the existing folders of tracks: `leaderboard`, ./leaderboards, the package's, the checkout's."""
    folders = [Path("leaderboards"), PACKAGE / "leaderboards"]
    if leaderboard is not None:
        folders.insert(0, leaderboard)
    if PACKAGE.parent.name == "harness":
        folders.append(PACKAGE.parent.parent / "leaderboards")
    return [folder for folder in folders if folder.is_dir()]


def nearest_files(name: str, leaderboard: Path | None = None) -> dict[str, Path]:
    """Return track -> its file called `name`, from the first of the folders of tracks that has the file."""
    files: dict[str, Path] = {}
    for folder in track_folders(leaderboard):
        for file in folder.glob(f"*/{name}"):
            files.setdefault(file.parent.name, file)
    return files


def folders_with_rows(leaderboard: Path | None = None) -> dict[str, list[Path]]:
    """Return track -> every folder with rows of it, the nearest first and each once: a user's, then the shipped."""
    folders: dict[str, dict[Path, Path]] = {}
    for parent in track_folders(leaderboard):
        for file in sorted(parent.glob("*/rows.jsonl")):
            same_track = folders.setdefault(file.parent.name, {})
            same_track.setdefault(file.parent.resolve(), file.parent)
    return {track: list(same_track.values()) for track, same_track in folders.items()}


def locate(track: str, leaderboard: Path | None = None) -> Path:
    """Return the TOML file of a track, given by its name or as a path that ends in `.toml`."""
    if track.endswith(".toml"):
        file = Path(track).expanduser()
        if not file.is_file():
            raise RetrobenchError(
                f"No track file {str(file)!r}. Name a .toml file that exists, or a track by its name."
            )
        return file
    files = nearest_files("track.toml", leaderboard)
    if track not in files:
        raise unknown("track", track, files, "--leaderboard DIR adds another folder of tracks.")
    return files[track]


def track_name(file: Path) -> str:
    """Return the name of the track in `file`: its folder's for `NAME/track.toml`, else the file's own."""
    if file.name == "track.toml":
        return file.resolve().parent.name
    return file.stem


def rows_folder(name: str, leaderboard: Path | None = None) -> Path:
    """Return the folder for the rows of track `name`: under `leaderboard`, or under ./leaderboards without it.

    The folder is made with its first row.
    """
    return (leaderboard or Path("leaderboards")) / name


def check_writable(folder: Path) -> None:
    """Check that rows can be appended in `folder`, which may not exist yet. RetrobenchError names the obstacle."""
    file = folder / "rows.jsonl"
    for path in (file, folder, *folder.resolve().parents):
        if not path.exists():
            continue
        of_its_kind = path.is_dir()
        if path == file:
            of_its_kind = path.is_file()
        if not of_its_kind or not os.access(path, os.W_OK):
            raise RetrobenchError(f"Cannot write rows to {path}. Mend it, or give another --leaderboard DIR.")
        if path != file:
            return
