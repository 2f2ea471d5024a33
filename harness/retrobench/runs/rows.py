"""Rows of a leaderboard from artifacts. Walking the graph behind the scores gives provenance and cost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from retrobench import stages
from retrobench.config import Baseline, Entrant, Experiment
from retrobench.core import provenance, retrobench_version
from retrobench.data import rules
from retrobench.leaderboard import PerQuery, Row
from retrobench.pipeline import Result
from retrobench.store import Artifact
from retrobench.training import resolve_precision

__all__ = ["artifacts", "row", "search_of"]

ORDER = ("tokenise", "pretrain", "adapt", "negatives", "finetune", "encode", "mine", "teach", "search", "score")
SUMMED = ("seconds", "tokens", "data_seconds")
# Datasets of one corpus share these artifacts, so their role names the dataset that uses them.
SHARED = ("encode", "tokenise")
ROUND_STAGES = ("encode", "search", "score")  # of a validation, repeated for each round


def row(experiment: Experiment, result: Result, command: str) -> tuple[Row, PerQuery]:
    """Return the row of a result, and its values per query."""
    track = experiment.track
    entrant = experiment.entrant
    first_measure = track.evaluate.measures[0]
    by_role = artifacts(result)
    reading = _reading(experiment)
    measures = {name: stages.scores(scored) for name, scored in result.scores.items()}
    # Tables are ordered by the first mean, so the mean over the widest group comes first.
    averages = dict(reversed(rules.averages(measures).items()))
    new_row = Row(
        track=track.name,
        identity=track.identity,
        overrides=dict(track.overrides),
        entrant=entrant.name,
        objective=entrant.kind,
        settings=entrant.settings,
        representation=entrant.representation,
        checkpoint=entrant.checkpoint or None,
        seed=None if isinstance(entrant, Baseline) else experiment.seed,
        chosen=result.round,
        measures={**averages, **measures},
        selection={name: stages.scores(scored)[first_measure] for name, scored in result.validation.items()},
        artifacts={role: artifact.key for role, artifact in by_role.items()},
        commit=provenance.commit(),
        version=retrobench_version(),
        plugin={"distribution": entrant.distribution, "version": _version(entrant)},
        libraries=provenance.libraries(),
        hardware=provenance.hardware(),
        cost=_cost(by_role),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        facts={name: {**stages.facts(scored), **reading} for name, scored in result.scores.items()},
        round=result.round if track.evaluate.rounds == "every" else "",
        negatives=result.encoder.cost["negatives"] if result.encoder else 0.0,
    )
    return new_row, {name: stages.per_query(scored) for name, scored in result.scores.items()}


def search_of(result: Result) -> Artifact:
    """Return the run behind the scores of the last test dataset."""
    scored = list(result.scores.values())[-1]
    return next(source for source in scored.sources if isinstance(source, Artifact))


def artifacts(result: Result) -> dict[str, Artifact]:
    """Return every artifact behind a result by its role, such as `pretrain` and `encode beir/arguana passages`.

    The test names an artifact that validation shares. The roles of a round's validation name the round.
    """
    by_role: dict[str, Artifact] = {}
    keys: set[tuple[str, str]] = set()
    walks = [("", scored) for scored in result.scores.values()]
    walks += [(f" ({name})", scored) for name, scored in result.validation.items()]
    for suffix, scored in walks:
        for artifact, dataset in _walk(scored, scored.dataset):
            if (artifact.stage, artifact.key) in keys:
                continue
            keys.add((artifact.stage, artifact.key))
            role = " ".join(filter(None, (artifact.stage, dataset, artifact.detail)))
            if dataset == scored.dataset and artifact.stage in ROUND_STAGES:
                role += suffix
            by_role[role] = artifact
    return by_role


def _walk(artifact: Artifact, dataset: str) -> Iterator[tuple[Artifact, str]]:
    """Yield an artifact with its dataset, then its sources. `dataset` is the dataset of the artifact made from it."""
    if artifact.stage not in SHARED:
        dataset = artifact.dataset
    dataset = dataset or artifact.dataset
    yield artifact, dataset
    for source in artifact.sources:
        if isinstance(source, Artifact):
            yield from _walk(source, dataset)


def _cost(by_role: dict[str, Artifact]) -> dict[str, dict[str, float]]:
    """Return the cost of each stage: sums over its artifacts, and their largest memory."""
    totals: dict[str, dict[str, float]] = {}
    in_order = sorted(by_role.values(), key=lambda artifact: ORDER.index(artifact.stage))
    for artifact in in_order:
        total = totals.setdefault(artifact.stage, {"seconds": 0.0, "peak_memory_bytes": 0.0})
        for name in SUMMED:
            if name in artifact.cost:
                total[name] = total.get(name, 0.0) + artifact.cost[name]
        total["peak_memory_bytes"] = max(total["peak_memory_bytes"], artifact.cost.get("peak_memory_bytes", 0.0))
    for total in totals.values():
        if "tokens" in total and total["seconds"]:
            total["tokens_per_second"] = total["tokens"] / total["seconds"]
    return totals


def _reading(experiment: Experiment) -> dict[str, Any]:
    """Return the facts about reading and comparing texts that identify a number."""
    track = experiment.track
    entrant = experiment.entrant
    reading = track.test_reading
    joined = "space" if reading.titles else "none"
    if isinstance(entrant, Baseline):
        return {"titles": joined, "similarity": entrant.kind}
    is_unit = track.representation.normalize and entrant.representation in ("cls", "mean")
    return {
        "titles": reading.titles if isinstance(reading.titles, str) else joined,
        "query_length": reading.query_length,
        "passage_length": reading.passage_length,
        "similarity": "cos" if is_unit else "dot",
        "precision": resolve_precision(track.finetune.precision),
    }


def _version(entrant: Entrant | Baseline) -> str:
    """Return the distribution's version, or the beginning of a plugin file's source hash."""
    return entrant.version or entrant.code[:16] or retrobench_version()
