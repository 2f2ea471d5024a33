"""
The sources of objectives, not imported yet: installed distributions, and files and folders given by `--plugin`.

* Plugin              a source of objectives
* installed_plugins   the entry points of the group `retrobench`
* plugins_at          the plugins in files and folders
* explain             an exception of a plugin as one line, with file and line number
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import cast

from retrobench.config.fingerprint import fingerprint
from retrobench.config.neighbours import load_plugin, module_prefix
from retrobench.errors import RetrobenchError

__all__ = ["Plugin", "explain", "installed_plugins", "plugins_at"]


@dataclass(frozen=True)
class Plugin:
    """A source of objectives that has not been imported yet."""

    name: str  # the entry point's, or the file's stem
    distribution: str  # the path as given for a `--plugin`
    version: str
    module: str  # the first part of the names of its modules
    load: Callable[[], object]
    code: Callable[[], str]  # a hash of its source
    file: Path | None = None  # of a `--plugin`: a module, or a package's folder


def installed_plugins() -> Iterator[Plugin]:
    """Yield a plugin for each entry point of the group `retrobench`."""
    for point in entry_points(group="retrobench"):
        distribution = cast(Distribution, point.dist)
        name, version = _release(distribution)
        code = partial(_code, point, distribution)
        yield Plugin(point.name, name, version, _top_name(point), point.load, code)


def _top_name(point: EntryPoint) -> str:
    return point.module.partition(".")[0]


def _release(distribution: Distribution) -> tuple[str, str]:
    """Return a distribution's name and version, "unknown" where its metadata cannot be read."""
    try:
        return distribution.name or "unknown", distribution.version or "unknown"
    except Exception:  # metadata may be damaged in more ways than importlib names
        return "unknown", "unknown"


def _code(point: EntryPoint, distribution: Distribution) -> str:
    """Return a hash of the plugin's source: a version may stay while the source changes."""
    source = _source_path(sys.modules[_top_name(point)])
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable", False):
        return fingerprint(source)
    # An installed module stands among other distributions, which do not count. Nor does retrobench,
    # whose version counts.
    names = {file.parts[0].removesuffix(".py") for file in distribution.files or ()}
    return fingerprint(source, names - {"retrobench"})


def _source_path(module: ModuleType) -> Path:
    """Return a package's folder, or a module's file."""
    for folder in getattr(module, "__path__", ()):
        return Path(folder)
    return Path(cast(str, module.__file__))


def plugins_at(paths: Sequence[Path]) -> Iterator[Plugin]:
    """Yield the plugins in files and folders, each once.

    A folder with `__init__.py` is a package and one plugin. Another folder has a plugin in every `.py` file directly in
    it that names `hookimpl`; its other files are their neighbours, tests or scripts.

    Raises RetrobenchError for a path that is neither a folder with a plugin nor a `.py` file.
    """
    sources: dict[Path, Path] = {}  # as given on the command line, by resolved path
    for path in paths:
        for source in _sources(path):
            sources.setdefault(source.resolve(), source)
    for file, path in sources.items():
        load, code = partial(load_plugin, file), partial(fingerprint, file)
        yield Plugin(file.stem, str(path), "", module_prefix(file), load, code, file)


def _sources(path: Path) -> list[Path]:
    """Return the plugins' files of a folder, or the path itself for a package or a file."""
    if path.is_file() and path.suffix == ".py":
        return [path]
    if (path / "__init__.py").is_file():
        return [path]
    if not path.is_dir():
        raise RetrobenchError(f"Plugin {str(path)!r} is missing or no .py file. Give --plugin a file or a folder.")
    files = [file for file in sorted(path.glob("*.py")) if b"hookimpl" in file.read_bytes()]
    if not files:
        raise RetrobenchError(
            f"Plugin folder {str(path)!r} has no .py file with a function marked @retrobench.hookimpl. Give another."
        )
    return files


def explain(error: BaseException, plugin: Plugin) -> str:
    """Return an exception as one line. A Python error names the plugin's file and line where it happened."""
    if isinstance(error, RetrobenchError):
        return str(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    line = f"{type(error).__name__}: {' '.join(text.split())}"
    location = _location(error, plugin)
    return f"{line} ({location})" if location else line


def _location(error: BaseException, plugin: Plugin) -> str:
    """Return the file and line of a syntax error, or of the last call in the plugin; empty without either."""
    if isinstance(error, SyntaxError) and error.filename:
        return _file_and_line(error.filename, error.lineno)
    location = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == plugin.module:
            location = _file_and_line(frame.f_code.co_filename, line)
    return location


def _file_and_line(filename: str, line: int | None) -> str:
    file = Path(filename)
    name = file.name
    if name == "__init__.py":
        name = f"{file.parent.name}/{name}"
    return f"{name}, line {line}"
