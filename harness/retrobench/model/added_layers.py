"""Modules that an objective adds to a backbone: transformer layers of its family, and a head for its words."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from retrobench.errors import RetrobenchError
from retrobench.model.backbones import Backbone
from retrobench.model.internals import initialise

__all__ = ["Layers", "WordHead"]


class Layers(nn.Module):
    """Layers like a backbone's last ones, new or copied: rows [B, L, D] -> [B, L, D].

    Condenser's head and CoT-MAE's decoder are new layers, SimLM's decoder is a copy.
    """

    def __init__(self, backbone: Backbone, count: int, copy: bool = False) -> None:
        """Make `count` layers with weights as the family draws them, or with `copy` those of the last layers.

        RetrobenchError if the backbone has fewer layers to copy.
        """
        super().__init__()
        originals = list(backbone.layers)
        if copy and count > len(originals):
            raise RetrobenchError(
                f"The base model has {len(originals)} layers, and {count} are copied. Copy {len(originals)} at most."
            )
        self.is_copy = copy
        self.layers = nn.ModuleList()
        for number in range(len(originals) - count, len(originals)):
            layer = deepcopy(originals[number]) if copy else _make_layer(backbone, originals, number)
            self.layers.append(layer)
        # In a tuple, for the backbone's weights are not those of this module.
        self._backbone = (backbone,)

    def forward(self, rows: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute the layers on rows [B, L, D] under a mask [B, L] that is 1 at real tokens."""
        (backbone,) = self._backbone
        mask = backbone.layer_mask(attention_mask)
        for layer in self.layers:
            rows = backbone.run_layer(layer, rows, mask)
        return rows


def _make_layer(backbone: Backbone, originals: list[nn.Module], number: int) -> nn.Module:
    """Make a new layer like the backbone's layer of that number, or like its second: ModernBERT's first has no norm."""
    index = max(number, min(1, len(originals) - 1))
    kind: Any = type(originals[index])
    layer: nn.Module = kind(backbone.config, layer_idx=index)
    initialise(backbone.lm, layer)
    return layer


class WordHead(nn.Module):
    """A masked-language-modelling head as BERT's, whose word matrix is the backbone's; the rest is its own (LexMAE).

    `token_loss` takes it in place of a backbone.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        config = backbone.config
        width = config.hidden_size
        epsilon = getattr(config, "layer_norm_eps", getattr(config, "norm_eps", 1e-12))
        self.dense = nn.Linear(width, width)
        self.activation = ACT2FN[getattr(config, "hidden_act", "gelu")]
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.word_bias = nn.Parameter(torch.zeros(len(backbone.word_matrix)))
        # In a tuple, for the backbone's weights are not those of this module.
        self._backbone = (backbone,)

    def transform(self, hidden: Tensor) -> Tensor:
        """Compute all but the product with the word matrix: [..., D] -> [..., D]."""
        return self.norm(self.activation(self.dense(hidden)))  # type: ignore[no-any-return]

    @property
    def word_matrix(self) -> Tensor:
        """The backbone's word embeddings, [V, D]."""
        (backbone,) = self._backbone
        return backbone.word_matrix
