"""
A persistent cache: keys are arguments, entries are directories.

    artifact = store.ensure("tokenise", {"corpus": "beir/nfcorpus", "length": 128}, [], make)

An entry is `root/<stage>/<key>/`: what `make` wrote, and an `entry.json` that says what it was made of and
what every file hashes to. Existence means finished: work goes on in `<key>.partial` and is renamed last.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from retrobench.core import KEY_LENGTH, move, peak_memory, processes, retrobench_version, say, sync
from retrobench.errors import RetrobenchError
from retrobench.store.entries import Entry, Recipe, plain

__all__ = ["Artifact", "Source", "Store", "default_root"]

Make = Callable[[Path], Mapping[str, float] | None]


@dataclass(frozen=True)
class Source:
    """Files from outside the store, known by a hash of their content."""

    stage: str
    key: str
    path: Path


@dataclass(frozen=True)
class Artifact(Source):
    """A finished entry of the store.

    `cost` holds `seconds`, `peak_memory_bytes` and what `make` returned. `sources` are the arguments it was made of, so
    that everything behind a score is found by walking from it. `dataset` and `detail` say what it is of, for its role.
    """

    cached: bool
    cost: dict[str, float]
    sources: tuple[Source, ...] = ()
    dataset: str = ""
    detail: str = ""

    def __hash__(self) -> int:
        return hash((self.stage, self.key))


def default_root() -> Path:
    """Where the store lies unless told otherwise: `$RETROBENCH_HOME`, else `~/.cache/retrobench`."""
    return Path(os.environ.get("RETROBENCH_HOME") or "~/.cache/retrobench").expanduser()


class Store:
    """
    Finished stages under `root`, each made once and checked when first used.

    With `fresh`, entries older than this object are made again, once each. Raises RetrobenchError where
    `root` cannot be used.
    """

    def __init__(self, root: Path, fresh: bool = False) -> None:
        self.root = Path(root).expanduser().absolute()
        self.fresh = fresh
        self._began = time.time_ns()
        self._known: dict[Path, tuple[Artifact, str]] = {}  # made or checked by this object, and what to say
        self._open(self.root)

    def ensure(
        self,
        stage: str,
        settings: Mapping[str, Any],
        sources: Sequence[Source],
        make: Make,
        *,
        dataset: str = "",
        detail: str = "",
        code: str = "",
        resumes: bool = False,
        together: bool = False,
        label: str = "",
    ) -> Artifact:
        """
        The entry for these arguments, made by `make(folder)` unless it is there.

        `settings` are JSON values and paths, else TypeError. `make` writes into an empty folder, or with
        `resumes` into whatever an interrupted attempt left there. The floats it returns become part of the
        cost, among them `seconds` where a resumed stage knows its own total. Its exceptions pass through,
        but a full disk is a RetrobenchError. A second process asking for the same key waits for the first,
        unless the work is done `together`: then the processes of a team (`team`) all call `make` on one folder,
        and what the first of them returns counts.
        """
        origins = [f"{source.stage}/{source.key}" for source in sources]
        recipe = Recipe(stage, plain(settings, "settings"), origins, retrobench_version(), code)
        folder = self.root / stage / recipe.key
        label = label or stage
        self._open(folder.parent)
        if together and processes.size() > 1:
            artifact = self._together(folder, recipe, make, resumes, label)
        else:
            with self._disk(stage), _locked(folder, label):
                artifact = self._look_up(folder, recipe, resumes, label) or self._make(folder, recipe, make, resumes)
        return replace(artifact, sources=tuple(sources), dataset=dataset, detail=detail)

    def _look_up(self, folder: Path, recipe: Recipe, resumes: bool, label: str) -> Artifact | None:
        artifact, why = self._find(folder, recipe, resumes)
        say(f"{label}: {why}")
        return artifact

    def _together(self, folder: Path, recipe: Recipe, make: Make, resumes: bool, label: str) -> Artifact:
        """The first of a team decides, holds the lock and finishes the folder in which all work; the others read it."""
        made = None
        with _locked(folder, label) if processes.leads() else nullcontext():
            if processes.leads():
                made = self._look_up(folder, recipe, resumes, label)
            if not processes.agree(made is not None):

                def meeting(place: Path) -> Mapping[str, float] | None:
                    processes.meet()  # the folder is there
                    return make(place)

                if processes.leads():
                    made = self._make(folder, recipe, meeting, resumes)
                else:
                    meeting(_beside(folder, "partial"))
                processes.meet()
        found = made or self._find(folder, recipe, resumes)[0]
        assert found is not None, "the first process has just finished it"
        return found

    def _find(self, folder: Path, recipe: Recipe, resumes: bool) -> tuple[Artifact | None, str]:
        """The entry if it can be used, and the reason for what happens next. A damaged one is moved away."""
        short = recipe.key[:8]
        if not folder.exists():
            left = resumes and not self.fresh and any(_beside(folder, "partial").glob("*"))
            return None, "resuming, an earlier run was cut short" if left else self._reason(recipe)
        if folder not in self._known:
            # A younger one was made by another process after this run began, which is as fresh as asked for.
            if self.fresh and folder.stat().st_mtime_ns < self._began:
                return None, f"made afresh, in place of {short}"
            entry = Entry.read(folder)
            fault = entry.fault(folder, recipe) if entry else "entry.json is missing or broken"
            if fault or entry is None:
                _set_aside(folder)
                return None, f"{short} is damaged and is made again ({fault})"
            made = Artifact(recipe.stage, recipe.key, folder, True, entry.cost)
            self._known[folder] = made, f"same settings and sources, {entry.made}"
        artifact, why = self._known[folder]
        return artifact, f"cached {short} ({why})"

    def _reason(self, recipe: Recipe) -> str:
        """Why there is no entry: the first thing in which the stage's nearest entry differs."""
        folders = [p for p in (self.root / recipe.stage).iterdir() if len(p.name) == KEY_LENGTH]
        wanted, differences = recipe.ingredients(), []
        for other in filter(None, map(Entry.read, folders)):
            has = other.recipe.ingredients()
            names = [name for name in wanted | has if wanted.get(name) != has.get(name)]
            if names:
                differences.append((-len(names), other.date, names[0], has.get(names[0], "none")))
        if not differences:
            return "new (first time)"
        _, _, name, value = max(differences)
        return f"new ({name} {_short(wanted.get(name, 'none'))}, nearest cached has {_short(value)})"

    def _make(self, folder: Path, recipe: Recipe, make: Make, resumes: bool) -> Artifact:
        partial = _beside(folder, "partial")
        if self.fresh or not resumes:
            _remove(partial)
        partial.mkdir(exist_ok=True)
        began = time.perf_counter()
        try:
            with self._disk(recipe.stage):  # here, because removing the partial frees the space it reports
                measured = {name: float(value) for name, value in (make(partial) or {}).items()}
                cost = {"seconds": time.perf_counter() - began, "peak_memory_bytes": peak_memory()}
                # JSON has no word for a rate that is not a number, and a rate is no reason to lose the work.
                cost |= {name: value for name, value in measured.items() if math.isfinite(value)}
                _finish(partial, recipe, cost)
        except BaseException:
            if not resumes:
                _remove(partial)
            raise
        _set_aside(folder)  # a folder cannot be renamed over a full one
        move(partial, folder)
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


def _finish(partial: Path, recipe: Recipe, cost: dict[str, float]) -> None:
    """Write what the folder holds into its `entry.json`, and all of it to the disk."""
    Entry.of(partial, recipe, cost).write(partial)
    # Else a power cut could keep the rename that says "finished" and lose the bytes it speaks of.
    sync(partial)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}.{suffix}")


def _set_aside(folder: Path) -> None:
    if folder.exists():
        _remove(_beside(folder, "old"))
        move(folder, _beside(folder, "old"))


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _is_full(error: Exception, free: int) -> bool:
    """safetensors gives only the text; NumPy and torch say neither, but leave no block on the disk."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    told = os.strerror(errno.ENOSPC) in str(error)
    return told or (isinstance(error, OSError | RuntimeError) and free < 65536)
