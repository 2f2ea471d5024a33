"""
A persistent cache: keys are arguments, entries are directories.

    artifact = store.ensure("tokenise", {"corpus": "beir/nfcorpus", "length": 128}, [], make)

An entry is `root/<stage>/<key>/`. It holds the files that `make` wrote, and an `entry.json` with the recipe and the
files' hashes. Existence means finished: `make` works in `<key>.partial`, which is renamed last. The checkpoints of a
training are no part of its entry. They are removed behind the rename, or the last one is kept as `<key>.checkpoint`.
"""

from __future__ import annotations

import contextlib
import math
import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from retrobench.core import (
    EnergyMeter,
    describe_limit,
    move,
    peak_memory,
    processes,
    release_freed_memory,
    retrobench_version,
    say,
)
from retrobench.errors import RetrobenchError
from retrobench.store.entries import Entry, Recipe, read_entries, to_json_values
from retrobench.store.folders import beside, finish, free_bytes, remove_path, set_aside, settle_checkpoints
from retrobench.store.locks import locked

__all__ = ["Artifact", "Source", "Store", "default_root"]

LEAST_FREE = 65536  # bytes of a disk that is not full
NEW = "new"  # begins the reason for an entry that nobody has made yet

Make = Callable[[Path], Mapping[str, float] | None]


@dataclass(frozen=True)
class Source:
    """Files from outside the store, with a hash of their content as the key."""

    stage: str
    key: str
    path: Path


@dataclass(frozen=True)
class Artifact(Source):
    """A finished entry of the store.

    `cost` holds `seconds`, `peak_memory_bytes` and the numbers that `make` returned. `sources` are the arguments of
    `ensure`, so walking them from a score finds every artifact behind it. `dataset` and `detail` name its role.
    """

    cached: bool
    cost: dict[str, float]
    sources: tuple[Source, ...] = ()
    dataset: str = ""
    detail: str = ""

    def __hash__(self) -> int:
        return hash((self.stage, self.key))


def default_root() -> Path:
    """Return the store's default folder: `$RETROBENCH_HOME`, else `~/.cache/retrobench`."""
    return Path(os.environ.get("RETROBENCH_HOME") or "~/.cache/retrobench").expanduser()


Watch = Callable[[Callable[[], Artifact]], Artifact]  # calls a stage, as `operator.call` does, and returns its artifact


