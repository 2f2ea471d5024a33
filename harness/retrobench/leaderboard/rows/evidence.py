"""
The files beside the rows of a track: everything that a row stands on and that is small enough to keep.

* keep_per_query, load_per_query   values by query, in `per_query/HASH.json.gz` and `queries/HASH.json.gz`
* per_query_loader                 the reader of the values by query of several rows
* keep_track, load_track           the resolved track, in `tracks/IDENTITY.toml`
* keep_plugin                      a plugin's source, in `plugins/HASH.py`, or `plugins/HASH/` with its neighbours
* kept_faults, missing_files       the kept files of a row that were changed, or that are not there
* kept_files                       the kept files of a row
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from retrobench.config import source_files
from retrobench.core import atomic_write, parse_json, processes, read_toml
from retrobench.errors import RetrobenchError, clip, quote
from retrobench.leaderboard.rows.row import Row

__all__ = [
    "Load",
    "PerQuery",
    "has_values",
    "keep_per_query",
    "keep_plugin",
    "keep_track",
    "kept_faults",
    "kept_files",
    "load_per_query",
    "load_track",
    "missing_files",
    "per_query_loader",
]

PerQuery = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Dataset id -> measure -> query id -> value, a fraction."""

DIGITS = 16  # of a file's hash in its name
QUERIES_FILE = re.compile(r"queries/[0-9a-f]+\.json\.gz")

# What reading a damaged file of values raises.
DAMAGE = (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError, OverflowError)


def keep_per_query(folder: Path, per_query: PerQuery) -> str:
    """Write the values by query beside the rows, and return their path relative to `folder`.

    Rows of one dataset share the file of its query ids, so a row's own file holds numbers alone.
    """
    document: dict[str, Any] = {}
    for dataset, measures in per_query.items():
        query_ids = sorted(next(iter(measures.values()), {}))
        values = {measure: [by_query[query_id] for query_id in query_ids] for measure, by_query in measures.items()}
        document[dataset] = {"queries": _keep(folder, "queries", query_ids), "measures": values}
    return _keep(folder, "per_query", document)


def _keep(folder: Path, kind: str, document: Any) -> str:
    """Write a document under the hash of its content, and return its path relative to `folder`."""
    content = json.dumps(document, allow_nan=False).encode()
    name = f"{kind}/{hashlib.sha256(content).hexdigest()[:DIGITS]}.json.gz"
    if not (folder / name).exists():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        atomic_write(folder / name, gzip.compress(content, mtime=0))  # equal values, equal bytes
    return name


Load = Callable[[Row], PerQuery]


def per_query_loader(folder: Path, rows: Iterable[Row]) -> Load | None:
    """Return the function that loads a row's values by query; None where a file of them is missing."""
    if all(has_values(folder, row) for row in rows):
        return partial(load_per_query, folder)
    return None


def has_values(folder: Path, row: Row) -> bool:
    """Tell whether the files of a row's values by query are there. Their content is not checked."""
    return all(file.is_file() for file in _value_files(folder, row))


def _value_files(folder: Path, row: Row) -> list[Path]:
    """Return the file of a row's values, and the files of query ids that it names where it can be read."""
    file = folder / row.per_query
    if not file.is_file():
        return [file]
    try:
        records = _load(file).values()
        return [file, *(_queries_file(folder, record["queries"]) for record in records)]
    except DAMAGE:
        return [file]  # reading it names the damage


def load_per_query(folder: Path, row: Row) -> PerQuery:
    """Return a row's values by dataset, measure and query. RetrobenchError for a missing or changed file."""
    per_query: dict[str, dict[str, dict[str, float]]] = {}
    try:
        for dataset, record in _load(folder / row.per_query).items():
            query_ids = _load(_queries_file(folder, record["queries"]))
            per_query[dataset] = {}
            for measure, values in record["measures"].items():
                per_query[dataset][measure] = _by_query(query_ids, values)
    except DAMAGE as error:
        raise RetrobenchError(
            f"Cannot read {folder / row.per_query}, values of {clip(row.entrant)}: {clip(error)}. "
            f"Restore it, or rerun: {clip(row.command)}"
        ) from error
    return per_query


def _by_query(query_ids: Any, values: Any) -> dict[str, float]:
    """Return values by query. ValueError for contents of another kind."""
    if set(map(type, query_ids)) != {str}:
        raise ValueError("it names no queries")
    if not set(map(type, values)) <= {int, float} or not all(map(math.isfinite, values)):
        raise ValueError("a value is no number")
    return dict(zip(query_ids, values, strict=True))


