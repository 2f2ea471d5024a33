"""Rows of a leaderboard from artifacts. Walking the graph behind the scores gives provenance and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retrobench import stages
from retrobench.config import Baseline, Entrant, Experiment, resolve
from retrobench.core import ENERGY, KEY_LENGTH, file_hash, processes, provenance, retrobench_version
from retrobench.data import groups
from retrobench.leaderboard import PerQuery, Row, keep_plugin, keep_track
from retrobench.pipeline import Result
from retrobench.store import Artifact, read_settings
from retrobench.training import resolve_precision

__all__ = ["artifacts", "row", "search_of"]

ORDER = ("tokenise", "pretrain", "adapt", "negatives", "finetune", "encode", "mine", "teach", "search", "score")
SUMMED = ("seconds", "tokens", "data_seconds")
# Datasets of one corpus share these artifacts, so their role names the dataset that uses them.
SHARED = ("encode", "tokenise")
ROUND_STAGES = ("encode", "search", "score")  # of a validation, repeated for each round


def row(
    experiment: Experiment, inputs: stages.Inputs, result: Result, command: str, folder: Path
) -> tuple[Row, PerQuery]:
    """Return the row of a result, and its values per query. Its track and a plugin's file are kept in `folder`."""
    track = experiment.track
    entrant = experiment.entrant
    first_measure = track.evaluate.measures[0]
    by_role = artifacts(result)
    reading = _reading(experiment)
    measures = {name: stages.scores(scored) for name, scored in result.scores.items()}
    new_row = Row(
        track=track.name,
        identity=track.identity,
        track_toml=keep_track(folder, track.identity, resolve(track)),
        overrides=dict(track.overrides),
        content=_content(experiment, inputs, by_role),
        entrant=_entrant_name(experiment, inputs),
        objective=entrant.kind,
        settings=entrant.settings,
        objective_source=_source(entrant),
        representation=entrant.representation,
        checkpoint=_checkpoint(experiment, inputs),
        seed=None if isinstance(entrant, Baseline) else experiment.seed,
        processes=processes.size(),
        measures=_with_averages(experiment, measures),
        selection={name: stages.scores(scored)[first_measure] for name, scored in result.validation.items()},
        artifacts={role: artifact.key for role, artifact in by_role.items()},
        commit=provenance.commit(),
        version=retrobench_version(),
        plugin=_plugin(experiment, folder),
        libraries=provenance.libraries(),
        hardware=provenance.hardware(),
        cost=_cost(by_role),
        energy=_energy([artifact.cost for artifact in by_role.values()]),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        facts={
            name: {**stages.facts(scored), **reading, **_data_facts(experiment, inputs, name)}
            for name, scored in result.scores.items()
        },
        round=result.round if track.evaluate.rounds == "every" else "",
        negatives=result.encoder.cost["negatives"] if result.encoder else 0.0,
    )
    return new_row, {name: stages.per_query(scored) for name, scored in result.scores.items()}


def _with_averages(experiment: Experiment, measures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the measures with the means of complete groups.

    Tables are ordered by the first mean, so the mean over the widest group comes first. Means that need a dataset of
    `evaluate.transfer`, which some users lack, come last.
    """
    own = {name: values for name, values in measures.items() if name not in experiment.transfer}
    widest_first = dict(reversed(groups.averages(own).items()))
    return {**widest_first, **measures, **groups.averages(measures)}


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
    for stage, total in totals.items():
        costs = [artifact.cost for artifact in in_order if artifact.stage == stage]
        total |= _energy(costs) or {}
        if "tokens" in total and total["seconds"]:
            total["tokens_per_second"] = total["tokens"] / total["seconds"]
    return totals


def _energy(costs: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """Return the sums of joules; None where one cost has none, because a part would look like the whole."""
    if not all(name in cost for cost in costs for name in ENERGY):
        return None
    return {name: sum(cost[name] for cost in costs) for name in ENERGY}


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


def _data_facts(experiment: Experiment, inputs: stages.Inputs, dataset: str) -> dict[str, Any]:
    """Return what the training read of a test dataset: questions that it shares with it, and its passages.

    A limit on the dataset stands there too.
    """
    collection = inputs.collections[dataset]
    facts = inputs.overlaps.facts(dataset) | collection.dataset.limit_facts()
    test_corpus = collection.corpus.hash
    if any(inputs.collections[name].corpus.hash == test_corpus for name in experiment.corpora):
        facts["pretrained_on"] = True
    return facts


def _content(experiment: Experiment, inputs: stages.Inputs, by_role: dict[str, Artifact]) -> dict[str, str]:
    """Return hashes of everything that the training read. `facts` hold those of the test."""
    if inputs.base is None:
        return {}
    track = experiment.track
    content = {}
    if not experiment.entrant.checkpoint:
        content["base"] = inputs.base.model.key
    for name in experiment.corpora:
        content[f"{name} passages"] = inputs.collections[name].corpus.hash[:KEY_LENGTH]
    for name in filter(None, (track.finetune.queries, track.finetune.hard, track.evaluate.select)):
        content[name] = inputs.collections[name].hash[:KEY_LENGTH]
    for role, artifact in by_role.items():
        if artifact.stage == "negatives":  # hashed by their stage, which alone reads them
            content[role] = read_settings(artifact.path)["negatives"][:KEY_LENGTH]
    content |= {name: model.key for name, model in inputs.models.items()}
    if inputs.teacher is not None:
        content["teacher"] = inputs.teacher.key
    if track.distil.scores:
        content["distil.scores"] = file_hash(Path(track.distil.scores).expanduser())[:KEY_LENGTH]
    return content


def _checkpoint(experiment: Experiment, inputs: stages.Inputs) -> dict[str, str] | None:
    """Return the model that replaced the pre-training, by name and content."""
    base = inputs.base
    if base is None or not experiment.entrant.checkpoint:
        return None
    return {"name": base.name, "label": base.label, "hash": base.model.key, "revision": base.revision}


def _entrant_name(experiment: Experiment, inputs: stages.Inputs) -> str:
    """Return the name in tables. A checkpoint's label replaces the name of an objective that did not train it."""
    entrant = experiment.entrant
    if inputs.base is not None and entrant.checkpoint and entrant.name.partition(":")[0] == entrant.kind:
        return inputs.base.label
    return entrant.name


def _source(entrant: Entrant | Baseline) -> str:
    """Return the hash of the objective's source, and behind a plus those of the stages' other objectives."""
    if isinstance(entrant, Baseline):
        return entrant.code
    return "+".join(dict.fromkeys([entrant.code, *(stage.code for stage in entrant.stages.values())]))


def _plugin(experiment: Experiment, folder: Path) -> dict[str, str]:
    """Return the distribution of the objective with its version, or the file with its copy beside the rows.

    Those of a stage's other objective stand behind the stage's name, those of a component behind its name.
    """
    entrant = experiment.entrant
    plugin = _plugin_of(entrant, folder)
    if isinstance(entrant, Baseline):
        return plugin
    others = {**entrant.stages, **{part.kind: part for part in entrant.parts}}
    for name, other in others.items():
        other_plugin = _plugin_of(other, folder)
        if other_plugin != plugin:
            plugin |= {f"{name} {key}": value for key, value in other_plugin.items()}
    return plugin


def _plugin_of(entrant: Entrant | Baseline, folder: Path) -> dict[str, str]:
    if entrant.file is None:
        return {"distribution": entrant.distribution, "version": entrant.version or retrobench_version()}
    return {"file": entrant.distribution, "kept": keep_plugin(folder, entrant.file)}
