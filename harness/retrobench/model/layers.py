"""
Layers of an encoder, computed as fast as what is read of them allows.

* first_only(model)   a context in which a transformers encoder gives [B, 1, D] in place of [B, L, D]
* halved(model)       a context in which one on a processor computes its layers in bfloat16, for reading alone
* computed(rows)      rows in the precision of a product, for what autocast does not see

B texts of L tokens, D wide, H heads of E dimensions.

`first_only`: all layers but the last are transformers' own. In the last one the query of one token meets the keys of
all: q . (W_k x + b_k) = (W_k' q) . x + a number that softmax does not see, and the weighted values are W_v (sum of
weighted x) + b_v. So BERT needs neither keys nor values of single tokens, and of a layer's 12 D^2 products per token
2 H D are left.

`halved`: the products of autocast, on the same rounded numbers. But a matrix is rounded and laid out for the processor
once, not in every batch, query, key and value come of one product, GELU is applied where a product comes out, and the
softmax stays in a core's cache. What is handed from layer to layer keeps the precision it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrobench.model import kernels
from retrobench.model.internals import CHANGES, Product, attention_of, multiplies_bf16, replaced

__all__ = ["computed", "first_only", "halved"]

# Tolerances of `replaced`. Sums in another order change a vector by 1e-6 of its length, one layer in bfloat16 by 0.01,
# 24 of them by 0.05, and by 0.2 with weights that let no signal through.
SAME, ROUNDED = 0.05, 0.4

TEXTS = 4  # whose scores, H L L of each, are in a core's cache together


@contextmanager
def first_only(model: Any) -> Iterator[bool]:
    """While this lasts, `model` gives the last hidden state of each text's first token, [B, 1, D].

    Yields whether it does: a family that is not known, or attention by a kernel that hides its mask, is left as it is.
    The texts have to be padded on the right.
    """
    layers = _layers(model)
    last = layers[-1] if layers is not None and len(layers) else None
    known = _FAMILIES.get(getattr(model.config, "model_type", ""))
    if last is None or known is None or not _usual(model, last):
        yield False
        return
    with replaced(model, [(last, partial(known, last))], SAME) as is_replaced:
        yield is_replaced


@contextmanager
def halved(model: Any) -> Iterator[bool]:
    """While this lasts, `model` on a processor computes its layers in bfloat16, without what a backward pass needs.

    Yields whether it does: a family that is not like BERT, or a torch or processor without such products, is left as it
    is. The weights of its start are taken. Padding may be anywhere.
    """
    layers = _layers(model)
    if not (layers and _can_be_halved(model) and all(_usual(model, layer) for layer in layers)):
        yield False
        return
    try:
        forwards = [(layer, _Halved(layer)) for layer in layers]
    except CHANGES:
        yield False
        return
    with replaced(model, forwards, ROUNDED) as is_replaced:
        yield is_replaced


def _layers(model: Any) -> Any:
    encoder = getattr(model, "encoder", model)  # ModernBERT's stand in the model itself
    return getattr(encoder, "layer", getattr(encoder, "layers", None))


def _usual(model: Any, layer: Any) -> bool:
    """Whether a layer is what transformers builds: an adapter or a quantised matrix would be passed over."""
    plain = all(type(part) is nn.Linear for part in layer.modules() if hasattr(part, "weight") and _is_matrix(part))
    decodes = getattr(model.config, "is_decoder", False)
    return plain and not decodes and attention_of(model) in ("sdpa", "eager")


def _is_matrix(part: nn.Module) -> bool:
    return getattr(part.weight, "ndim", 0) == 2


def _bert(layer: Any, hidden: Tensor, attention_mask: Tensor | None, *unused: Any, **rest: Any) -> Tensor:
    """BertLayer and its like, [B, L, D] -> [B, 1, D]."""
    own, first = layer.attention.self, hidden[:, :1]
    heads, size = own.num_attention_heads, own.attention_head_size
    keys, values = (part.weight.view(heads, size, -1) for part in (own.key, own.value))  # [H, E, D]
    query = own.query(first).view(len(hidden), heads, size)
    tokens = computed(hidden)
    scores = torch.einsum("bhe,hed->bhd", query, keys) @ tokens.transpose(1, 2)  # [B, H, L]
    weights = F.dropout(_softmax(scores * size**-0.5, attention_mask), own.dropout.p, layer.training)
    mixed = torch.einsum("bhd,hed->bhe", weights.to(tokens.dtype) @ tokens, values)
    # Dropout keeps the sum of the weights at 1 only on average, so in training the bias is weighed too.
    context = mixed + weights.sum(-1, keepdim=True).to(mixed.dtype) * own.value.bias.view(heads, size)
    attended = layer.attention.output(context.reshape(len(hidden), 1, -1), first)
    return layer.feed_forward_chunk(attended)  # type: ignore[no-any-return]


def computed(rows: Tensor) -> Tensor:
    """Rows in the precision that a matrix product would take here."""
    kind = rows.device.type
    return rows.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else rows


def _softmax(scores: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Float32 weights [B, H, L] of scores under the first row of transformers' mask: True, or an added 0, at tokens."""
    scores = scores.float()
    if attention_mask is not None:
        row = attention_mask[:, :, 0]  # [B, 1, L]
        scores = scores.masked_fill(~row, -torch.inf) if row.dtype == torch.bool else scores + row
    return scores.softmax(-1)


