"""Several objectives and seeds in one go: everything is read and refused before the first stage runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from retrobench import leaderboard, pipeline, stages
from retrobench.config import Entrant, Experiment, Track, discover, read_entrant, read_track
from retrobench.core import provenance, retrobench_version, say
from retrobench.data import load, rules
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import PerQuery, Row
from retrobench.retrieval import EXACT, check_index
from retrobench.stages import facts, look_at_teacher, per_query, scores, width
from retrobench.store import Artifact, Store, default_root
from retrobench.training import resolve_precision

__all__ = ["Request", "Swept", "sweep"]


class Request(NamedTuple):
    """What the command line asked for."""

    objectives: Sequence[str]
    track: str = "mini"
    seeds: Sequence[int] = (0,)
    overrides: Sequence[str] = ()
    store: Path | None = None
    leaderboard: Path | None = None
    plugins: Sequence[Path] = ()
    fresh: bool = False


class Swept(NamedTuple):
    """The rows, the folder they stand in, and where the last encoder lies."""

    rows: list[Row]
    folder: Path
    where: dict[str, Path]


def sweep(asked: Request) -> Swept:
    """Run every objective under every seed; a row is appended as soon as it is measured."""
    file = leaderboard.locate(asked.track, asked.leaderboard)
    track = read_track(file, leaderboard.track_name(file), asked.overrides)
    found = discover(asked.plugins)
    entrants = {name: read_entrant(name, found, asked.overrides) for name in asked.objectives}
    experiments = {(name, seed): Experiment(track, entrants[name], seed) for seed in asked.seeds for name in entrants}
    for entrant in entrants.values():
        _look(track, entrant)
    folder = leaderboard.rows_folder(track.name, asked.leaderboard)
    leaderboard.read(folder)  # a damaged file is told of now, not after the training
    store = Store(asked.store or default_root(), asked.fresh)
    rows: list[Row] = []
    where = {"rows": folder / "rows.jsonl", "store": store.root}
    for (name, seed), experiment in experiments.items():
        entrant = experiment.entrant
        say(f"== {entrant.name}, {entrant.representation}, seed {seed}, track {track.name}")
        store.used.clear()
        for result in pipeline.run(experiment, store):
            where |= {f"run of {entrant.name}": _run(store.used)}
            where |= {f"encoder of {entrant.name}": result.encoder.path} if result.encoder else {}
            row, values = _row(experiment, result, store.used, _command(asked, name, seed))
            row = leaderboard.append(folder, row, values)
            rows += [] if row in rows else [row]  # BM25 draws nothing, so all seeds have one row
    return Swept(rows, folder, where)


def _look(track: Track, entrant: Entrant) -> None:
    """Open what the stages will read: a wrong name or an empty file is told of now, not after the training."""
    x, lexical = Experiment(track, entrant, 0), entrant.representation == "bm25"
    check_index(track.evaluate.index)
    if track.evaluate.index != EXACT and "terms" in entrant.representation:
        raise RetrobenchError(
            f"evaluate.index is {track.evaluate.index!r}, which is for dense vectors, and {entrant.name} has terms. "
            "Leave it out: search is exact then."
        )
    judged = list(filter(None, [*x.datasets, *([] if lexical else [track.finetune.queries, track.evaluate.select])]))
    for name in judged:
        if next(iter(load(name).judgements()), None) is None:
            raise RetrobenchError(f"Dataset {name!r} holds no judgements; there is nothing to run on. Check its files.")
    for name in [*judged, *x.corpora]:
        if not load(name).document_count():
            raise RetrobenchError(f"Dataset {name!r} holds no documents; there is nothing to run on. Check its files.")
    if lexical:
        return
    if track.finetune.hard and next(iter(load(track.finetune.hard).negatives()), None) is None:
        raise RetrobenchError(f"Dataset {track.finetune.hard!r} holds no negatives. Check its files.")
    if track.distil.scores and not Path(track.distil.scores).expanduser().is_file():
        raise RetrobenchError(f"No file {track.distil.scores!r} of a teacher's scores. Set distil.scores to one.")
    stages.start(x)
    if track.evaluate.index != EXACT:
        check_index(track.evaluate.index, width(x))
    if track.distil.teacher:
        look_at_teacher(track.distil.teacher)


def _run(used: Sequence[Artifact]) -> Path:
    return [artifact.path for artifact in used if artifact.stage == "search"][-1] / "run.trec"


def _row(x: Experiment, result: pipeline.Result, used: Sequence[Artifact], command: str) -> tuple[Row, PerQuery]:
    track, entrant, drawn = x.track, x.entrant, x.entrant.representation != "bm25"
    found = {name: scores(scored) for name, scored in result.scored.items()}
    row = Row(
        track=track.name,
        identity=track.identity,
        overrides=dict(track.overrides),
        entrant=entrant.name,
        objective=entrant.objective.name,
        settings=entrant.settings,
        representation=entrant.representation,
        checkpoint=entrant.checkpoint or None,
        seed=x.seed if drawn else None,
        chosen=result.round,
        # The mean over a group, where there is one, is what the table is ordered by: the widest group's first.
        measures={**dict(reversed(rules.averages(found).items())), **found},
        selection=result.selection,
        artifacts=_numbered(used),
        commit=provenance.commit(),
        version=retrobench_version(),
        plugin={"distribution": entrant.distribution, "version": _version(entrant)},
        libraries=provenance.libraries(),
        hardware=provenance.hardware(),
        cost=_cost(used),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        facts={name: _facts(x.at_test, scored) for name, scored in result.scored.items()},
        round=result.round if track.evaluate.rounds == "every" else "",
        negatives=result.encoder.cost.get("negatives", 0.0) if result.encoder else 0.0,
    )
    return row, {name: per_query(scored) for name, scored in result.scored.items()}


def _facts(x: Experiment, scored: Artifact) -> dict[str, Any]:
    """What identifies a number: the data, and how texts are read and compared."""
    about = {key: value for key, value in facts(scored).items() if key != "dataset"}  # whose name is the key of this
    return about | _reading(x)


def _reading(x: Experiment) -> dict[str, Any]:
    settings, representation = x.track.finetune, x.entrant.representation
    if representation == "bm25":
        return {"titles": "space" if settings.titles else "none", "similarity": "bm25"}
    joined = settings.titles if isinstance(settings.titles, str) else "space" if settings.titles else "none"
    unit = x.track.representation.normalize and representation in ("cls", "mean")
    return {
        "titles": joined,
        "query_length": settings.query_length,
        "passage_length": settings.passage_length,
        "similarity": "cos" if unit else "dot",
        "precision": resolve_precision(settings.precision),
    }


def _version(entrant: Entrant) -> str:
    """The distribution's; of a file, which has none, the start of its source's hash."""
    return entrant.version or entrant.code[:16] or retrobench_version()


def _numbered(used: Sequence[Artifact]) -> dict[str, str]:
    """Stage -> key; the second artifact of a stage is `STAGE 2`."""
    found: dict[str, str] = {}
    for artifact in used:
        if artifact.key not in found.values():
            number = sum(name.split(" ")[0] == artifact.stage for name in found) + 1
            found[artifact.stage if number == 1 else f"{artifact.stage} {number}"] = artifact.key
    return found


def _cost(used: Sequence[Artifact]) -> dict[str, dict[str, float]]:
    """Stage -> what its artifacts cost when they were made: seconds and tokens added up, the largest memory."""
    found: dict[str, dict[str, float]] = {}
    for artifact in {artifact.key: artifact for artifact in used}.values():
        total = found.setdefault(artifact.stage, {"seconds": 0.0, "peak_memory_bytes": 0.0})
        for name in ("seconds", "tokens", "data_seconds"):
            if name in artifact.cost:
                total[name] = total.get(name, 0.0) + artifact.cost[name]
        total["peak_memory_bytes"] = max(total["peak_memory_bytes"], artifact.cost.get("peak_memory_bytes", 0.0))
    for total in found.values():
        if "tokens" in total and total["seconds"]:
            total["tokens_per_second"] = total["tokens"] / total["seconds"]
    return found


def _command(asked: Request, objective: str, seed: int) -> str:
    words = ["retrobench", "run", "--objective", objective, "--track", asked.track, "--seed", str(seed)]
    for text in asked.overrides:
        words += ["--set", text]
    for file in asked.plugins:
        words += ["--plugin", str(file)]
    return shlex.join(words)