def _queries_file(folder: Path, name: str) -> Path:
    """Return the file of query ids. ValueError for a path to another place."""
    if not QUERIES_FILE.fullmatch(name):
        raise ValueError(f"{quote(name)} is no file of query ids")
    return folder / name


def _load(file: Path) -> Any:
    """Return the document in a file. ValueError where its content does not have the hash in its name."""
    content = gzip.decompress(file.read_bytes())
    digest = hashlib.sha256(content).hexdigest()[:DIGITS]
    if file.name != f"{digest}.json.gz":
        raise ValueError(f"{file.name} was changed since it was written")
    return parse_json(content, has_values=True)


def keep_track(folder: Path, identity: str, track: Mapping[str, Any]) -> str:
    """Write a resolved track beside the rows, and return the hash of its file.

    Its identity decides every byte, so a file that was changed is written anew.
    """
    import tomli_w

    content = tomli_w.dumps(track).encode()
    _write_once(_track_file(folder, identity), content)
    return _hash(content)


def load_track(folder: Path, identity: str) -> dict[str, Any] | None:
    """Return the resolved track of an identity, by section and key; None where it was not kept."""
    file = _track_file(folder, identity)
    return read_toml(file) if file.exists() else None


def keep_plugin(folder: Path, source: Path) -> str:
    """Copy a plugin beside the rows, and return the copy's path relative to `folder`.

    A file is copied to `plugins/HASH.py`. A package, or a file with the neighbours that it imports, is copied to
    `plugins/HASH/` under its own names, so that the copy can be run again.
    """
    contents = {name: file.read_bytes() for name, file in source_files(source).items()}
    if list(contents) == [source.name]:
        name = f"plugins/{_hash(contents[source.name])}.py"
        _write_once(folder / name, contents[source.name])
        return name
    home = f"plugins/{_hash_of_all(contents)}"
    for name, content in contents.items():
        _write_once(folder / home / name, content)
    return f"{home}/{source.name}"


def _hash_of_all(contents: Mapping[str, bytes]) -> str:
    """Return one hash of several files, by their paths."""
    hashes = {name: _hash(content) for name, content in sorted(contents.items())}
    return _hash(json.dumps(hashes).encode())


def kept_faults(folder: Path, row: Row) -> Iterator[str]:
    """Yield how the kept track and the kept plugin of a row differ from its hashes of them. Missing files agree."""
    track = _track_file(folder, row.identity)
    if track.exists() and _hash(track.read_bytes()) != row.track_toml:
        yield f"tracks/{track.name} was changed since it was written"
    plugin = _plugin_path(folder, row)
    if plugin is not None and plugin.exists() and _is_changed(plugin):
        yield f"{row.plugin['kept']} was changed since it was written"


def _is_changed(plugin: Path) -> bool:
    """Return whether a kept plugin, or a file beside it in a folder of its own, differs from the hash in its path."""
    home = plugin.parent
    if home.name == "plugins":
        return _hash(plugin.read_bytes()) != plugin.stem
    files = [file for file in home.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    contents = {file.relative_to(home).as_posix(): file.read_bytes() for file in files}
    return _hash_of_all(contents) != home.name


def missing_files(folder: Path, row: Row) -> list[str]:
    """Return the kept files of a row that are not there, relative to `folder`."""
    return [path.relative_to(folder).as_posix() for path in _kept_paths(folder, row) if not path.exists()]


def kept_files(folder: Path, row: Row) -> list[str]:
    """Return the kept files of a row that are there, relative to `folder`; every file of a plugin's folder."""
    files: list[Path] = []
    for path in _kept_paths(folder, row):
        home = path.parent if path.parent.parent.name == "plugins" else path
        files += home.rglob("*") if home.is_dir() else [path]
    names = [file.relative_to(folder).as_posix() for file in files if file.is_file()]
    return [name for name in dict.fromkeys(names) if "__pycache__" not in name]


def _kept_paths(folder: Path, row: Row) -> list[Path]:
    paths = [*_value_files(folder, row), _track_file(folder, row.identity)]
    plugin = _plugin_path(folder, row)
    return paths if plugin is None else [*paths, plugin]


def _plugin_path(folder: Path, row: Row) -> Path | None:
    """Return the kept file or package of a row's plugin; None for an installed plugin."""
    if "kept" not in row.plugin:
        return None
    return folder / row.plugin["kept"]


def _write_once(file: Path, content: bytes) -> None:
    """Write a file unless it has this content; of several processes rank 0 writes it."""
    if processes.leads() and not (file.exists() and file.read_bytes() == content):
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, content)


def _track_file(folder: Path, identity: str) -> Path:
    return folder / "tracks" / f"{identity}.toml"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]
