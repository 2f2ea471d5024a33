"""The inputs of experiments from outside the store. They are opened, hashed and checked before the first stage."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retrobench.config import Baseline, Entrant, Experiment, Optimisation, Titles
from retrobench.core import KEY_LENGTH, file_hash, parse_json, processes, tree_hash
from retrobench.data import Collection, open_collections
from retrobench.errors import RetrobenchError, unknown
from retrobench.leaderboard import Corridor
from retrobench.model import FAMILIES, load_tokenizer
from retrobench.objective import ModelFolder
from retrobench.retrieval import EXACT, check_index, check_weights, find, read_json
from retrobench.stages.overlaps import OverlapCheck, Overlaps
from retrobench.store import Source, read_objective
from retrobench.training import resolve_precision

__all__ = ["Base", "Inputs", "model_files", "open_base", "open_inputs", "open_teacher"]

FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


@dataclass(frozen=True)
class Base:
    """The base model of training and its tokenizer, in one folder. Their keys are hashes of files."""

    name: str
    label: str  # for tables: the objective that trained it, or its name, with the first digits of its hash
    revision: str  # of a hub model
    model: Source
    tokenizer: Source
    positions: int  # longest input in tokens; 0 for random weights
    width: int | None  # D; None for random weights, and where config.json has no hidden_size


# The collections of a section's probes, for training and for validation, and whether titles are read.
ProbeParts = tuple[tuple[Collection, Titles], tuple[Collection, Titles]]


@dataclass(frozen=True)
class Inputs:
    """The inputs of one experiment."""

    collections: Mapping[str, Collection]  # by dataset id
    base: Base | None  # None for a baseline
    teacher: Source | None  # a cross-encoder
    overlaps: Overlaps = field(default_factory=Overlaps)  # of the test with the training
    models: Mapping[str, Source] = field(default_factory=dict)  # of settings of the type ModelFolder, by their value
    probes: Mapping[str, ProbeParts] = field(default_factory=dict)  # by section, without those that do not probe
    corridors: Mapping[str, Corridor] = field(default_factory=dict)  # of earlier seeds, by training


def open_inputs(experiments: Sequence[Experiment], allow_overlap: bool = False) -> list[Inputs]:
    """Return the inputs of each experiment of a track. They share corpora, bases and teachers, which are read once.

    RetrobenchError for an unusable dataset, model, index or precision, and for a test on questions of the training,
    unless `allow_overlap`.
    """
    names: dict[str, None] = {}
    judged: dict[str, None] = {}
    limit = 0
    for experiment in experiments:
        _check_precision(experiment)
        names |= dict.fromkeys(_datasets(experiment))
        judged |= dict.fromkeys(_judged_datasets(experiment))
        limit = experiment.track.data.limit
    collections = open_collections(names, limit, judged)
    overlap_check = OverlapCheck(collections, allow_overlap)
    bases: dict[tuple[str, bool], Base] = {}
    teachers: dict[str, Source] = {}
    opened = []
    for experiment in experiments:
        _check_processes(experiment)
        _check_collections(experiment, collections)
        if isinstance(experiment.entrant, Baseline):
            opened.append(Inputs(collections, None, None))
            continue
        name = experiment.entrant.checkpoint or experiment.track.model.base
        random = _starts_random(experiment, experiment.neural)
        if (name, random) not in bases:
            bases[name, random] = open_base(name, random)
        base = bases[name, random]
        _check_lengths(experiment, base)
        _check_search(experiment, base)
        teacher = experiment.track.distil.teacher
        if teacher and teacher not in teachers:
            teachers[teacher] = open_teacher(teacher)
        models = _open_models(experiment, base)
        probes = _open_probes(experiment, collections)
        overlaps = overlap_check.check(experiment)  # last, because it reads every question
        opened.append(Inputs(collections, base, teachers.get(teacher), overlaps, models, probes))
    return opened


def _check_precision(experiment: Experiment) -> None:
    """Check that this machine computes in the precision of each training."""
    for section, settings in _trainings(experiment).items():
        resolve_precision(settings.precision, f"{section}.precision")


def _trainings(experiment: Experiment) -> Mapping[str, Optimisation]:
    """Return the settings of each training by its section; a baseline has none."""
    if isinstance(experiment.entrant, Baseline):
        return {}
    return {**experiment.pretraining, "finetune": experiment.track.finetune}


def _check_processes(experiment: Experiment) -> None:
    """Check that the processes can share the shards of every batch equally."""
    size = processes.size()
    sections = _trainings(experiment)
    if not sections:
        return
    shards = {name: settings.shards for name, settings in sections.items()}
    uneven = [name for name in shards if shards[name] % size]
    if not uneven:
        return
    settings = ", ".join(f"{name}.shards = {shards[name]}" for name in uneven)
    common = math.gcd(*shards.values())
    divisors = [str(number) for number in range(1, common + 1) if common % number == 0]
    overrides = " ".join(f"--set {name}.shards={size}" for name in uneven)
    raise RetrobenchError(
        f"{size} processes cannot share {settings} equally (track {experiment.track.name}). "
        f"Start {' or '.join(divisors)}, or change the track: {overrides}."
    )


def _datasets(experiment: Experiment) -> Iterable[str]:
    """Yield the ids of all datasets that an experiment reads."""
    yield from experiment.datasets
    if isinstance(experiment.entrant, Baseline):
        return
    yield from experiment.corpora
    track = experiment.track
    yield from filter(None, (track.finetune.queries, track.finetune.hard, track.evaluate.select))


def _judged_datasets(experiment: Experiment) -> Iterable[str]:
    """Yield the ids of the track's datasets with questions, whether or not this entrant reads them.

    A limit keeps documents by their questions, and the documents of a test must be equal for all entrants.
    """
    yield from experiment.datasets
    yield from filter(None, (experiment.track.finetune.queries, experiment.track.evaluate.select))


def _check_collections(experiment: Experiment, collections: Mapping[str, Collection]) -> None:
    """Check that no needed dataset is empty, and that the teacher's scores exist."""
    track = experiment.track
    trains = not isinstance(experiment.entrant, Baseline)
    judged = list(experiment.datasets)
    if trains:
        judged += filter(None, (track.finetune.queries, track.evaluate.select))
    for name in judged:
        _check_judged(collections[name])
    for name in (*judged, *experiment.corpora):
        if not collections[name].corpus.count:
            raise RetrobenchError(f"Dataset {name!r} holds no documents; there is nothing to run on. Check its files.")
    for name in judged:
        collections[name].check()
    if not trains:
        return
    hard = track.finetune.hard
    if hard and _is_empty(collections[hard].dataset.negatives()):
        raise RetrobenchError(f"Dataset {hard!r} holds no negatives. Check its files.")
    scores = track.distil.scores
    if scores and not Path(scores).expanduser().is_file():
        raise RetrobenchError(f"No file {scores!r} of a teacher's scores. Set distil.scores to one.")


