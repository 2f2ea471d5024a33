"""A tiny model of each family of backbones, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from retrobench.model import Backbone

__all__ = ["FAMILIES", "make_bert"]

SHAPE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def make_bert(**sizes: int) -> Backbone:
    """Return a BERT, tiny but for the given sizes."""
    from transformers import BertConfig, BertForMaskedLM

    return _seeded(BertForMaskedLM, BertConfig(**{**SHAPE, **sizes}))


def _make_roberta() -> Backbone:
    from transformers import RobertaConfig, RobertaForMaskedLM

    return _seeded(RobertaForMaskedLM, RobertaConfig(**SHAPE, pad_token_id=1, bos_token_id=0, eos_token_id=2))


def _make_modernbert() -> Backbone:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    special: dict[str, Any] = {
        "pad_token_id": 0,
        "cls_token_id": 1,
        "bos_token_id": 1,
        "sep_token_id": 2,
        "eos_token_id": 2,
    }
    return _seeded(ModernBertForMaskedLM, ModernBertConfig(**SHAPE, **special))


def _seeded(kind: Any, config: Any) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Backbone(kind(config))


FAMILIES: dict[str, Callable[[], Backbone]] = {
    "bert": make_bert,
    "roberta": _make_roberta,
    "modernbert": _make_modernbert,
}
