"""RetroMAE: rebuild a text from its sentence vector and a heavily masked view of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from annotated_types import Ge, Interval

from retrobench import Context, Passage, Step, Vocabulary, hookimpl

if TYPE_CHECKING:
    import torch

    from retrobench.model import Backbone, EnhancedDecoder, Pretraining


@dataclass(frozen=True)
class RetroMAE:
    """A one-layer enhanced decoder predicts every word from the [CLS] vector and half of the text.

    Adds a transformer layer, thrown away in the export. Loss: masked language modelling + decoding, both with weight 1.
    """

    mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.3
    decoder_mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.5
    mask_pool: Annotated[int, Ge(1)] = 256  # decoder masks drawn per text; each row picks one mask
    query_form: Literal["positions", "embedding"] = "positions"
    corruption: Literal["80/10/10", "mask"] = "80/10/10"
    decoder_reduction: Literal["mean", "sum"] = "mean"  # equation 6 sums over a text's tokens; the code averages

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "retromae"
    paper: ClassVar[str] = "Xiao et al., EMNLP 2022, arXiv:2205.12035"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "as_released": {},
        "paper": {"corruption": "mask", "decoder_reduction": "sum"},
        "flagembedding": {"query_form": "embedding", "mask_pool": 128},
    }

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        from retrobench.model import decoding_batch, pack

        packed = pack(passages, vocabulary, max_length)
        return decoding_batch(packed, vocabulary, self.mask_ratio, generator, self.corruption)

    def wrap(self, backbone: Backbone, context: Context) -> torch.nn.Module:
        from retrobench.model import EnhancedDecoder, Pretraining

        decoder = EnhancedDecoder(backbone.config, own_positions=backbone.positions is None)
        return Pretraining(backbone, self.step, fresh={"decoder": decoder})

    def step(
        self,
        model: Pretraining,
        progress: float,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        masked_positions: torch.Tensor,
        masked_ids: torch.Tensor,
        clean_ids: torch.Tensor,
        words: torch.Tensor,
        content_positions: torch.Tensor,
        visible: torch.Tensor | None = None,
    ) -> Step:
        """Compute the losses; `visible` [B, L, L] is drawn on the batch's device unless given."""
        from retrobench.model import decoder_visibility, token_loss

        hidden = model.backbone.hidden(input_ids, attention_mask)  # [B, L, D]
        if visible is None:
            visible = decoder_visibility(words, attention_mask.sum(1), self.decoder_mask_ratio, self.mask_pool)
        decoder = cast("EnhancedDecoder", model.decoder)
        decoding = decoder.loss(
            model.backbone,
            hidden[:, 0],
            clean_ids,
            visible,
            content_positions,
            self.query_form,
            self.decoder_reduction,
        )
        mlm = token_loss(model.backbone, hidden, masked_positions, masked_ids)
        return Step({"mlm": mlm, "decoder": decoding}, {})


@hookimpl
def retrobench_objectives() -> Sequence[type[RetroMAE]]:
    return [RetroMAE]
