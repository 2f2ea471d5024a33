"""Models loaded from a folder: safetensors only, and no code of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from retrobench.config import Model, Representations
from retrobench.core import say
from retrobench.data import vocabulary
from retrobench.errors import RetrobenchError
from retrobench.model.backbones import Backbone
from retrobench.model.encoder import Encoder
from retrobench.objective import Vocabulary

__all__ = ["load_backbone", "load_encoder", "load_tokenizer"]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def load_backbone(folder: Path, shape: Model | None = None, trains: bool = False) -> tuple[Backbone, Vocabulary]:
    """The model in `folder`, safetensors only and no code of its own, in float32; or a random one of a given shape.

    RetrobenchError where the checkpoint lacks weights of the encoder.
    """
    from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

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


def load_encoder(folder: Path, representation: str, sizes: Representations) -> tuple[Encoder, Vocabulary]:
    """Return the fine-tuned encoder in `folder`, ready to embed."""
    backbone, vocabulary = load_backbone(folder)
    encoder = Encoder(backbone, representation, sizes)
    encoder.restore(folder)
    return encoder.eval(), vocabulary


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
