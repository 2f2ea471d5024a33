"""
The models that pre-training is measured on, with random weights: a small one on a CPU, BERT-base on a GPU.

* Scale, scale       the sizes of a device, and of a smoke run
* objective          an installed objective by its name, with its own settings
* backbone           a new model
* pretraining        the objective around one
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from transformers import BertConfig, BertForMaskedLM

from retrobench.bench.frame import Setting
from retrobench.bench.texts import VOCABULARY
from retrobench.config import Found, discover, get
from retrobench.model import Backbone, Pretraining
from retrobench.objective import Objective
from retrobench.plan import Shape

__all__ = ["Scale", "backbone", "objective", "pretraining", "scale"]


@dataclass(frozen=True)
class Scale:
    """Layers, width, heads and inner width of a BERT; texts a batch, the longest of them, and dropout."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    batch: int
    length: int
    dropout: float = 0.1

    @property
    def shape(self) -> Shape:
        return Shape(self.layers, self.hidden, self.intermediate, VOCABULARY.size)


SMOKE, SMALL, BASE = Scale(2, 32, 2, 64, 4, 32), Scale(4, 256, 4, 1024, 16, 150), Scale(12, 768, 12, 3072, 128, 150)


def scale(setting: Setting) -> Scale:
    """That of a device: of MS MARCO's passages, in batches as RetroMAE had them."""
    return SMOKE if setting.smoke else BASE if setting.cuda else SMALL


@cache
def _installed() -> list[Found]:
    return discover()


def objective(name: str) -> Objective:
    """The objective as it is without settings. RetrobenchError where none of that name is installed."""
    found = get(name, _installed())
    assert found.objective is not None
    return found.objective()


def backbone(sizes: Scale, device: str, seed: int = 0) -> Backbone:
    """A new model, the same for a seed, with the attention that training takes on the device."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"hidden_size": sizes.hidden, "num_hidden_layers": sizes.layers}
    shape |= {"num_attention_heads": sizes.heads, "intermediate_size": sizes.intermediate}
    shape |= {"hidden_dropout_prob": sizes.dropout, "attention_probs_dropout_prob": sizes.dropout}
    lm = BertForMaskedLM(BertConfig(vocab_size=VOCABULARY.size, max_position_embeddings=512, **shape))
    if device == "cpu":
        lm.set_attn_implementation("eager")
    return Backbone(lm).to(device)


def pretraining(of: Objective, sizes: Scale, device: str, seed: int = 0) -> Pretraining:
    """The objective's module around a new model on the device, the same for a seed."""
    return cast(Pretraining, of.wrap(backbone(sizes, device, seed)).to(device))
