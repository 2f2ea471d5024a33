"""
Faster forwards for an encoder's layers, for reading without training.

* first_token_only(model)   a context in which an encoder returns [B, 1, D] instead of [B, L, D]
* bfloat16_layers(model)    a context in which an encoder on a processor computes its layers in bfloat16
* to_autocast_dtype(rows)   rows in the dtype that autocast gives a matrix product

B texts of L tokens, D wide, H heads of E dimensions.

`first_token_only` changes the last layer alone. Its one query q meets the keys of all tokens x:
q . (W_k x + b_k) = (W_k' q) . x + q . b_k. The last term is the same for every token, so softmax ignores it.
The weighted values are W_v (weighted sum of x) + b_v. BERT therefore needs no keys or values of single tokens. Of a
layer's 12 D^2 products per token, 2 H D remain.

`bfloat16_layers` computes autocast's products, on the same rounded numbers. Four things make it faster. A weight matrix
is rounded and laid out for the processor once, not once per batch. Query, key and value come from one product. GELU is
applied within a product. The softmax stays in a core's cache. Layers pass hidden states on in their own precision.
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
from retrobench.model.internals import CHANGES, Bfloat16Linear, attention_of, has_bfloat16_linear, replaced_forwards

__all__ = ["bfloat16_layers", "first_token_only", "to_autocast_dtype"]

# Tolerances of `replaced_forwards`, in shares of a vector's length. Another order of sums changes a vector by 1e-6.
FLOAT32_TOLERANCE = 0.05
# One bfloat16 layer changes it by 0.01, 24 layers by 0.05, and layers whose weights let no signal through by 0.2.
BFLOAT16_TOLERANCE = 0.4

TEXTS = 4  # texts per block, so that their scores, [H, L, L] per text, fit into a core's cache


@contextmanager
def first_token_only(model: Any) -> Iterator[bool]:
    """Make `model` return the first token's last hidden state alone, [B, 1, D], within the context.

    Yields whether it does. A model of an unknown family, or with an attention kernel that hides its mask, stays
    unchanged. Texts must be padded on the right.
    """
    layers = _layers(model)
    forward = _FIRST_TOKEN_FORWARDS.get(getattr(model.config, "model_type", ""))
    if not layers or forward is None or not _is_unmodified(model, layers[-1]):
        yield False
        return
    last = layers[-1]
    with replaced_forwards(model, [(last, partial(forward, last))], FLOAT32_TOLERANCE) as is_replaced:
        yield is_replaced


@contextmanager
def bfloat16_layers(model: Any) -> Iterator[bool]:
    """Make `model` compute its layers in bfloat16 within the context, on a processor and without gradients.

    Yields whether it does. A model unlike BERT stays unchanged, and so does any model where torch or the processor
    lacks bfloat16 products. The weights are read once, on entry. Padding may be anywhere.
    """
    layers = _layers(model)
    if not layers or not _can_use_bfloat16(model) or not all(_is_unmodified(model, layer) for layer in layers):
        yield False
        return
    try:
        forwards = [(layer, _Bfloat16Layer(layer)) for layer in layers]
    except CHANGES:
        yield False
        return
    with replaced_forwards(model, forwards, BFLOAT16_TOLERANCE) as is_replaced:
        yield is_replaced


def to_autocast_dtype(rows: Tensor) -> Tensor:
    """Return rows in the dtype that autocast gives a matrix product; without autocast they stay as they are."""
    device = rows.device.type
    if not torch.is_autocast_enabled(device):
        return rows
    return rows.to(torch.get_autocast_dtype(device))


def _layers(model: Any) -> Any:
    encoder = getattr(model, "encoder", model)  # ModernBERT has no separate encoder
    return getattr(encoder, "layer", getattr(encoder, "layers", None))


def _is_unmodified(model: Any, layer: Any) -> bool:
    """Return whether a layer is as transformers builds it; a faster forward would skip an adapter or quantisation."""
    if getattr(model.config, "is_decoder", False):
        return False
    if attention_of(model) not in ("sdpa", "eager"):
        return False
    matrices = [module for module in layer.modules() if _has_matrix(module)]
    return all(type(module) is nn.Linear for module in matrices)


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return getattr(weight, "ndim", 0) == 2


def _can_use_bfloat16(model: Any) -> bool:
    is_like_bert = _FIRST_TOKEN_FORWARDS.get(model.config.model_type) is _bert_first_token
    if not is_like_bert or model.config.hidden_act != "gelu":
        return False
    device = next(model.parameters()).device
    return device.type == "cpu" and has_bfloat16_linear()


def _bert_first_token(
    layer: Any, hidden: Tensor, attention_mask: Tensor | None, *_unused: Any, **_named: Any
) -> Tensor:
    """Compute a BertLayer for the first token: [B, L, D] -> [B, 1, D]. The algebra stands in the module's docstring."""
    attention = layer.attention.self
    heads, size = attention.num_attention_heads, attention.attention_head_size
    key_weight = attention.key.weight.view(heads, size, -1)  # [H, E, D]
    value_weight = attention.value.weight.view(heads, size, -1)  # [H, E, D]
    value_bias = attention.value.bias.view(heads, size)
    first = hidden[:, :1]
    tokens = to_autocast_dtype(hidden)  # [B, L, D]

    query = attention.query(first).view(len(hidden), heads, size)
    query_by_width = torch.einsum("bhe,hed->bhd", query, key_weight)
    scores = query_by_width @ tokens.transpose(1, 2)  # [B, H, L]
    weights = _attention_weights(scores * size**-0.5, attention_mask)
    weights = F.dropout(weights, attention.dropout.p, layer.training)

    mixed_tokens = weights.to(tokens.dtype) @ tokens  # [B, H, D]
    mixed_values = torch.einsum("bhd,hed->bhe", mixed_tokens, value_weight)
    # Dropout keeps the sum of the weights at 1 only on average, so in training the bias is weighted too.
    weight_sums = weights.sum(-1, keepdim=True).to(mixed_values.dtype)
    context = mixed_values + weight_sums * value_bias  # [B, H, E]
    attended = layer.attention.output(context.reshape(len(hidden), 1, -1), first)
    return layer.feed_forward_chunk(attended)  # type: ignore[no-any-return]


