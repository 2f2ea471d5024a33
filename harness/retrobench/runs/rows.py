"""Rows of a leaderboard made from artifacts: provenance and cost come from walking the graph behind the scores."""

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
# Datasets of one corpus share these: the role names the dataset for which they are used.
SHARED = ("encode", "tokenise")


def row(experiment: Experiment, result: Result, command: str) -> tuple[Row, PerQuery]:
    """Return the row of a result, and its values query by query."""
    track, entrant = experiment.track, experiment.entrant
    measures = {name: stages.scores(scored) for name, scored in result.scores.items()}
    by_role, reading = artifacts(result), _reading(experiment)
    made = Row(
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
        # The mean over a group, where there is one, is what the table is ordered by: the widest group's first.
        measures={**dict(reversed(rules.averages(measures).items())), **measures},
        selection={
            name: stages.scores(scored)[track.evaluate.measures[0]] for name, scored in result.validation.items()
        },
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
    return made, {name: stages.per_query(scored) for name, scored in result.scores.items()}


def search_of(result: Result) -> Artifact:
    """Return the run behind the scores of the last test dataset."""
    scored = list(result.scores.values())[-1]
    return next(source for source in scored.sources if isinstance(source, Artifact))


def artifacts(result: Result) -> dict[str, Artifact]:
    """Return every artifact behind a result by its role, such as `pretrain` and `encode beir/arguana passages`.

    An artifact behind a test and a validation score is named by the test. The validation of a round names the round.
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
            of_the_round = dataset == scored.dataset and artifact.stage in ("encode", "search", "score")
            by_role[role + suffix if of_the_round else role] = artifact
    return by_role


def _walk(artifact: Artifact, dataset: str) -> Iterator[tuple[Artifact, str]]:
    """Yield an artifact with its dataset, then everything behind it. `dataset` is that of the artifact made of it."""
    if artifact.stage not in SHARED:
        dataset = artifact.dataset
    dataset = dataset or artifact.dataset
    yield artifact, dataset
    for source in artifact.sources:
        if isinstance(source, Artifact):
            yield from _walk(source, dataset)


def _cost(by_role: dict[str, Artifact]) -> dict[str, dict[str, float]]:
    """Return the cost of each stage's artifacts when they were made: sums, and the largest memory."""
    totals: dict[str, dict[str, float]] = {}
    for artifact in sorted(by_role.values(), key=lambda artifact: ORDER.index(artifact.stage)):
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
    """Return how texts are read and compared, as far as it identifies a number."""
    track, entrant, reading = experiment.track, experiment.entrant, experiment.track.test_reading
    joined = "space" if reading.titles else "none"
    if isinstance(entrant, Baseline):
        return {"titles": joined, "similarity": entrant.kind}
    unit = track.representation.normalize and entrant.representation in ("cls", "mean")
    return {
        "titles": reading.titles if isinstance(reading.titles, str) else joined,
        "query_length": reading.query_length,
        "passage_length": reading.passage_length,
        "similarity": "cos" if unit else "dot",
        "precision": resolve_precision(track.finetune.precision),
    }


def _version(entrant: Entrant | Baseline) -> str:
    """Return the distribution's version; of a file, which has none, the start of its source's hash."""
    return entrant.version or entrant.code[:16] or retrobench_version()
