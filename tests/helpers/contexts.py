"""Objectives around a backbone, as the stage of pre-training wraps them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from torch import Tensor, nn

from retrobench import Context, Step, Vocabulary
from retrobench.model import Backbone, Pretraining
from retrobench.training import Coupled, Shard


def context(backbone: Backbone, vocabulary: Vocabulary | None = None, max_length: int = 40, **facts: Any) -> Context:
    """Return the context of a first stage; a model of a setting is a copy of the backbone's."""
    if vocabulary is None:
        vocabulary = Vocabulary(backbone.config.vocab_size, 0, 2, 3, 4, frozenset(range(5)))
    lm: nn.Module = deepcopy(backbone.lm)

    def load(name: str) -> nn.Module:
        copy: nn.Module = deepcopy(lm)
        return copy

    return Context(vocabulary, max_length, load, **facts)


def wrapped(objective: Any, backbone: Backbone, vocabulary: Vocabulary | None = None, **facts: Any) -> Pretraining:
    """Return the module of an objective around a backbone."""
    model = objective.wrap(backbone, context(backbone, vocabulary, **facts))
    assert isinstance(model, Pretraining)
    return model


def trainable(objective: Any, model: nn.Module) -> nn.Module:
    """Return the module that `train` takes: the objective's own, or one that couples its shards."""
    if objective.couples_batch:
        return Coupled(objective.name, model)
    return model


def forward(objective: Any, model: nn.Module, progress: float, batch: Mapping[str, Tensor], seed: int = 0) -> Step:
    """Return the step of a batch. A coupled batch is a single shard, whose draws have the seed."""
    step: Step
    if objective.couples_batch:
        shard = Shard(np.zeros(0, np.int64), seed, batch, 0.0)
        step = trainable(objective, model)(progress, [shard])
    else:
        step = model(progress, **batch)
    return step
