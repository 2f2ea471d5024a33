"""Where an entrant starts: the track's base model, or a released checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from retrobench.backbones import FAMILIES, Backbone
from retrobench.encoders import find
from retrobench.errors import RetrobenchError, unknown
from retrobench.experiment import Experiment, Model
from retrobench.objective import Vocabulary
from retrobench.progress import say
from retrobench.store import Artifact, tree_hash
from retrobench.tokens import vocabulary

__all__ = ["load_backbone", "load_tokenizer", "model_files", "start", "width"]

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


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def load_backbone(folder: Path, shape: Model | None = None, trains: bool = False) -> tuple[Backbone, Vocabulary]:
    """The model in `folder`, safetensors only and no code of its own, in float32; or a random one of a given shape.

    RetrobenchError where the checkpoint lacks weights of the encoder.
    """
    from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # a checkpoint without its head is reported at length, and is fine
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = load_tokenizer(folder)
    if shape is not None and shape.layers:
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.intermediate,
            max_position_embeddings=shape.positions,
            hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=shape.dropout,
            pad_token_id=tokenizer.pad_token_id,
        )
        lm: Any = BertForMaskedLM(config)
    else:
        lm, about = AutoModelForMaskedLM.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        _check_missing(folder, f"{lm.base_model_prefix}.", sorted(about["missing_keys"]))
    if trains and not torch.cuda.is_available():
        # On a CPU the backward pass of torch's fused attention takes longer than all the rest of a step.
        lm.set_attn_implementation("eager")
    return Backbone(lm), vocabulary(tokenizer, lm.get_output_embeddings().weight.shape[0])


def _check_missing(folder: Path, encoder: str, missing: list[str]) -> None:
    """transformers fills what a checkpoint lacks at random. A head may be so, the encoder, whose names begin with
    `encoder`, may not."""
    # A pooler is what BERT has for whole-sequence tasks; nothing here reads it.
    lacking = [name for name in missing if name.startswith(encoder) and not name.startswith(f"{encoder}pooler.")]
    if lacking:
        raise RetrobenchError(
            f"The weights of the model folder {folder.name!r} lack {len(lacking)} tensors of the encoder, {lacking[0]} "
            "among them, which would be random. Give a checkpoint of the architecture that its config.json names."
        )
    if any(not name.startswith(encoder) for name in missing):
        say(f"{folder.name} holds no masked-language-modelling head, or only a part of one: the rest of it is random")
