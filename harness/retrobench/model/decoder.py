"""RetroMAE's enhanced decoder: one transformer layer whose queries differ from its keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from retrobench.model.backbones import Backbone
from retrobench.model.heads import token_loss
from retrobench.model.masking import Packed, masked_batch
from retrobench.objective import Vocabulary

__all__ = ["EnhancedDecoder", "decoding_batch"]


def decoding_batch(
    packed: Packed, vocabulary: Vocabulary, ratio: float, generator: torch.Generator, corruption: str
) -> dict[str, Tensor]:
    """Return a batch for masked language modelling, as `masked_batch` does, and for the enhanced decoder.

    The decoder reads `clean_ids` and `words`, both [B, L], and predicts the ids at `content_positions` [C], which index
    the flattened batch.
    """
    batch = masked_batch(packed, vocabulary, ratio, generator, corruption)
    batch["clean_ids"] = packed.input_ids
    batch["words"] = packed.words
    batch["content_positions"] = (packed.words >= 0).flatten().nonzero().flatten()
    return batch


class EnhancedDecoder(nn.Module):
    """Rebuild a text from its sentence vector (RetroMAE, section 3.3).

    The decoder reads two streams, both embedded by the encoder's embeddings. The query stream is the sentence vector at
    every position, and the residual adds to it. The context stream is the words, with the sentence vector instead of
    [CLS].
    """

    def __init__(self, config: Any, own_positions: bool) -> None:
        """Build the decoder; with `own_positions` it learns a table of positions, for an encoder without one."""
        super().__init__()
        width = config.hidden_size
        epsilon = getattr(config, "layer_norm_eps", getattr(config, "norm_eps", 1e-12))
        self.heads = config.num_attention_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=epsilon)
        self.expand = nn.Linear(width, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=epsilon)
        self.activation = ACT2FN[getattr(config, "hidden_act", "gelu")]
        self.dropout = nn.Dropout(getattr(config, "hidden_dropout_prob", 0.1))
        self.attention_dropout = getattr(config, "attention_probs_dropout_prob", 0.1)
        self.positions: nn.Embedding | None = None
        if own_positions:
            self.positions = nn.Embedding(config.max_position_embeddings, width)

    def forward(
        self, backbone: Backbone, sentence: Tensor, input_ids: Tensor, visible: Tensor, query_form: str
    ) -> Tensor:
        """Return hidden states [B, L, D] from `sentence` [B, D], clean ids [B, L] and `visible` [B, L, L] bool.

        The queries are h + p for `query_form` "positions" (RetroMAE as released), and LN(h + p + type) for "embedding"
        (DupMAE).
        """
        length = input_ids.shape[1]
        table = self._positions(backbone)  # [P, D]
        words = backbone.embed(input_ids=input_ids)  # [B, L, D]
        repeated = sentence[:, None, :].expand(-1, length, -1)  # [B, L, D]
        if self.positions is not None:  # the encoder's embeddings add no positions
            words = words + table[:length]
        if query_form == "positions":
            query = table[:length] + repeated
        elif self.positions is not None:
            query = backbone.embed(inputs_embeds=repeated + table[:length])
        else:
            query = backbone.embed(inputs_embeds=repeated)
        context = torch.cat([sentence[:, None, :].to(words.dtype), words[:, 1:]], dim=1)
        return self._layer(query, context, visible)

    def loss(
        self,
        backbone: Backbone,
        sentence: Tensor,
        clean_ids: Tensor,
        visible: Tensor,
        content_positions: Tensor,
        query_form: str,
        reduction: str,
    ) -> Tensor:
        """Return the loss of the ids at `content_positions`, through the backbone's head; see `token_loss`."""
        rebuilt = self(backbone, sentence, clean_ids, visible, query_form)  # [B, L, D]
        content_ids = clean_ids.flatten()[content_positions]
        return token_loss(backbone, rebuilt, content_positions, content_ids, reduction)

    def _positions(self, backbone: Backbone) -> Tensor:
        """Return the table of positions, [P, D]: the decoder's own, or else the encoder's."""
        if self.positions is not None:
            return self.positions.weight
        table = backbone.positions
        assert table is not None
        return table

    def _layer(self, query: Tensor, context: Tensor, visible: Tensor) -> Tensor:
        dropout = 0.0
        if self.training:
            dropout = self.attention_dropout
        attended = F.scaled_dot_product_attention(
            self._by_head(self.query(query)),
            self._by_head(self.key(context)),
            self._by_head(self.value(context)),
            attn_mask=visible[:, None],
            dropout_p=dropout,
        )
        attended = self.project(attended.transpose(1, 2).flatten(2))  # [B, L, D]
        hidden = self.attention_norm(self.dropout(attended) + query)
        expanded = self.activation(self.expand(hidden))
        return self.output_norm(self.dropout(self.contract(expanded)) + hidden)  # type: ignore[no-any-return]

    def _by_head(self, rows: Tensor) -> Tensor:
        """Split rows by attention head: [B, L, D] -> [B, heads, L, D / heads]."""
        texts, length, width = rows.shape
        return rows.view(texts, length, self.heads, width // self.heads).transpose(1, 2)
