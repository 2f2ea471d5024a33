"""Where an entrant starts: the track's base model, or a released checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from retrobench.config import Experiment
from retrobench.core import tree_hash
from retrobench.errors import RetrobenchError, unknown
from retrobench.model import FAMILIES
from retrobench.retrieval import find
from retrobench.store import Artifact

__all__ = ["model_files", "start", "width"]

FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


def start(x: Experiment) -> Artifact:
    """The folder that training starts from. Its key is a hash of the files, so a changed model is another one.

    RetrobenchError where its files are not those of a model that can be trained here.
    """
    name = x.entrant.checkpoint or x.track.model.base
    folder = find(name)
    if not (folder / "tokenizer.json").exists() and not (folder / "vocab.txt").exists():
        raise RetrobenchError(f"The model folder {name!r} holds no tokenizer; add tokenizer.json or vocab.txt to it.")
    _check_lengths(x, name, x.track.model.positions if _random(x) else _positions(name, folder))
    return Artifact("start", tree_hash(model_files(folder)), folder, True, {})


def width(x: Experiment) -> int | None:
    """D of the model that training starts from; None where its config.json has another word for it."""
    if _random(x):
        return x.track.model.hidden
    found = json.loads((start(x).path / "config.json").read_text(encoding="utf-8")).get("hidden_size")
    return found if isinstance(found, int) else None


def _random(x: Experiment) -> bool:
    """Whether it starts from random weights instead of the model's own."""
    return bool(x.track.model.layers and x.entrant.pretrains)


def _positions(name: str, folder: Path) -> int:
    """How many tokens the model in `folder` takes, once its files are seen to be usable."""
    if not list(folder.glob("*.safetensors")):
        raise RetrobenchError(
            f"The model folder {name!r} holds no safetensors, and nothing pickled is loaded. "
            "Convert it with transformers' save_pretrained first."
        )
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
    # RoBERTa's table of positions starts behind its padding id.
    return positions - (config.get("pad_token_id", 1) + 1 if "roberta" in family else 0)


def _check_lengths(x: Experiment, name: str, positions: int) -> None:
    track = x.track
    asked = {"finetune.query_length": track.finetune.query_length}
    asked |= {"finetune.passage_length": track.finetune.passage_length}
    asked |= {"evaluate.query_length": track.evaluate.query_length}
    asked |= {"evaluate.passage_length": track.evaluate.passage_length}
    asked |= {"pretrain.max_length": track.pretrain.max_length} if x.entrant.pretrains else {}
    asked |= {"adapt.max_length": track.adapt.max_length} if x.entrant.pretrains and track.adapt else {}
    for key, length in asked.items():
        if length > positions:
            raise RetrobenchError(f"{key} is {length}, and the model {name!r} takes {positions} tokens. Set it lower.")


def model_files(folder: Path) -> list[Path]:
    """The files of a model folder that make the model what it is."""
    return [file for pattern in FILES for file in folder.glob(pattern)]
