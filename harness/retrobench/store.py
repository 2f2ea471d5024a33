"""
A persistent cache: keys are arguments, entries are directories.

    artifact = store.ensure("tokenise", {"corpus": "beir/nfcorpus", "length": 128}, [], make)

An entry is `root/<stage>/<key>/`: what `make` wrote, and an `entry.json` that says what it was made of and
what every file hashes to. Existence means finished: work goes on in `<key>.partial` and is renamed last.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from retrobench.errors import RetrobenchError
from retrobench.progress import duration, say

__all__ = ["Artifact", "Store", "default_root", "retrobench_version", "tree_hash"]

KEY_LENGTH = 20  # hexadecimal digits: 80 bits, no collision within any store a disk can hold

Make = Callable[[Path], Mapping[str, float] | None]


@dataclass(frozen=True)
class Artifact:
    """A finished entry. `cost` holds `seconds`, `peak_memory_bytes` and what `make` returned."""

    stage: str
    key: str
    path: Path
    cached: bool
    cost: dict[str, float]


def default_root() -> Path:
    """Where the store lies unless told otherwise: `$RETROBENCH_HOME`, else `~/.cache/retrobench`."""
    return Path(os.environ.get("RETROBENCH_HOME") or "~/.cache/retrobench").expanduser()


def retrobench_version() -> str:
    """The installed version, or `uninstalled` where the source is merely on the path."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("retrobench")
    except PackageNotFoundError:
        return "uninstalled"


def tree_hash(paths: Iterable[Path]) -> str:
    """A key for source code: the names and bytes of files, and of the Python files beneath folders."""
    digest = hashlib.sha256()
    for path in sorted(Path(p) for p in paths):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            name = file.relative_to(path if path.is_dir() else path.parent).as_posix()
            content = file.read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:KEY_LENGTH]


