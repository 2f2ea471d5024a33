"""Several objectives and seeds in one go: everything is read and refused before the first stage runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from retrobench import leaderboard, pipeline, stages
from retrobench.config import Experiment, discover, read_entrant, read_track
from retrobench.core import say
from retrobench.leaderboard import Row
from retrobench.runs.rows import row, search_of
from retrobench.store import Store, default_root

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


class Swept(NamedTuple):
    """The rows, the folder they stand in, and the places of the last runs and encoders by what lies there."""

    rows: list[Row]
    folder: Path
    places: dict[str, Path]


def sweep(request: Request) -> Swept:
    """Run every objective under every seed; a row is appended as soon as it is measured."""
    file = leaderboard.locate(request.track, request.leaderboard)
    track = read_track(file, leaderboard.track_name(file), request.overrides)
    installed = discover(request.plugins)
    entrants = {name: read_entrant(name, installed, request.overrides) for name in request.objectives}
    named = [(name, Experiment(track, entrants[name], seed)) for seed in request.seeds for name in entrants]
    opened = stages.open_inputs([experiment for _, experiment in named])
    folder = leaderboard.rows_folder(track.name, request.leaderboard)
    leaderboard.read(folder)  # a damaged file is refused now, not after the training
    store = Store(request.store or default_root(), request.fresh)
    rows: list[Row] = []
    places = {"rows": folder / "rows.jsonl", "store": store.root}
    for (name, experiment), inputs in zip(named, opened, strict=True):
        entrant = experiment.entrant
        say(f"== {entrant.name}, {entrant.representation}, seed {experiment.seed}, track {track.name}")
        for result in pipeline.run(experiment, inputs, store):
            places[f"run of {entrant.name}"] = search_of(result).path / "run.trec"
            if result.encoder is not None:
                places[f"encoder of {entrant.name}"] = result.encoder.path
            appended = leaderboard.append(folder, *row(experiment, result, _command(request, name, experiment.seed)))
            if appended not in rows:  # BM25 draws nothing, so all seeds have one row
                rows.append(appended)
    return Swept(rows, folder, places)


def _command(request: Request, objective: str, seed: int) -> str:
    """Return the command that makes one row again."""
    words = ["retrobench", "run", "--objective", objective, "--track", request.track, "--seed", str(seed)]
    for override in request.overrides:
        words += ["--set", override]
    for file in request.plugins:
        words += ["--plugin", str(file)]
    return shlex.join(words)
