"""The forward that Condenser and coCondenser share."""

from __future__ import annotations

import torch
from torch import Tensor

from retrobench.errors import RetrobenchError
from retrobench.model.added_layers import Layers
from retrobench.model.backbones import Backbone

__all__ = ["condense", "early_layer"]


def early_layer(backbone: Backbone, layer: int) -> int:
    """Return the layer from which Condenser's head takes the words: `layer`, or for 0 half of the layers, rounded down.

    RetrobenchError for a layer that is not below the last.
    """
    count = len(list(backbone.layers))
    if layer >= count:
        raise RetrobenchError(
            f"skip_from is {layer}, and the base model has {count} layers. Choose a layer below {count}, or 0 for half."
        )
    return layer or count // 2


def condense(
    backbone: Backbone, head: Layers, layer: int, input_ids: Tensor, attention_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the states behind the last layer and those behind Condenser's head, both [B, L, D].

    The head reads the last state of [CLS], and the states of the other tokens behind an early `layer`. The later
    layers reach it through [CLS] alone.
    """
    early, late = backbone.hidden(input_ids, attention_mask, layers=(layer, -1))
    rows = torch.cat([late[:, :1], early[:, 1:]], dim=1)
    return late, head(rows, attention_mask)