def _modernbert(
    layer: Any, hidden: Tensor, attention_mask: Tensor | None, position_embeddings: Any, **rest: Any
) -> Tensor:
    """ModernBertEncoderLayer: its keys turn with their positions, so that every token needs its own."""
    own, (cos, sin) = layer.attn, position_embeddings
    tokens = layer.attn_norm(hidden)
    matrix, bias = own.Wqkv.weight.chunk(3), (None,) * 3 if own.Wqkv.bias is None else own.Wqkv.bias.chunk(3)
    query, key, value = (
        F.linear(rows, *part).view(*rows.shape[:2], -1, own.head_dim).transpose(1, 2)  # [B, H, 1 or L, E]
        for rows, *part in zip((tokens[:, :1], tokens, tokens), matrix, bias, strict=True)
    )
    query, key = _turned(query, cos[:, :1], sin[:, :1]), _turned(key, cos, sin)
    row = None if attention_mask is None else attention_mask[:, :, :1]
    dropout = own.attention_dropout if layer.training else 0.0
    context = F.scaled_dot_product_attention(query, key, value, row, dropout, scale=own.head_dim**-0.5)
    first = hidden[:, :1] + own.out_drop(own.Wo(context.transpose(1, 2).flatten(2)))
    return first + layer.mlp(layer.mlp_norm(first))  # type: ignore[no-any-return]


def _turned(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rows [B, H, L, E] turned by the angles of their positions, [1 or B, L, E]."""
    left, right = rows.float().chunk(2, dim=-1)
    turned = rows.float() * cos[:, None] + torch.cat((-right, left), dim=-1) * sin[:, None]
    return turned.to(rows.dtype)


def _can_be_halved(model: Any) -> bool:
    return (
        _FAMILIES.get(model.config.model_type) is _bert
        and model.config.hidden_act == "gelu"
        and next(model.parameters()).device.type == "cpu"
        and multiplies_bf16()
    )


class _Halved:
    """A BertLayer, or its like, as `halved` computes it."""

    def __init__(self, layer: Any) -> None:
        own, output = layer.attention.self, layer.attention.output
        self.heads, self.size = own.num_attention_heads, own.attention_head_size
        self.mixed, self.attended = Product(own.query, own.key, own.value), Product(output.dense)
        self.wide, self.narrow = Product(layer.intermediate.dense, gelu=True), Product(layer.output.dense)
        self.norms = output.LayerNorm, layer.output.LayerNorm

    def __call__(self, hidden: Tensor, attention_mask: Tensor | None, *unused: Any, **rest: Any) -> Tensor:
        attended = self.norms[0](self.attended(self._context(hidden, attention_mask)) + hidden)
        return self.norms[1](self.narrow(self.wide(attended)) + attended)  # type: ignore[no-any-return]

    def _context(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        shape = (*hidden.shape[:2], self.heads, self.size)
        query, key, value = self.mixed(hidden).view(*shape[:2], 3, *shape[2:]).permute(2, 0, 3, 1, 4)  # [B, H, L, E]
        context = hidden.new_empty(shape, dtype=torch.bfloat16)
        keys = None if attention_mask is None else attention_mask[:, 0, 0]  # [B, L], True, or an added 0, at tokens
        if keys is not None and keys.dtype != torch.bool:
            keys = keys >= 0
        for first in range(0, len(hidden), TEXTS):
            some = slice(first, first + TEXTS)
            weights = query[some].contiguous() @ key[some].transpose(2, 3)
            kernels.softmax(weights, self.size**-0.5, None if keys is None else keys[some])
            context[some] = (weights @ value[some]).transpose(1, 2)
        return context.flatten(2)


_FAMILIES: dict[str, Callable[..., Tensor]] = {
    "bert": _bert,
    "roberta": _bert,
    "xlm-roberta": _bert,
    "modernbert": _modernbert,
}