def _check_judged(collection: Collection) -> None:
    if _is_empty(collection.dataset.judgements()):
        raise RetrobenchError(
            f"Dataset {collection.id!r} holds no judgements; there is nothing to run on. Check its files."
        )


def _is_empty(rows: Iterable[object]) -> bool:
    return next(iter(rows), None) is None


def open_base(name: str, random: bool = False) -> Base:
    """Return the base model of a folder or hub id. Its files are checked and hashed here, and nowhere else.

    Training from `random` weights needs the tokenizer alone. RetrobenchError for a folder without a trainable model.
    """
    folder = find(name)
    _check_tokenizer(f"The model folder {name!r}", folder)
    positions, width = 0, None  # of random weights, by the track
    if not random:
        _check_safetensors(f"The model folder {name!r}", name, folder)
        positions, width = _read_config(name, folder)
    hashes = {file.name: file_hash(file) for file in sorted(model_files(folder))}
    tokenizer_hashes = {file: hashes[file] for file in TOKENIZER_FILES if file in hashes}
    key = _key(hashes)
    revision = folder.name if folder.parent.name == "snapshots" else ""  # as the hub's cache lays its folders out
    return Base(
        name=name,
        label=f"{read_objective(folder) or Path(name).name}@{(revision or key)[:8]}",
        revision=revision,
        model=Source("base", key, folder),
        tokenizer=Source("tokenizer", _key(tokenizer_hashes), folder),
        positions=positions,
        width=width,
    )


def _key(hashes: Mapping[str, str]) -> str:
    document = json.dumps(sorted(hashes.items()))
    return hashlib.sha256(document.encode()).hexdigest()[:KEY_LENGTH]


def _read_config(name: str, folder: Path) -> tuple[int, int | None]:
    """Return the longest input of the model in `folder`, in tokens, and its `hidden_size` if config.json has one."""
    try:
        config = read_json(folder / "config.json")
        family = str(config["model_type"])
        positions = int(config["max_position_embeddings"])
        if "roberta" in family:
            positions -= int(config.get("pad_token_id", 1)) + 1  # its position ids start behind the padding id
    except (ValueError, LookupError, TypeError) as error:
        raise RetrobenchError(
            f"The model folder {name!r} holds no config.json with model_type and max_position_embeddings; "
            "give the folder of a transformers model."
        ) from error
    if family not in FAMILIES:
        raise unknown(f"backbone family of {name}", family, FAMILIES, "Choose a base model of one of these.")
    width = config.get("hidden_size")
    return positions, width if isinstance(width, int) else None


def _starts_random(experiment: Experiment, entrant: Entrant) -> bool:
    """Tell whether training starts from random weights instead of the base's weights."""
    return bool(experiment.track.model.layers and entrant.pretrains)


