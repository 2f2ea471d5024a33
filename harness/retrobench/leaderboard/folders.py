"""Where tracks are looked up, and where their rows go."""

from __future__ import annotations

from pathlib import Path

from retrobench.errors import RetrobenchError, unknown

__all__ = ["locate", "places", "rows_folder", "track_name"]


def places(leaderboard: Path | None = None) -> list[Path]:
    """The folders of tracks that exist: `leaderboard`, ./leaderboards, the package's, the checkout's."""
    package = Path(__file__).resolve().parents[1]
    folders = [leaderboard, Path("leaderboards"), package / "leaderboards"]
    if package.parent.name == "harness":
        folders.append(package.parent.parent / "leaderboards")
    return [folder for folder in folders if folder is not None and folder.is_dir()]


def locate(track: str, leaderboard: Path | None = None) -> Path:
    """The TOML file of a track, by its name or as a path that ends in `.toml`."""
    if track.endswith(".toml"):
        file = Path(track).expanduser()
        if not file.is_file():
            raise RetrobenchError(
                f"No track file {str(file)!r}. Name a .toml file that exists, or a track by its name."
            )
        return file
    found = {file.parent.name: file for place in reversed(places(leaderboard)) for file in place.glob("*/track.toml")}
    if track not in found:
        raise unknown("track", track, found, "Other folders of tracks are given by --leaderboard DIR.")
    return found[track]


def track_name(file: Path) -> str:
    """The name of the track in `file`: its folder's for `NAME/track.toml`, else the file's own."""
    return file.resolve().parent.name if file.name == "track.toml" else file.stem


def rows_folder(name: str, leaderboard: Path | None = None) -> Path:
    """The folder that rows of track `name` go to: under `leaderboard` if given, else under ./leaderboards.

    Nothing is made before the first row is there.
    """
    return (leaderboard or Path("leaderboards")) / name