def _attention_weights(scores: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the float32 softmax of scores [B, H, L] under the first row of transformers' mask.

    The mask is bool, True at real tokens, or a float that is added and 0 at real tokens.
    """
    scores = scores.float()
    if attention_mask is None:
        return scores.softmax(-1)
    mask = attention_mask[:, :, 0]  # [B, 1, L]
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return (scores + mask).softmax(-1)


def _modernbert_first_token(
    layer: Any, hidden: Tensor, attention_mask: Tensor | None, position_embeddings: Any, **_named: Any
) -> Tensor:
    """Compute a ModernBertEncoderLayer for the first token: [B, L, D] -> [B, 1, D].

    Each key is rotated by its position, so every token needs a key.
    """
    attention = layer.attn
    cos, sin = position_embeddings
    query_weight, key_weight, value_weight = attention.Wqkv.weight.chunk(3)
    query_bias = key_bias = value_bias = None
    if attention.Wqkv.bias is not None:
        query_bias, key_bias, value_bias = attention.Wqkv.bias.chunk(3)
    tokens = layer.attn_norm(hidden)

    query = _by_head(F.linear(tokens[:, :1], query_weight, query_bias), attention.head_dim)  # [B, H, 1, E]
    key = _by_head(F.linear(tokens, key_weight, key_bias), attention.head_dim)  # [B, H, L, E]
    value = _by_head(F.linear(tokens, value_weight, value_bias), attention.head_dim)
    query = _rotated(query, cos[:, :1], sin[:, :1])
    key = _rotated(key, cos, sin)

    mask = None
    if attention_mask is not None:
        mask = attention_mask[:, :, :1]
    dropout = 0.0
    if layer.training:
        dropout = attention.attention_dropout
    context = F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=attention.head_dim**-0.5)
    projected = attention.Wo(context.transpose(1, 2).flatten(2))
    first = hidden[:, :1] + attention.out_drop(projected)
    return first + layer.mlp(layer.mlp_norm(first))  # type: ignore[no-any-return]


def _by_head(rows: Tensor, size: int) -> Tensor:
    """Split rows by attention head: [B, L, H * E] -> [B, H, L, E]."""
    texts, length, _ = rows.shape
    return rows.view(texts, length, -1, size).transpose(1, 2)


def _rotated(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate rows [B, H, L, E] by the angles of their positions, [1 or B, L, E] (Su et al. 2021, arXiv:2104.09864)."""
    wide = rows.float()
    first_half, second_half = wide.chunk(2, dim=-1)
    swapped = torch.cat((-second_half, first_half), dim=-1)
    rotated = wide * cos[:, None] + swapped * sin[:, None]
    return rotated.to(rows.dtype)


class _Bfloat16Layer:
    """The forward of a BertLayer, or of a layer like it, within `bfloat16_layers`."""

    def __init__(self, layer: Any) -> None:
        attention, output = layer.attention.self, layer.attention.output
        self.heads = attention.num_attention_heads
        self.size = attention.attention_head_size
        self.query_key_value = Bfloat16Linear(attention.query, attention.key, attention.value)
        self.attention_output = Bfloat16Linear(output.dense)
        self.attention_norm = output.LayerNorm
        self.expand = Bfloat16Linear(layer.intermediate.dense, gelu=True)
        self.contract = Bfloat16Linear(layer.output.dense)
        self.output_norm = layer.output.LayerNorm

    def __call__(self, hidden: Tensor, attention_mask: Tensor | None, *_unused: Any, **_named: Any) -> Tensor:
        context = self._context(hidden, _real_keys(attention_mask))
        attended = self.attention_norm(self.attention_output(context) + hidden)
        expanded = self.expand(attended)
        return self.output_norm(self.contract(expanded) + attended)  # type: ignore[no-any-return]

    def _context(self, hidden: Tensor, keys: Tensor | None) -> Tensor:
        """Return the attention's weighted values, [B, L, D] bfloat16; `keys` [B, L] bool are the real tokens."""
        texts, length, _ = hidden.shape
        projected = self.query_key_value(hidden).view(texts, length, 3, self.heads, self.size)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # [B, H, L, E] each
        context = hidden.new_empty((texts, length, self.heads, self.size), dtype=torch.bfloat16)
        for start in range(0, texts, TEXTS):
            block = slice(start, start + TEXTS)
            block_keys = None
            if keys is not None:
                block_keys = keys[block]
            block_query = query[block].contiguous()
            scores = block_query @ key[block].transpose(2, 3)  # [TEXTS, H, L, L]
            kernels.softmax(scores, self.size**-0.5, block_keys)  # in place
            weighted_values = scores @ value[block]
            context[block] = weighted_values.transpose(1, 2)
        return context.flatten(2)


def _real_keys(attention_mask: Tensor | None) -> Tensor | None:
    """Return the real tokens, [B, L] bool, of transformers' mask, or None where all are."""
    if attention_mask is None:
        return None
    keys = attention_mask[:, 0, 0]  # [B, L]
    if keys.dtype == torch.bool:
        return keys
    return keys >= 0  # a float mask is 0 at real tokens and negative at padding


_FIRST_TOKEN_FORWARDS: dict[str, Callable[..., Tensor]] = {
    "bert": _bert_first_token,
    "roberta": _bert_first_token,
    "xlm-roberta": _bert_first_token,
    "modernbert": _modernbert_first_token,
}