class Store:
    """
    Finished stages under `root`. Each is made once, and verified when first used.

    With `fresh`, entries older than this object are made again, once each. Without `checkpoints`, no stage keeps its
    last one. `watch` calls each stage, and a `meter` adds the energy to its cost. Raises RetrobenchError where `root`
    cannot be used.
    """

    def __init__(self, root: Path, fresh: bool = False, checkpoints: bool = True) -> None:
        self.root = Path(root).expanduser().absolute()
        self.fresh = fresh
        self.checkpoints = checkpoints
        self.watch: Watch = operator.call
        self.meter: EnergyMeter | None = None
        self._start = time.time_ns()
        self._verified: dict[Path, tuple[Artifact, str]] = {}  # with their history, for messages
        self._is_writable(self.root)

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
        keeps: bool = False,
        label: str = "",
    ) -> Artifact:
        """
        Return the entry for these arguments. `make(folder)` makes it if it does not exist.

        `settings` are JSON values and paths, else TypeError. `make` writes into an empty folder; with `resumes` the
        folder holds the files of an interrupted attempt. Its returned floats become part of the cost. A resumed stage
        returns its total `seconds`. Exceptions of `make` pass through, but a full disk is a RetrobenchError. With
        `keeps`, the last checkpoint stays beside the entry, unless the store keeps none.

        A second process that needs the key waits for the first. With `together`, all processes of an experiment call
        `make` on one folder, and the returned floats of rank 0 count.
        """
        origins = [f"{source.stage}/{source.key}" for source in sources]
        json_settings = to_json_values(settings, "settings")
        recipe = Recipe(stage, json_settings, origins, retrobench_version(), code)
        folder = self.root / stage / recipe.key
        call = _Call(folder, recipe, make, resumes, keeps and self.checkpoints, label or stage)
        ensure = self._ensure_alone
        if not self._is_writable(call.folder.parent):
            ensure = self._read
        elif together and processes.size() > 1:
            ensure = self._ensure_together
        artifact = self.watch(partial(ensure, call))
        return replace(artifact, sources=tuple(sources), dataset=dataset, detail=detail)

    def _ensure_alone(self, call: _Call) -> Artifact:
        with self._disk(call.recipe.stage), _locked(call):
            return self._look_up(call) or self._make(call)

    def _ensure_together(self, call: _Call) -> Artifact:
        """Rank 0 decides, holds the lock and finishes the folder. All ranks work in the folder and read the entry."""
        call = replace(call, make=_meet_before(call.make))
        if processes.leads():
            with _locked(call):
                entry = self._look_up(call)
                if not processes.agree(entry is not None):
                    entry = self._make(call)
                    processes.meet()
        else:
            if not processes.agree(False):  # rank 0's decision counts
                call.make(call.partial)
                processes.meet()
            entry, _ = self._find(call)
        assert entry is not None, "rank 0 has just finished it"
        return entry

    def _look_up(self, call: _Call) -> Artifact | None:
        """Return the usable entry or None, and print the reason: repairs always, the others only where asked for."""
        if self._is_complete(call):
            say("", f"{call.label}: complete, an earlier run was cut short before its last rename")
            move(call.partial, call.folder)
        entry, message = self._find(call)
        explained = f"{call.label}: {message}"
        if entry is not None:
            settle_checkpoints(call.folder, call.keeps)
        if entry is not None or message.startswith(NEW):
            say("", explained)
        else:
            say(explained)
        return entry

    def _is_complete(self, call: _Call) -> bool:
        """Tell whether an earlier run was cut short between the writing of the entry and the final rename."""
        if self.fresh or call.folder.exists():
            return False
        entry = Entry.read(call.partial)
        return entry is not None and not entry.fault(call.partial, call.recipe)

    def _find(self, call: _Call) -> tuple[Artifact | None, str]:
        """Return the usable entry or None, and a message. Set a damaged entry aside."""
        if not call.folder.exists():
            if call.resumes and not self.fresh and any(call.partial.glob("*")):
                return None, "resuming, an earlier run was cut short"
            return None, self._difference(call.recipe)
        if call.folder not in self._verified:
            fault = self._verify(call)
            if fault:
                return None, fault
        entry, history = self._verified[call.folder]
        return entry, f"cached {call.short} ({history})"

    def _verify(self, call: _Call) -> str:
        """Verify an entry on first use. Return the reason to make it again, or an empty text."""
        # Another process made a younger entry after this run began. That entry is fresh.
        if self.fresh and call.folder.stat().st_mtime_ns < self._start:
            return f"made afresh, in place of {call.short}"
        entry = Entry.read(call.folder)
        fault = "entry.json is missing or broken"
        if entry is not None:
            fault = entry.fault(call.folder, call.recipe)
        if entry is None or fault:
            set_aside(call.folder)
            return f"{call.short} is damaged and is made again ({fault})"
        artifact = call.artifact(True, entry.cost)
        self._verified[call.folder] = artifact, f"same settings and sources, {entry.history}"
        return ""

    def _difference(self, recipe: Recipe) -> str:
        """Return the reason for new work: the first difference from the stage's nearest entry."""
        ingredients = recipe.ingredients()
        differences = []
        for _, entry in read_entries(self.root / recipe.stage):
            cached = entry.recipe.ingredients()
            names = [name for name in ingredients | cached if ingredients.get(name) != cached.get(name)]
            if names:
                first_name = names[0]
                cached_text = cached.get(first_name, "none")
                differences.append((-len(names), entry.date, first_name, cached_text))
        if not differences:
            return f"{NEW} (first time)"
        _, _, name, cached_text = max(differences)
        text = ingredients.get(name, "none")
        return f"{NEW} ({name} {_short(text)}, nearest cached has {_short(cached_text)})"

    def _make(self, call: _Call) -> Artifact:
        if call.partial.is_symlink():
            raise RetrobenchError(f"{call.partial} is a link, and work is written to no other place. Remove the link.")
        if self.fresh or not call.resumes:
            remove_path(call.partial)
        call.partial.mkdir(exist_ok=True)
        for name in ("entry.json", "entry.json.partial"):  # of an earlier run, which was cut short or damaged
            (call.partial / name).unlink(missing_ok=True)
        meter = self.meter
        if any(call.partial.iterdir()):  # nobody measured the interrupted attempt
            meter = None
        try:
            with self._disk(call.recipe.stage):  # inside: removing the partial frees the space that the error reports
                cost = _run(call, meter)
                finish(call.partial, call.recipe, cost)
        except BaseException:
            if not call.resumes:
                remove_path(call.partial)
            raise
        set_aside(call.folder)  # a folder cannot be renamed over a full one
        move(call.partial, call.folder)
        remove_path(beside(call.folder, "old"))
        settle_checkpoints(call.folder, call.keeps)
        release_freed_memory()  # a stage has little use for the memory of the stage before it
        self._verified[call.folder] = call.artifact(True, cost), "made in this run"
        return call.artifact(False, cost)

    def _read(self, call: _Call) -> Artifact:
        """Return a finished entry of a store that cannot be written. RetrobenchError where there is none."""
        entry = Entry.read(call.folder)
        if entry is None or self.fresh:
            self._open(call.folder.parent)
            raise RetrobenchError(f"The store {self.root} cannot be written, and lacks {call.label}.")
        fault = entry.fault(call.folder, call.recipe)
        if fault:
            raise RetrobenchError(
                f"{call.folder} is damaged ({fault}), and the store cannot be written. Name another with --store DIR."
            )
        say(f"{call.label}: cached", f"{call.label}: cached {call.short} (read-only store)")
        return call.artifact(True, entry.cost)

    def _is_writable(self, folder: Path) -> bool:
        """Tell whether a folder can be written. RetrobenchError where it cannot, and is not there to be read."""
        try:
            self._open(folder)
        except RetrobenchError:
            if not folder.is_dir():
                raise
            return False
        return True

    def _open(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=folder).close()  # permission bits do not show a read-only disk
        except OSError as error:
            reason = "it is a file" if os.path.isfile(folder) else error.strerror
            raise RetrobenchError(
                f"The store {folder} cannot be used: {reason}. "
                "Name a folder that can be written with --store DIR, or set RETROBENCH_HOME."
            ) from error

    @contextmanager
    def _disk(self, stage: str) -> Iterator[None]:
        """Turn the exceptions of a full disk into one line."""
        try:
            yield
        except Exception as error:
            free = free_bytes(self.root)
            limit = describe_limit(error)
            if limit is None and isinstance(error, OSError | RuntimeError) and free < LEAST_FREE:
                limit = "The disk is full", "Free space there"  # NumPy and torch give no reason
            if isinstance(error, RetrobenchError) or limit is None:
                raise
            raise RetrobenchError(
                f"{limit[0]}: {stage} could not write to the store {self.root}, "
                f"where {free:,} bytes are free ({str(error)[:200]}). "
                f"{limit[1]} and run the same command again, or name another disk with --store DIR."
            ) from error


