"""A run of several objectives and seeds. All inputs are read and checked before the first stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from retrobench import leaderboard, pipeline, stages
from retrobench.config import Experiment, Track, absent_datasets, discover, read_entrant, read_track
from retrobench.core import EnergyMeter, processes, say, silence
from retrobench.leaderboard import Row
from retrobench.runs.rows import artifacts, row, search_of
from retrobench.store import Rehearsal, Schedule, Store, default_root
from retrobench.training import use_tracker

__all__ = ["Request", "Swept", "sweep"]


class Request(NamedTuple):
    """The arguments of `retrobench run`."""

    objectives: Sequence[str]
    track: str = "mini"
    seeds: Sequence[int] = (0,)
    overrides: Sequence[str] = ()
    store: Path | None = None
    leaderboard: Path | None = None
    plugins: Sequence[Path] = ()
    fresh: bool = False
    allow_overlap: bool = False  # of test questions with training questions
    limit: int | None = None  # most documents, and most questions, of each dataset
    tracker: str | None = None  # of the losses: tensorboard, wandb or trackio
    faiss_index: str | None = None  # "exact", or a factory string of faiss
    checkpoints: bool = True  # the last one of each pre-training stays in the store
    energy: bool = False  # measured for each new stage

    @property
    def typed(self) -> tuple[str, ...]:
        """Return the overrides, and the index as one of them."""
        if self.faiss_index is None:
            return tuple(self.overrides)
        return (*self.overrides, f"evaluate.index={self.faiss_index}")

    @property
    def changes(self) -> tuple[str, ...]:
        """Return the overrides, and index and limit as two of them."""
        if self.limit is None:
            return self.typed
        return (*self.typed, f"data.limit={self.limit}")


class Swept(NamedTuple):
    """The rows of a sweep, their folder, and paths of results by label."""

    rows: list[Row]
    folder: Path
    paths: dict[str, Path]


def sweep(request: Request) -> Swept:
    """Run every objective under every seed. A row is appended as soon as it is measured."""
    file = leaderboard.locate(request.track, request.leaderboard)
    track = read_track(file, leaderboard.track_name(file), request.changes)
    runs = _runs(request, track)
    all_inputs = stages.open_inputs([run.experiment for run in runs], request.allow_overlap)
    folder = leaderboard.rows_folder(track.name, request.leaderboard)
    leaderboard.check_writable(folder)  # before the training
    store = Store(request.store or default_root(), request.fresh, request.checkpoints)
    if request.energy and processes.leads():
        store.meter = EnergyMeter()
        say(f"== {store.meter}")
    use_tracker(request.tracker, store.root / "trackers")
    rows: list[Row] = []
    _say_limit(track)
    _say_absent(runs)
    _say_overlaps(all_inputs)
    paths = {"rows": folder / "rows.jsonl", "store": store.root}
    if request.tracker is not None:
        paths[request.tracker] = store.root / "trackers"
    schedule = _rehearse(runs, all_inputs, store)
    store.watch = schedule.watch
    for number, (run, inputs) in enumerate(zip(runs, all_inputs, strict=True), 1):
        entrant = run.experiment.entrant
        about = f"{entrant.name}, {entrant.representation}, seed {run.experiment.seed}, track {track.name}"
        stage_count, finished_count = schedule.begin_run()
        say(f"== run {number} of {len(runs)}: {about}: {stage_count} stages, {finished_count} finished")
        inputs = replace(inputs, corridors=leaderboard.read_corridors(run.experiment, request.leaderboard))
        for result in pipeline.run(run.experiment, inputs, store):
            paths[f"run of {entrant.name}"] = search_of(result).path / "run.trec"
            if result.encoder is not None:
                paths[f"encoder of {entrant.name}"] = result.encoder.path
            new_row, per_query = row(run.experiment, inputs, result, run.command, folder)
            appended = leaderboard.append(folder, new_row, per_query)
            for name in per_query:
                leaderboard.write_clusters(folder, inputs.collections[name])
            for artifact in artifacts(result).values():
                leaderboard.keep_curve(folder, artifact.key, artifact.path)
            if appended not in rows:  # BM25 has no randomness, so all seeds give one row
                rows.append(appended)
    return Swept(rows, folder, paths)


def _rehearse(runs: Sequence[_Run], all_inputs: Sequence[stages.Inputs], store: Store) -> Schedule:
    """Return the stages of all runs, from the pipeline itself against a store that makes nothing."""
    rehearsal = Rehearsal(store)
    with silence():  # the stages will say it when they are made
        for run, inputs in zip(runs, all_inputs, strict=True):
            rehearsal.begin_run()
            for _ in pipeline.run(run.experiment, inputs, rehearsal):
                pass  # a result has no row yet
    return rehearsal.schedule()


def _say_limit(track: Track) -> None:
    """Print one line about a trial: its limit, and every change of the track."""
    limit = track.data.limit
    if not limit:
        return
    changes = [leaderboard.format_override(key, track.overrides[key]) for key in sorted(track.overrides)]
    say(
        f"== a trial, with at most {limit:,} documents and {limit:,} questions of each dataset. Its rows stand in a "
        f"table of their own: {', '.join(changes) or 'the track as it is'}"
    )


def _say_absent(runs: Sequence[_Run]) -> None:
    """Print one line for each dataset that is not tested, with the command that fetches it."""
    absent: set[str] = set()
    for run in runs:
        absent |= run.experiment.absent
    for name in sorted(absent):
        say(f"== NOT RUN: {name} is not here. Fetch it, and run again: retrobench data fetch {name}")


def _say_overlaps(all_inputs: Sequence[stages.Inputs]) -> None:
    """Print one line for each two datasets that share questions."""
    sentences: dict[str, None] = {}
    for inputs in all_inputs:
        sentences |= dict.fromkeys(inputs.overlaps.sentences())
    for sentence in sentences:
        say(f"== {sentence}")


class _Run(NamedTuple):
    experiment: Experiment
    command: str


def _runs(request: Request, track: Track) -> list[_Run]:
    """Return every experiment of the request with the command that repeats it."""
    installed = discover(request.plugins)
    entrants = {name: read_entrant(name, installed, request.changes) for name in request.objectives}
    absent = absent_datasets(track)
    runs = []
    for seed in request.seeds:
        for name, entrant in entrants.items():
            runs.append(_Run(Experiment(track, entrant, seed, absent), _command(request, name, seed)))
    return runs


def _command(request: Request, objective: str, seed: int) -> str:
    """Return the command that repeats a run."""
    words = ["retrobench", "run", "--objective", objective, "--track", request.track, "--seed", str(seed)]
    for override in request.typed:
        words += ["--set", override]
    if request.limit is not None:
        words += ["--limit", str(request.limit)]
    for file in request.plugins:
        words += ["--plugin", str(file)]
    if request.allow_overlap:
        words.append("--allow-overlap")
    return processes.launch_command(words)
