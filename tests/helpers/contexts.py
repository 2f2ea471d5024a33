"""Objectives around a backbone, as the stage of pre-training wraps them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import nn

from retrobench import Context, Vocabulary
from retrobench.model import Backbone, Pretraining


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