@dataclass(frozen=True)
class _Call:
    """One call of `ensure`."""

    folder: Path  # of the finished entry
    recipe: Recipe
    make: Make
    resumes: bool
    keeps: bool
    label: str

    @property
    def partial(self) -> Path:
        return beside(self.folder, "partial")

    @property
    def short(self) -> str:
        """Return the beginning of the key, for messages."""
        return self.recipe.key[:8]

    def artifact(self, cached: bool, cost: dict[str, float]) -> Artifact:
        return Artifact(self.recipe.stage, self.recipe.key, self.folder, cached, cost)


def _meet_before(make: Make) -> Make:
    """Return `make` behind a meeting of all processes, so that rank 0 has created the folder."""

    def meet_and_make(folder: Path) -> Mapping[str, float] | None:
        processes.meet()
        return make(folder)

    return meet_and_make


def _run(call: _Call, meter: EnergyMeter | None) -> dict[str, float]:
    """Call `make` and return its cost."""
    energy: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        if meter is not None:
            energy = stack.enter_context(meter.measure())
        start = time.perf_counter()
        measured = call.make(call.partial) or {}
        seconds = time.perf_counter() - start
    cost = {"seconds": seconds, "peak_memory_bytes": peak_memory(), **energy}
    for name, value in measured.items():
        # JSON has no text for a non-finite rate, and a rate is no reason to lose the work.
        if math.isfinite(value):
            cost[name] = float(value)
    return cost


def _short(text: str) -> str:
    if len(text) <= 60:
        return text
    return f"{text[:28]}...{text[-28:]}"


def _locked(call: _Call) -> AbstractContextManager[None]:
    waits = f"{call.label}: waits for another process that is making {call.short}"
    return locked(beside(call.folder, "lock"), waits)
