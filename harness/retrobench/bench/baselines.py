"""
Objectives that the BoW paper compares speeds with and that are no plugins: decoders fed with the sentence vector.

* AutoEncoding       rebuilds a second, more heavily masked copy of the text at its masked positions
* AutoRegression     predicts each next token of the text
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from retrobench.bench.peers.collators import AE_RATIO, RATIO
from retrobench.model import Backbone, Pretraining, masked_batch, pack, token_loss
from retrobench.objective import Passage, Step, Vocabulary

__all__ = ["AutoEncoding", "AutoRegression"]


class _Baseline:
    """What both share: one more layer over the sentence vector and the embedded text, in place of [CLS]."""

    before = False  # whether norms stand before attention and inner layer, as in GPT-2, or behind them

    def wrap(self, backbone: Backbone) -> nn.Module:
        config: Any = backbone.config
        layer = nn.TransformerEncoderLayer(
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.hidden_dropout_prob,
            "gelu",
            config.layer_norm_eps,
            batch_first=True,
            norm_first=self.before,
        )
        norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if self.before else nn.Identity()
        return Pretraining(backbone, self.step, decoder=layer, norm=norm)

    def step(
        self,
        model: Pretraining,
        progress: float,
        input_ids: Tensor,
        attention_mask: Tensor,
        masked_positions: Tensor,
        masked_ids: Tensor,
        decoder_ids: Tensor,
        decoder_positions: Tensor,
        decoder_targets: Tensor,
    ) -> Step:
        backbone = model.backbone
        hidden = backbone.hidden(input_ids, attention_mask)  # [B, L, D]
        context = torch.cat([hidden[:, :1], backbone.embed(input_ids=decoder_ids)[:, 1:].to(hidden.dtype)], dim=1)
        causal = self._causal(context) if self.before else None
        padding = None if causal is not None else attention_mask == 0  # it stands behind all that a causal layer sees
        decoder, norm = cast(Any, model).decoder, cast(Any, model).norm
        rebuilt = norm(decoder(context, src_mask=causal, src_key_padding_mask=padding, is_causal=causal is not None))
        return Step(
            {
                "mlm": token_loss(backbone, hidden, masked_positions, masked_ids),
                "decoder": token_loss(backbone, rebuilt, decoder_positions, decoder_targets),
            },
            {},
        )

    def _causal(self, context: Tensor) -> Tensor:
        return nn.Transformer.generate_square_subsequent_mask(context.shape[1], context.device, context.dtype)


class AutoEncoding(_Baseline):
    """One layer like the encoder's; masked language modelling again."""

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        packed = pack(passages, vocabulary, max_length)
        batch = masked_batch(packed, vocabulary, RATIO, generator)
        decoder = masked_batch(packed, vocabulary, AE_RATIO, generator)
        batch["decoder_ids"] = decoder["input_ids"]
        batch["decoder_positions"], batch["decoder_targets"] = decoder["masked_positions"], decoder["masked_ids"]
        return batch


class AutoRegression(_Baseline):
    """One layer as in GPT-2, which sees what stands before a token."""

    before = True

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        packed = pack(passages, vocabulary, max_length)
        batch = masked_batch(packed, vocabulary, RATIO, generator)
        real = packed.attention_mask.bool()
        real[:, 0] = False
        batch["decoder_ids"] = packed.input_ids
        batch["decoder_positions"] = real.flatten().nonzero().flatten() - 1
        batch["decoder_targets"] = packed.input_ids[real]
        return batch
