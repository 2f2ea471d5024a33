"""
The stages that are still to come, and their time.

* Rehearsal   a store that makes nothing and notes each stage that a pipeline asks for
* Schedule    the stages of several runs in their order, the position in them, and the time left

The same pipeline runs against a rehearsal and against the store, so no second list of stages can differ from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from retrobench.core import Position, retrobench_version, set_position
from retrobench.store.entries import Entry, Recipe, read_entries, to_json_values
from retrobench.store.store import Artifact, Source, Store

__all__ = ["Rehearsal", "Schedule"]

# Another seed takes as long. Another objective takes about as long, where nothing closer has been made.
SEED = frozenset({"seed"})
OBJECTIVE = SEED | {"objective", "settings"}


class _Stage(NamedTuple):
    """A stage that a run asks for. Stages of one likeness take about as long."""

    is_finished: bool
    likenesses: tuple[str, str]  # equal but for the seed; equal but for the seed and the objective


class Rehearsal(Store):
    """A store that makes nothing: `ensure` returns an artifact that may not exist yet, and notes the stage."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.root, store.fresh)
        self.runs: list[list[_Stage]] = []
        self._recipes: dict[str, Recipe | None] = {}  # by origin, `stage/key`
        self._hashes: dict[tuple[str, frozenset[str]], str] = {}

    def begin_run(self) -> None:
        """Note the following stages as those of the next run."""
        self.runs.append([])

    def ensure(
        self, stage: str, settings: Mapping[str, Any], sources: Sequence[Source], *_: Any, **role: Any
    ) -> Artifact:
        """Return the artifact of these arguments with its key, finished or not. The arguments are as in `Store`."""
        origins = [f"{source.stage}/{source.key}" for source in sources]
        json_settings = to_json_values(settings, "settings")
        recipe = Recipe(stage, json_settings, origins, retrobench_version(), role.get("code", ""))
        folder = self.root / stage / recipe.key
        origin = f"{stage}/{recipe.key}"
        is_finished = origin in self._recipes or (folder.exists() and not self.fresh)
        self._recipes[origin] = recipe
        self.runs[-1].append(_Stage(is_finished, self._likenesses(origin)))
        names = role.get("dataset", ""), role.get("detail", "")
        return Artifact(stage, recipe.key, folder, is_finished, {}, tuple(sources), *names)

    def schedule(self) -> Schedule:
        """Return the schedule of the runs. Finished entries of the store tell how long their likes take."""
        stages = {stage for run in self.runs for stage in run if not stage.is_finished}
        wanted = {likeness for stage in stages for likeness in stage.likenesses}
        seconds: dict[str, float] = {}
        dated: list[tuple[str, str, float]] = []
        for name in {recipe.stage for recipe in self._recipes.values() if recipe is not None}:
            for key, entry in read_entries(self.root / name):
                dated.append((entry.date, f"{name}/{key}", entry.cost["seconds"]))
        for _, origin, duration in sorted(dated):  # the last one made counts
            for likeness in self._likenesses(origin):
                if likeness in wanted:
                    seconds[likeness] = duration
        return Schedule(self.runs, seconds)

    def _likenesses(self, origin: str) -> tuple[str, str]:
        return self._likeness(origin, SEED), self._likeness(origin, OBJECTIVE)

    def _likeness(self, origin: str, ignored: frozenset[str]) -> str:
        """Return a hash of a stage's settings and sources without the ignored settings."""
        if (origin, ignored) not in self._hashes:
            self._hashes[origin, ignored] = self._hash(origin, ignored)
        return self._hashes[origin, ignored]

    def _hash(self, origin: str, ignored: frozenset[str]) -> str:
        recipe = self._recipe(origin)
        if recipe is None:  # from outside the store
            return origin
        settings = {name: value for name, value in recipe.settings.items() if name not in ignored}
        sources = [self._source(source, ignored) for source in recipe.sources]
        return hashlib.sha256(json.dumps([recipe.stage, settings, sources], sort_keys=True).encode()).hexdigest()

    def _source(self, origin: str, ignored: frozenset[str]) -> str:
        """Return the likeness of a source. A trained model counts as the model that its training began with."""
        recipe = self._recipe(origin)
        if recipe is None or "seed" not in recipe.settings:
            return self._likeness(origin, ignored)
        shape = recipe.settings.get("model") or ""  # of random weights, else as the start's
        return f"{self._source(recipe.sources[0], ignored)}{shape}"

    def _recipe(self, origin: str) -> Recipe | None:
        if origin not in self._recipes:
            entry = Entry.read(self.root / origin)
            self._recipes[origin] = None if entry is None else entry.recipe
        return self._recipes[origin]


class Schedule:
    """The stages of several runs. A store calls each through `watch`."""

    def __init__(self, runs: Sequence[Sequence[_Stage]], seconds: dict[str, float]) -> None:
        self.runs = runs
        self._seconds = seconds  # by likeness
        self._run = -1
        self._stage = -1

    def begin_run(self) -> tuple[int, int]:
        """Go to the next run. Return the number of its stages, and of those among them that are finished."""
        self._run += 1
        self._stage = -1
        stages = self.runs[self._run]
        return len(stages), sum(stage.is_finished for stage in stages)

    def watch(self, ensure: Callable[[], Artifact]) -> Artifact:
        """Call the next stage, which progress names, and keep the time of a new one for its likes."""
        self._stage += 1
        stages = self.runs[self._run]
        set_position(Position(self._run + 1, len(self.runs), self._stage + 1, len(stages), self._seconds_after()))
        try:
            artifact = ensure()
        finally:
            set_position(None)
        if not artifact.cached:
            for likeness in stages[self._stage].likenesses:
                self._seconds[likeness] = artifact.cost["seconds"]
        return artifact

    def _seconds_after(self) -> float | None:
        """Return the seconds of all stages behind the present one, None where nothing tells one of them."""
        stages = list(self.runs[self._run][self._stage + 1 :])
        for run in self.runs[self._run + 1 :]:
            stages += run
        total = 0.0
        for stage in stages:
            if stage.is_finished:
                continue
            known = [self._seconds[likeness] for likeness in stage.likenesses if likeness in self._seconds]
            if not known:
                return None
            total += known[0]
        return total