class Store:
    """
    Finished stages under `root`, each made once and checked when first used.

    With `fresh`, entries older than this object are made again, once each. Raises RetrobenchError where
    `root` cannot be used.
    """

    def __init__(self, root: Path, fresh: bool = False) -> None:
        self.root = Path(root).expanduser().absolute()
        self.fresh = fresh
        self.used: list[Artifact] = []  # what `ensure` gave, in order; emptied by whoever reads it
        self._began = time.time_ns()
        self._known: dict[Path, tuple[Artifact, str]] = {}  # made or checked by this object, and what to say
        self._open(self.root)

    def ensure(
        self,
        stage: str,
        settings: Mapping[str, Any],
        sources: Sequence[Artifact],
        make: Make,
        *,
        code: str = "",
        resumes: bool = False,
        label: str = "",
    ) -> Artifact:
        """
        The entry for these arguments, made by `make(folder)` unless it is there.

        `settings` are JSON values and paths, else TypeError. `make` writes into an empty folder, or with
        `resumes` into whatever an interrupted attempt left there. The floats it returns become part of the
        cost, among them `seconds` where a resumed stage knows its own total. Its exceptions pass through,
        but a full disk is a RetrobenchError. A second process asking for the same key waits for the first.
        """
        origins = [f"{source.stage}/{source.key}" for source in sources]
        recipe = _Recipe(stage, _plain(settings, "settings"), origins, retrobench_version(), code)
        folder = self.root / stage / recipe.key
        label = label or stage
        self._open(folder.parent)
        with self._disk(stage), _locked(folder, label):
            found, why = self._find(folder, recipe, resumes)
            if found not in self.used:  # what one experiment reads several times is told of once
                say(f"{label}: {why}")
            self.used.append(found or self._make(folder, recipe, make, resumes))
            return self.used[-1]

    def _find(self, folder: Path, recipe: _Recipe, resumes: bool) -> tuple[Artifact | None, str]:
        """The entry if it can be used, and the reason for what happens next. A damaged one is moved away."""
        short = recipe.key[:8]
        if not folder.exists():
            left = resumes and not self.fresh and any(_beside(folder, "partial").glob("*"))
            return None, "resuming, an earlier run was cut short" if left else self._reason(recipe)
        if folder not in self._known:
            # A younger one was made by another process after this run began, which is as fresh as asked for.
            if self.fresh and folder.stat().st_mtime_ns < self._began:
                return None, f"made afresh, in place of {short}"
            entry = _Entry.read(folder)
            fault = entry.fault(folder, recipe) if entry else "entry.json is missing or broken"
            if fault or entry is None:
                _set_aside(folder)
                return None, f"{short} is damaged and is made again ({fault})"
            made = Artifact(recipe.stage, recipe.key, folder, True, entry.cost)
            self._known[folder] = made, f"same settings and sources, {entry.made}"
        artifact, why = self._known[folder]
        return artifact, f"cached {short} ({why})"

    def _reason(self, recipe: _Recipe) -> str:
        """Why there is no entry: the first thing in which the stage's nearest entry differs."""
        folders = [p for p in (self.root / recipe.stage).iterdir() if len(p.name) == KEY_LENGTH]
        wanted, differences = recipe.ingredients(), []
        for other in filter(None, map(_Entry.read, folders)):
            has = other.recipe.ingredients()
            names = [name for name in wanted | has if wanted.get(name) != has.get(name)]
            if names:
                differences.append((-len(names), other.date, names[0], has.get(names[0], "none")))
        if not differences:
            return "new (first time)"
        _, _, name, value = max(differences)
        return f"new ({name} {_short(wanted.get(name, 'none'))}, nearest cached has {_short(value)})"

    def _make(self, folder: Path, recipe: _Recipe, make: Make, resumes: bool) -> Artifact:
        partial = _beside(folder, "partial")
        if self.fresh or not resumes:
            _remove(partial)
        partial.mkdir(exist_ok=True)
        began = time.perf_counter()
        try:
            with self._disk(recipe.stage):  # here, because removing the partial frees the space it reports
                measured = {name: float(value) for name, value in (make(partial) or {}).items()}
                cost = {"seconds": time.perf_counter() - began, "peak_memory_bytes": _peak_memory()}
                # JSON has no word for a rate that is not a number, and a rate is no reason to lose the work.
                cost |= {name: value for name, value in measured.items() if math.isfinite(value)}
                _finish(partial, recipe, cost)
        except BaseException:
            if not resumes:
                _remove(partial)
            raise
        _set_aside(folder)  # a folder cannot be renamed over a full one
        os.rename(partial, folder)
        _sync(folder.parent)
        _remove(_beside(folder, "old"))
        self._known[folder] = Artifact(recipe.stage, recipe.key, folder, True, cost), "made in this run"
        return Artifact(recipe.stage, recipe.key, folder, False, cost)

    def _open(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=folder).close()  # permission bits say nothing of a read-only disk
        except OSError as error:
            reason = "it is a file" if os.path.isfile(folder) else error.strerror
            raise RetrobenchError(
                f"The store {folder} cannot be used: {reason}. "
                "Name a folder that can be written with --store DIR, or set RETROBENCH_HOME."
            ) from error

    @contextmanager
    def _disk(self, stage: str) -> Iterator[None]:
        """Turn the many faces of a full disk into one line."""
        try:
            yield
        except Exception as error:
            free = shutil.disk_usage(self.root).free
            if isinstance(error, RetrobenchError) or not _is_full(error, free):
                raise
            raise RetrobenchError(
                f"The disk is full: {stage} could not write to the store {self.root}, "
                f"where {free:,} bytes are free ({str(error)[:200]}). "
                "Free space there and run the same command again, or name another disk with --store DIR."
            ) from error


@dataclass(frozen=True)
class _Recipe:
    """Everything a key is made of. `sources` are `stage/key`, which is also where they lie under the root."""

    stage: str
    settings: dict[str, Any]
    sources: list[str]
    version: str
    code: str

    @property
    def key(self) -> str:
        return _digest(asdict(self))[:KEY_LENGTH]

    def ingredients(self) -> dict[str, str]:
        """Name to text, in the order in which a difference is worth telling."""
        flat = {name: json.dumps(value) for name, value in _flat(self.settings)}
        flat |= {"retrobench": self.version, "code": self.code or "none"}
        return flat | {f"source {n}": source[: 8 - KEY_LENGTH] for n, source in enumerate(self.sources, 1)}


