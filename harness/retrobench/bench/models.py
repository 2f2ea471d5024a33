"""
The measured models, with random weights: a small BERT on a CPU, BERT-base on a GPU.

* Scale                 sizes of a model and its batches
* default_scale         the sizes for a device, or for a smoke run
* Workload              texts to train on, with the sizes and the setting
* installed_objective   an objective by its name, with its default settings
* make_bert             a new model with the same random weights in every process
* make_backbone         a new model to train
* make_encoder          a model that embeds texts
* make_pretraining      a new model with an objective around it
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, Self, cast

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

from retrobench.bench.setting import Setting
from retrobench.bench.texts import VOCABULARY, draw_lengths, draw_passages
from retrobench.config import InstalledObjective, Representations, discover, find_objective
from retrobench.model import Backbone, Encoder, Pretraining
from retrobench.objective import Context, Objective, Passage
from retrobench.plan import Shape

__all__ = [
    "BASE",
    "BUCKET",
    "Scale",
    "Workload",
    "default_scale",
    "installed_objective",
    "make_backbone",
    "make_bert",
    "make_encoder",
    "make_pretraining",
]

BUCKET = 32  # batches sorted by length together, the default of a run


@dataclass(frozen=True)
class Scale:
    """Layers, width, heads and inner width of a BERT; texts of a batch, and the tokens of the longest."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    batch: int
    length: int
    dropout: float = 0.1
    spread: float = 0.02  # standard deviation of the random weights

    @property
    def shape(self) -> Shape:
        return Shape(self.layers, self.hidden, self.intermediate, VOCABULARY.size)

    @property
    def model_text(self) -> str:
        """The model's sizes in words."""
        return f"{self.layers} layers, {self.hidden} wide"

    @property
    def batch_text(self) -> str:
        """Texts and tokens of a batch."""
        return f"{self.batch} x {self.length}"


SMOKE = Scale(2, 32, 2, 64, batch=4, length=32)
SMALL = Scale(4, 256, 4, 1024, batch=16, length=150)
BASE = Scale(12, 768, 12, 3072, batch=128, length=150)


def default_scale(setting: Setting) -> Scale:
    """Return the sizes for a device: MS MARCO's passages, in batches as RetroMAE had them."""
    return setting.choose(smoke=SMOKE, cpu=SMALL, cuda=BASE)


@dataclass(frozen=True)
class Workload:
    """Texts to train on, the sizes of the model and its batches, and the setting."""

    setting: Setting
    sizes: Scale
    texts: Sequence[Passage]

    @classmethod
    def of_passages(cls, setting: Setting, sizes: Scale) -> Self:
        """Draw texts as long as MS MARCO's passages, a bucket of batches."""
        lengths = draw_lengths(sizes.batch * BUCKET, sizes.length)
        return cls(setting, sizes, draw_passages(lengths))

    @classmethod
    def of_full_texts(cls, setting: Setting, sizes: Scale, batches: int) -> Self:
        """Draw batches of texts of the greatest length allowed."""
        lengths = np.full(batches * sizes.batch, sizes.length)
        return cls(setting, sizes, draw_passages(lengths))


@cache
def _installed() -> list[InstalledObjective]:
    return discover()


def installed_objective(name: str) -> Objective:
    """Return an objective with its default settings. RetrobenchError where no objective of that name is installed."""
    entry = find_objective(name, _installed())
    assert entry.objective is not None
    return entry.objective()


def make_bert(sizes: Scale) -> BertForMaskedLM:
    """Make a model with random weights."""
    config = BertConfig(
        vocab_size=VOCABULARY.size,
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.intermediate,
        hidden_dropout_prob=sizes.dropout,
        attention_probs_dropout_prob=sizes.dropout,
        initializer_range=sizes.spread,
    )
    torch.manual_seed(0)
    return BertForMaskedLM(config)


def make_backbone(sizes: Scale, device: str) -> Backbone:
    """Make a model to train, with the attention that training uses on the device."""
    lm = make_bert(sizes)
    if device == "cpu":
        lm.set_attn_implementation("eager")
    return Backbone(lm).to(device)


def make_encoder(model: Backbone) -> Encoder:
    """Wrap a model so that it embeds texts by [CLS]."""
    return Encoder(model, "cls", Representations())


def make_pretraining(objective: Any, sizes: Scale, device: str) -> Pretraining:
    """Wrap a new model on the device for pre-training with the objective."""
    backbone = make_backbone(sizes, device)
    context = Context(VOCABULARY, sizes.length, load=lambda name: deepcopy(backbone.lm))
    model = objective.wrap(backbone, context)
    return cast(Pretraining, model.to(device))
