"""The BoW paper's baselines of speed that are no plugins: decoders fed with the sentence vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from retrobench.bench.peers.collators import AE_RATIO, RATIO
from retrobench.model import Backbone, Pretraining, masked_batch, pack, token_loss
from retrobench.objective import Context, Passage, Step, Vocabulary

__all__ = ["SentenceDecoder"]


@dataclass(frozen=True)
class SentenceDecoder:
    """A further layer over the embedded text, whose first token the sentence vector replaces.

    Auto-encoding: a layer like the encoder's rebuilds a second, more heavily masked copy at its masked positions.
    Auto-regression, `causal`: a layer as in GPT-2, with norms before attention, predicts each next token.
    """

    causal: bool

    name: ClassVar[str] = "sentence-decoder"
    couples_batch: ClassVar[bool] = False

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        packed = pack(passages, vocabulary, max_length)
        batch = masked_batch(packed, vocabulary, RATIO, generator)
        if self.causal:
            predicted = packed.attention_mask.bool()
            predicted[:, 0] = False
            batch["decoder_ids"] = packed.input_ids
            batch["decoder_positions"] = predicted.flatten().nonzero().flatten() - 1
            batch["decoder_targets"] = packed.input_ids[predicted]
        else:
            masked = masked_batch(packed, vocabulary, AE_RATIO, generator)
            batch["decoder_ids"] = masked["input_ids"]
            batch["decoder_positions"] = masked["masked_positions"]
            batch["decoder_targets"] = masked["masked_ids"]
        return batch

    def wrap(self, backbone: Backbone, context: Context) -> nn.Module:
        config: Any = backbone.config
        layer = nn.TransformerEncoderLayer(
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.hidden_dropout_prob,
            "gelu",
            config.layer_norm_eps,
            batch_first=True,
            norm_first=self.causal,
        )
        norm: nn.Module = nn.Identity()
        if self.causal:
            norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        return Pretraining(backbone, self.step, fresh={"decoder": layer, "norm": norm})

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
        embedded = backbone.embed(input_ids=decoder_ids).to(hidden.dtype)
        sentence = hidden[:, :1]  # [B, 1, D]
        context = torch.cat([sentence, embedded[:, 1:]], dim=1)
        rebuilt = self._decode(model, context, attention_mask)
        losses = {
            "mlm": token_loss(backbone, hidden, masked_positions, masked_ids),
            "decoder": token_loss(backbone, rebuilt, decoder_positions, decoder_targets),
        }
        return Step(losses, {})

    def _decode(self, model: Pretraining, context: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the decoder's hidden states [B, L, D]."""
        modules = cast(Any, model)
        if self.causal:
            # Padding stands behind every token that a causal layer sees, so it needs no mask of its own.
            length = context.shape[1]
            visible = nn.Transformer.generate_square_subsequent_mask(length, context.device, context.dtype)
            decoded = modules.decoder(context, src_mask=visible, is_causal=True)
        else:
            decoded = modules.decoder(context, src_key_padding_mask=attention_mask == 0)
        return cast(Tensor, modules.norm(decoded))
