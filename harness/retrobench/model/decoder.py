"""RetroMAE's enhanced decoder: one transformer layer whose queries differ from its keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from retrobench.model.backbones import Backbone

__all__ = ["EnhancedDecoder"]


class EnhancedDecoder(nn.Module):
    """Rebuild a text from its sentence vector (RetroMAE, section 3.3).

    Both streams share the encoder's embeddings. The query stream is the sentence vector at every position, which the
    residual follows; the context stream holds the words, with the sentence vector in place of [CLS].
    """

    def __init__(self, config: Any, own_positions: bool) -> None:
        """`own_positions`: learn a position table here, for an encoder that has none to lend."""
        super().__init__()
        width = config.hidden_size
        eps = getattr(config, "layer_norm_eps", getattr(config, "norm_eps", 1e-12))
        self.heads = config.num_attention_heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.project = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.expand = nn.Linear(width, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=eps)
        self.activation = ACT2FN[getattr(config, "hidden_act", "gelu")]
        self.dropout = nn.Dropout(getattr(config, "hidden_dropout_prob", 0.1))
        self.attention_dropout = getattr(config, "attention_probs_dropout_prob", 0.1)
        self.positions = nn.Embedding(config.max_position_embeddings, width) if own_positions else None

    def forward(
        self, backbone: Backbone, sentence: Tensor, input_ids: Tensor, visible: Tensor, query_form: str
    ) -> Tensor:
        """Hidden states [B, L, D] from `sentence` [B, D], clean ids [B, L] and `visible` [B, L, L] bool.

        `query_form` "positions" asks with h + p (RetroMAE as released), "embedding" with LN(h + p + type) (DupMAE).
        """
        length = input_ids.shape[1]
        table = backbone.positions if self.positions is None else self.positions.weight
        assert table is not None
        words = backbone.embed(input_ids=input_ids)  # [B, L, D]
        repeated = sentence[:, None, :].expand(-1, length, -1)  # [B, L, D]
        if self.positions is not None:  # the embedding module adds no positions, so both streams get them here
            words = words + table[:length]
        if query_form == "positions":
            query = table[:length] + repeated
        else:
            query = backbone.embed(inputs_embeds=repeated if self.positions is None else repeated + table[:length])
        context = torch.cat([sentence[:, None, :].to(words.dtype), words[:, 1:]], dim=1)
        return self._layer(query, context, visible)

    def _layer(self, query: Tensor, context: Tensor, visible: Tensor) -> Tensor:
        batch, length, width = query.shape

        def split(x: Tensor) -> Tensor:  # [B, L, D] -> [B, heads, L, D / heads]
            return x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            split(self.query(query)),
            split(self.key(context)),
            split(self.value(context)),
            attn_mask=visible[:, None],
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        attended = self.project(attended.transpose(1, 2).reshape(batch, length, width))
        x = self.attention_norm(self.dropout(attended) + query)
        return self.output_norm(self.dropout(self.contract(self.activation(self.expand(x)))) + x)  # type: ignore[no-any-return]
