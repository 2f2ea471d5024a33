"""LexMAE: rebuild a text from the words that the encoder's head predicts of it, for sparse retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from annotated_types import Ge, Interval

from retrobench import Context, Passage, Step, Vocabulary, hookimpl

if TYPE_CHECKING:
    import torch

    from retrobench.model import Backbone, Layers, Pretraining, WordHead


@dataclass(frozen=True)
class LexMAE:
    """A decoder rebuilds half of a text from its other half and from the words that the encoder finds important.

    A word's importance is the softmax, over the vocabulary, of its largest logit in the text. The decoder reads the
    mean of the word embeddings by importance; the embeddings get no gradient there. Adds layers, and a head whose word
    matrix is the encoder's; both are thrown away in the export. The encoder's own head stays, since the representation
    `terms` reads it. Loss: masked language modelling + decoding.

    A track's `terms` are log(1 + relu) of each word's largest logit, as in SPLADE with the maximum. They leave out the
    first token, and documents keep the largest alone. Titles stand before texts, as `pretrain.titles` says. The
    released code pairs both with a separator, and an empty title becomes "-".
    """

    mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.3  # README.md, command
    decoder_mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.5  # README.md, command
    whole_words: bool = False  # the command lacks --data_wwm; True fills whole words as in RetroMAE
    bottleneck: Literal["logits", "logits_sat", "cls"] = "logits"  # modeling_lexmae.py, "dec_mlm_bottleneck_src"
    decoder_layers: Annotated[int, Ge(1)] = 2  # modeling_lexmae.py

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "lexmae"
    paper: ClassVar[str] = "Shen et al., ICLR 2023, arXiv:2208.14754"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "terms"
    # Without "paper", for the paper's values have not been read.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"as_released": {}}

    def __post_init__(self) -> None:
        if self.decoder_mask_ratio < self.mask_ratio:
            raise ValueError("decoder_mask_ratio must be at least mask_ratio, for it counts the encoder's tokens too")

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        import torch

        from retrobench.model import hide, pack, select_tokens, select_words

        packed = pack(passages, vocabulary, max_length)
        if self.whole_words:
            masked = select_words(packed, vocabulary, self.mask_ratio, generator)
        else:
            masked = select_tokens(packed, self.mask_ratio, generator)
        content = packed.words >= 0  # [B, L]
        further = (self.decoder_mask_ratio - self.mask_ratio) / (1 - self.mask_ratio)
        decoder_masked = masked | (content & (torch.rand(content.shape, generator=generator) < further))
        batch = hide(packed, masked, vocabulary, generator)
        decoder_batch = hide(packed, decoder_masked, vocabulary, generator)
        return {
            **batch,
            "pooled": content,
            "decoder_ids": decoder_batch["input_ids"],
            "decoder_masked_positions": decoder_batch["masked_positions"],
            "decoder_masked_ids": decoder_batch["masked_ids"],
        }

    def wrap(self, backbone: Backbone, context: Context) -> torch.nn.Module:
        from retrobench.model import Layers, Pretraining, WordHead

        decoder = Layers(backbone, self.decoder_layers)
        return Pretraining(backbone, self.step, fresh={"decoder": decoder, "head": WordHead(backbone)})

    def step(
        self,
        model: Pretraining,
        progress: float,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        masked_positions: torch.Tensor,
        masked_ids: torch.Tensor,
        pooled: torch.Tensor,
        decoder_ids: torch.Tensor,
        decoder_masked_positions: torch.Tensor,
        decoder_masked_ids: torch.Tensor,
    ) -> Step:
        import torch

        from retrobench.model import token_loss

        hidden = model.backbone.hidden(input_ids, attention_mask)  # [B, L, D]
        sentence = self.compress(model.backbone, hidden, pooled)
        words = model.backbone.embed(decoder_ids)
        view = torch.cat([sentence[:, None].to(words.dtype), words[:, 1:]], dim=1)
        rebuilt = cast("Layers", model.decoder)(view, attention_mask)
        head = cast("WordHead", model.head)
        losses = {
            "mlm": token_loss(model.backbone, hidden, masked_positions, masked_ids),
            "decoder": token_loss(head, rebuilt, decoder_masked_positions, decoder_masked_ids),
        }
        return Step(losses, {})

    def compress(self, backbone: Backbone, hidden: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Return the decoder's vector of each text, [B, D], from hidden states [B, L, D]; tokens in `pooled` count."""
        from retrobench.model import pooled_logits

        if self.bottleneck == "cls":
            return hidden[:, 0]
        largest = pooled_logits(backbone, hidden, pooled)  # [B, V]
        if self.bottleneck == "logits":
            importance = largest.softmax(-1)
        else:
            saturated = largest.relu().log1p()
            importance = saturated / (saturated.sum(-1, keepdim=True) + 1e-4)
        return importance @ backbone.word_matrix.detach()


@hookimpl
def retrobench_objectives() -> Sequence[type[LexMAE]]:
    return [LexMAE]