def _check_lengths(experiment: Experiment, base: Base) -> None:
    track = experiment.track
    positions = base.positions
    if _starts_random(experiment, experiment.neural):
        positions = track.model.positions
    lengths = {
        "finetune.query_length": track.finetune.reading.query_length,
        "finetune.passage_length": track.finetune.reading.passage_length,
        "evaluate.query_length": track.evaluate.query_length,
        "evaluate.passage_length": track.evaluate.passage_length,
    }
    for section, settings in experiment.pretraining.items():
        lengths[f"{section}.max_length"] = settings.max_length
    for key, length in lengths.items():
        if length > positions:
            raise RetrobenchError(
                f"{key} is {length}, and the model {base.name!r} takes {positions} tokens. Set it lower."
            )


def _check_search(experiment: Experiment, base: Base) -> None:
    index = experiment.track.evaluate.index
    entrant = experiment.neural
    check_index(index)
    if index == EXACT:
        return
    if "terms" in entrant.representation:
        raise RetrobenchError(
            f"evaluate.index is {index!r}, which is for dense vectors, and {entrant.name} has terms. "
            "Leave it out: search is exact then."
        )
    width = base.width
    if _starts_random(experiment, entrant):
        width = experiment.track.model.hidden
    check_index(index, width)


def open_teacher(name: str) -> Source:
    """Return a cross-encoder's folder. RetrobenchError for unusable files."""
    folder = find(name)
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        labels = int(config.get("num_labels", 2))
        if "id2label" in config:
            labels = len(config["id2label"])
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RetrobenchError(
            f"The teacher {name!r} holds no config.json that can be read; give a cross-encoder."
        ) from error
    if labels != 1:
        raise RetrobenchError(f"The teacher {name!r} gives {labels} numbers for a pair; give a cross-encoder with one.")
    _check_safetensors(f"The teacher {name!r}", name, folder)
    return Source("teacher", tree_hash(model_files(folder)), folder)


def _open_probes(experiment: Experiment, collections: Mapping[str, Collection]) -> dict[str, ProbeParts]:
    """Return what the probes of each section read. The validation questions choose a part of their documents."""
    track = experiment.track
    training = collections[track.finetune.queries], track.finetune.reading.titles
    probes = {}
    for section, dataset_id in experiment.probes.items():
        limits = [experiment.pretraining[section].probe.probe_documents]
        if track.data.limit:
            limits.append(track.data.limit)
        validation = open_collections([dataset_id], min(limits), [dataset_id])[dataset_id]
        _check_judged(validation)
        probes[section] = training, (validation, track.test_reading.titles)
    return probes


def _open_models(experiment: Experiment, base: Base) -> dict[str, Source]:
    """Return the folders of the models that the objectives of all stages name, by name; "" is the base itself.

    RetrobenchError for unusable files, and for a vocabulary that is not the base's.
    """
    models: dict[str, Source] = {}
    for section in experiment.pretraining:
        entrant = experiment.neural.at(section)
        for key, name in entrant.settings.items():
            if not isinstance(name, ModelFolder):
                continue
            if name and name not in models:
                models[name] = _open_model(f"The model {name!r} of {entrant.kind}.{key}", name, base)
            if not name and _starts_random(experiment, experiment.neural):
                raise RetrobenchError(
                    f"{entrant.kind}.{key} is the track's base, whose weights are random. Name a trained model in it."
                )
    return models


def _open_model(title: str, name: str, base: Base) -> Source:
    """Return the folder of a masked language model that has the vocabulary of the base."""
    folder = find(name)
    _check_safetensors(title, name, folder)
    _check_tokenizer(title, folder)
    vocabulary = load_tokenizer(folder).get_vocab()
    base_vocabulary = load_tokenizer(base.tokenizer.path).get_vocab()
    differing = dict(vocabulary.items() ^ base_vocabulary.items())
    if differing:
        raise RetrobenchError(
            f"{title} numbers {len(differing)} words otherwise than the base {base.name!r}, such as "
            f"{min(differing)!r}. Give a model with the base's vocabulary."
        )
    return Source("model", tree_hash(model_files(folder)), folder)


def _check_tokenizer(title: str, folder: Path) -> None:
    if not (folder / "tokenizer.json").exists() and not (folder / "vocab.txt").exists():
        raise RetrobenchError(f"{title} holds no tokenizer; add tokenizer.json or vocab.txt to it.")


def _check_safetensors(title: str, name: str, folder: Path) -> None:
    if not list(folder.glob("*.safetensors")):
        raise RetrobenchError(
            f"{title} holds no safetensors, and nothing pickled is loaded. "
            f"`retrobench convert {name} --to FOLDER` makes them; give that folder."
        )
    check_weights(title, folder)


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model folder that define the model."""
    files: list[Path] = []
    for pattern in FILES:
        files += folder.glob(pattern)
    return files
