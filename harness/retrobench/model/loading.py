"""Load models from folders: safetensors only, and never a folder's own code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from retrobench.config import Model, Representations
from retrobench.core import say
from retrobench.data import vocabulary
from retrobench.errors import RetrobenchError, clip
from retrobench.model.backbones import Backbone
from retrobench.model.encoder import Encoder
from retrobench.objective import Vocabulary

__all__ = ["load_backbone", "load_encoder", "load_masked_lm", "load_tokenizer", "load_with_head"]


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a model folder."""
    from transformers import AutoTokenizer

    with _loads(folder, "tokenizer"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def load_backbone(folder: Path, shape: Model | None = None, trains: bool = False) -> tuple[Backbone, Vocabulary]:
    """Return the float32 model in `folder`, or a random BERT of the given shape with the folder's tokenizer.

    Raises RetrobenchError where the checkpoint lacks weights of the encoder.
    """
    tokenizer = load_tokenizer(folder)
    lm, _ = _masked_lm(folder, shape, tokenizer)
    if trains:
        _choose_attention(lm)
    return Backbone(lm), vocabulary(tokenizer, lm.get_output_embeddings().weight.shape[0])


def load_masked_lm(folder: Path) -> nn.Module:
    """Return the float32 transformers ...ForMaskedLM in `folder`, of any family, beside a model that is trained.

    Raises RetrobenchError where the checkpoint lacks weights of the encoder.
    """
    lm, _ = _masked_lm(folder)
    _choose_attention(lm)
    return cast(nn.Module, lm)


def load_with_head(folder: Path) -> tuple[Backbone, bool]:
    """Return the float32 model in `folder`, and whether its checkpoint has the masked-language-modelling head.

    Raises RetrobenchError where the checkpoint lacks weights of the encoder.
    """
    lm, has_head = _masked_lm(folder)
    return Backbone(lm), has_head


def _choose_attention(lm: Any) -> None:
    """Choose the kernel of attention for a training."""
    if not torch.cuda.is_available():
        # On a processor the backward pass of torch's fused attention would take most of a step.
        lm.set_attn_implementation("eager")


def load_encoder(folder: Path, representation: str, sizes: Representations) -> tuple[Encoder, Vocabulary]:
    """Return the fine-tuned encoder in `folder`, in evaluation mode."""
    backbone, vocabulary = load_backbone(folder)
    encoder = Encoder(backbone, representation, sizes)
    encoder.restore(folder)
    return encoder.eval(), vocabulary


def _random_bert(shape: Model, tokenizer: Any) -> Any:
    from transformers import BertConfig, BertForMaskedLM

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
    return BertForMaskedLM(config)


def _masked_lm(folder: Path, shape: Model | None = None, tokenizer: Any = None) -> tuple[Any, bool]:
    """Return the model in `folder`, or a random one of a shape, and whether its head was trained."""
    from transformers import AutoModelForMaskedLM

    if shape is not None and shape.layers:
        return _random_bert(shape, tokenizer), False
    with _loads(folder, "model"):
        lm, report = AutoModelForMaskedLM.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    has_head = _check_missing(folder, f"{lm.base_model_prefix}.", sorted(report["missing_keys"]))
    return lm, has_head


@contextmanager
def _loads(folder: Path, kind: str) -> Iterator[None]:
    """Turn the exceptions of transformers for damaged files, which have many types, into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RetrobenchError(
            f"The {kind} in {str(folder)!r} cannot be loaded ({clip(reason)}). "
            "Check that its files are whole and belong together."
        ) from error


def _check_missing(folder: Path, prefix: str, missing: list[str]) -> bool:
    """Return whether a checkpoint has its head. Refuse one that lacks tensors of the encoder, named `prefix`...

    transformers draws missing tensors at random. A head may be random, but the encoder may not.
    """
    of_encoder = [name for name in missing if name.startswith(prefix)]
    # BERT's pooler serves whole-sequence tasks; nothing in retrobench reads it.
    lacking = [name for name in of_encoder if not name.startswith(f"{prefix}pooler.")]
    if lacking:
        raise RetrobenchError(
            f"The weights of the model folder {folder.name!r} lack {len(lacking)} tensors of the encoder, such as "
            f"{lacking[0]}; they would be random. Choose a checkpoint of the architecture that its config.json names."
        )
    has_head = len(of_encoder) == len(missing)
    if not has_head:
        say(f"{folder.name} lacks tensors of the masked-language-modelling head, so these are random")
    return has_head
