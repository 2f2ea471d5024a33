"""What an experiment reads from outside the store: opened, hashed and refused before the first stage runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrobench.config import Baseline, Entrant, Experiment
from retrobench.core import KEY_LENGTH, file_hash, tree_hash
from retrobench.data import Collection, open_collections
from retrobench.errors import RetrobenchError, unknown
from retrobench.model import FAMILIES
from retrobench.retrieval import EXACT, check_index, find
from retrobench.store import Source

__all__ = ["Base", "Inputs", "model_files", "open_base", "open_inputs", "open_teacher"]

FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


@dataclass(frozen=True)
class Base:
    """The model that training starts from, and its tokenizer: one folder, whose keys are hashes of its files."""

    name: str
    model: Source
    tokenizer: Source
    positions: int  # tokens that the model takes
    width: int | None  # D; None where config.json has another word for it


@dataclass(frozen=True)
class Inputs:
    """Everything that one experiment reads from outside the store."""

    collections: Mapping[str, Collection]  # by dataset id
    base: Base | None  # None for a baseline
    teacher: Source | None  # a cross-encoder


def open_inputs(experiments: Sequence[Experiment]) -> list[Inputs]:
    """Return the inputs of each experiment. A corpus, a base and a teacher are read once for all of them.

    RetrobenchError for a dataset, a model or an index that cannot be used.
    """
    collections = open_collections({name: None for experiment in experiments for name in _datasets(experiment)})
    bases: dict[str, Base] = {}
    teachers: dict[str, Source] = {}
    opened = []
    for experiment in experiments:
        _check_collections(experiment, collections)
        if isinstance(experiment.entrant, Baseline):
            opened.append(Inputs(collections, None, None))
            continue
        name = experiment.entrant.checkpoint or experiment.track.model.base
        if name not in bases:
            bases[name] = open_base(name)
        _check_lengths(experiment, bases[name])
        _check_search(experiment, bases[name])
        teacher = experiment.track.distil.teacher
        if teacher and teacher not in teachers:
            teachers[teacher] = open_teacher(teacher)
        opened.append(Inputs(collections, bases[name], teachers.get(teacher)))
    return opened


def _datasets(experiment: Experiment) -> Iterable[str]:
    """Yield the ids of all datasets that an experiment reads."""
    yield from experiment.datasets
    if not isinstance(experiment.entrant, Baseline):
        yield from experiment.corpora
        finetune, evaluate = experiment.track.finetune, experiment.track.evaluate
        yield from filter(None, (finetune.queries, finetune.hard, evaluate.select))


def _check_collections(experiment: Experiment, collections: Mapping[str, Collection]) -> None:
    track = experiment.track
    judged = list(experiment.datasets)
    if not isinstance(experiment.entrant, Baseline):
        judged += filter(None, (track.finetune.queries, track.evaluate.select))
    for name in judged:
        if next(iter(collections[name].dataset.judgements()), None) is None:
            raise RetrobenchError(f"Dataset {name!r} holds no judgements; there is nothing to run on. Check its files.")
    for name in (*judged, *experiment.corpora):
        if not collections[name].corpus.count:
            raise RetrobenchError(f"Dataset {name!r} holds no documents; there is nothing to run on. Check its files.")
    if isinstance(experiment.entrant, Baseline):
        return
    if track.finetune.hard and next(iter(collections[track.finetune.hard].dataset.negatives()), None) is None:
        raise RetrobenchError(f"Dataset {track.finetune.hard!r} holds no negatives. Check its files.")
    if track.distil.scores and not Path(track.distil.scores).expanduser().is_file():
        raise RetrobenchError(f"No file {track.distil.scores!r} of a teacher's scores. Set distil.scores to one.")


def open_base(name: str) -> Base:
    """Return the model of a folder or hub id, once its files are seen to be usable; they are hashed here and only here.

    RetrobenchError where they are not those of a model that can be trained.
    """
    folder = find(name)
    if not (folder / "tokenizer.json").exists() and not (folder / "vocab.txt").exists():
        raise RetrobenchError(f"The model folder {name!r} holds no tokenizer; add tokenizer.json or vocab.txt to it.")
    if not list(folder.glob("*.safetensors")):
        raise RetrobenchError(
            f"The model folder {name!r} holds no safetensors, and nothing pickled is loaded. "
            "Convert it with transformers' save_pretrained first."
        )
    positions, width = _read_config(name, folder)
    hashes = {file.name: file_hash(file) for file in sorted(model_files(folder))}
    tokenizer_hashes = {file: hashes[file] for file in TOKENIZER_FILES if file in hashes}
    return Base(
        name=name,
        model=Source("base", _key(hashes), folder),
        tokenizer=Source("tokenizer", _key(tokenizer_hashes), folder),
        positions=positions,
        width=width,
    )


def _key(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()[:KEY_LENGTH]


def _read_config(name: str, folder: Path) -> tuple[int, int | None]:
    """Return how many tokens the model in `folder` takes, and its width where its config.json says `hidden_size`."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        family, positions = config["model_type"], int(config["max_position_embeddings"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RetrobenchError(
            f"The model folder {name!r} holds no config.json with model_type and max_position_embeddings; "
            "give the folder of a transformers model."
        ) from error
    if family not in FAMILIES:
        raise unknown(f"backbone family of {name}", family, FAMILIES, "Choose a base model of one of these.")
    if "roberta" in family:
        positions -= config.get("pad_token_id", 1) + 1  # its table of positions starts behind the padding id
    width = config.get("hidden_size")
    return positions, width if isinstance(width, int) else None


def _starts_random(experiment: Experiment, entrant: Entrant) -> bool:
    """Tell whether training starts from random weights instead of the model's own."""
    return bool(experiment.track.model.layers and entrant.pretrains)


def _check_lengths(experiment: Experiment, base: Base) -> None:
    track = experiment.track
    positions = track.model.positions if _starts_random(experiment, experiment.neural) else base.positions
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
    index, entrant = experiment.track.evaluate.index, experiment.neural
    check_index(index)
    if index == EXACT:
        return
    if "terms" in entrant.representation:
        raise RetrobenchError(
            f"evaluate.index is {index!r}, which is for dense vectors, and {entrant.name} has terms. "
            "Leave it out: search is exact then."
        )
    check_index(index, experiment.track.model.hidden if _starts_random(experiment, entrant) else base.width)


def open_teacher(name: str) -> Source:
    """Return a cross-encoder's folder, once its files are seen to be usable; RetrobenchError otherwise."""
    folder = find(name)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        labels = len(config["id2label"]) if "id2label" in config else int(config.get("num_labels", 2))
    except (OSError, ValueError, TypeError) as error:
        raise RetrobenchError(
            f"The teacher {name!r} holds no config.json that can be read; give a cross-encoder."
        ) from error
    if labels != 1:
        raise RetrobenchError(f"The teacher {name!r} gives {labels} numbers for a pair; give a cross-encoder with one.")
    if not list(folder.glob("*.safetensors")):
        raise RetrobenchError(
            f"The teacher {name!r} holds no safetensors, and nothing pickled is loaded. "
            "Convert it with transformers' save_pretrained first."
        )
    return Source("teacher", tree_hash(model_files(folder)), folder)


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model folder that make the model what it is."""
    return [file for pattern in FILES for file in folder.glob(pattern)]