@dataclass(frozen=True)
class _File:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class _Entry:
    """What `entry.json` says, where the recipe's fields lie beside the others, under a seal: its own hash."""

    recipe: _Recipe
    files: dict[str, _File]
    cost: dict[str, float]
    date: str  # ISO 8601, UTC

    @classmethod
    def read(cls, folder: Path) -> _Entry | None:
        """None where there is none, or none that can be read."""
        try:
            found = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
            if found.pop("seal") != _digest(found):
                return None
            about = [found[name] for name in ("stage", "settings", "sources", "version", "code")]
            files = {name: _File(**file) for name, file in found["files"].items()}
            return cls(_Recipe(*about), files, found["cost"], found["date"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def write(self, folder: Path) -> None:
        rest = {name: value for name, value in asdict(self).items() if name != "recipe"}
        document = {"key": self.recipe.key, **asdict(self.recipe), **rest}
        document["seal"] = _digest(document)
        (folder / "entry.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    @property
    def made(self) -> str:
        day = datetime.fromisoformat(self.date).astimezone()
        return f"made {day:%Y-%m-%d %H:%M} in {duration(self.cost['seconds'])}"

    def fault(self, folder: Path, recipe: _Recipe) -> str:
        """The first thing that is not as it was written; empty if all is."""
        if self.recipe != recipe:
            return "entry.json describes another entry"
        there = _files(folder)
        for name, file in self.files.items():
            if name not in there:
                return f"{name} is missing"
            if (size := there[name].stat().st_size) != file.bytes:
                return f"{name} has {size:,} bytes where {file.bytes:,} were written"
            if _sha256(there[name]) != file.sha256:
                return f"{name} does not match its checksum"
        # An added file can change what a folder loads as (other weights); a desktop's dot file cannot.
        added = [name for name in there if name not in self.files and not Path(name).name.startswith(".")]
        return f"{added[0]} was added" if added else ""


def _digest(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _plain(value: Any, where: str) -> Any:
    """`value` as JSON has it; TypeError names the setting whose text might not be the same tomorrow."""
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(inner, f"{where}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{where}[{n}]") for n, inner in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{where} is of {type(value)}, which has no fixed JSON form")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}"


@contextmanager
def _locked(folder: Path, label: str) -> Iterator[None]:
    from filelock import FileLock, Timeout  # the kernel drops the lock with its process, whatever ends it

    lock = FileLock(_beside(folder, "lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{label}: waits for another process that is making {folder.name[:8]}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _finish(partial: Path, recipe: _Recipe, cost: dict[str, float]) -> None:
    """Write what the folder holds into its `entry.json`, and all of it to the disk."""
    files = _files(partial)
    marks = {name: _File(_sha256(path), path.stat().st_size) for name, path in files.items()}
    _Entry(recipe, marks, cost, datetime.now(UTC).isoformat(timespec="seconds")).write(partial)
    # Else a power cut could keep the rename that says "finished" and lose the bytes it speaks of.
    for path in [*partial.rglob("*"), partial]:
        _sync(path)


def _files(folder: Path) -> dict[str, Path]:
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    found.pop("entry.json", None)
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}.{suffix}")


def _set_aside(folder: Path) -> None:
    if folder.exists():
        _remove(_beside(folder, "old"))
        os.rename(folder, _beside(folder, "old"))


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _is_full(error: Exception, free: int) -> bool:
    """safetensors gives only the text; NumPy and torch say neither, but leave no block on the disk."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    told = os.strerror(errno.ENOSPC) in str(error)
    return told or (isinstance(error, OSError | RuntimeError) and free < 65536)


def _peak_memory() -> float:
    """The most memory this process has held so far, in bytes."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
