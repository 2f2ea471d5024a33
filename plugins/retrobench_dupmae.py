"""DupMAE: RetroMAE's decoding from [CLS], and a bag of words predicted by the ordinary tokens."""

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
class DupMAE:
    """The [CLS] vector rebuilds the text; the max-pooled logits of the other tokens predict its words.

    Adds a transformer layer, thrown away in the export. The masked-language-modelling head stays, since the
    representation `cls+terms` reads it. Loss: masked language modelling + decoding + 0.1 * bag of words.
    """

    mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.3
    decoder_mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.5
    mask_pool: Annotated[int, Ge(1)] = 256
    query_form: Literal["positions", "embedding"] = "embedding"
    corruption: Literal["80/10/10", "mask"] = "80/10/10"
    decoder_reduction: Literal["mean", "sum"] = "mean"
    bow_weight: Annotated[float, Ge(0)] = 0.1
    bag: Literal["length", "one", "unique", "frequency"] = "length"  # as released: 1 / tokens for each distinct id
    # Section 3.3 excludes masked tokens; the released code pools [MASK] and [SEP] too.
    pooled: Literal["all", "unmasked"] = "all"
    # Equation 6 has one linear map; "tied_embedding" ties it to the word matrix.
    projection: Literal["mlm_head", "tied_embedding"] = "mlm_head"

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "dupmae"
    paper: ClassVar[str] = "Liu et al., ACL 2023, arXiv:2305.02564"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls+terms"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "as_released": {},
        "paper": {
            "query_form": "positions",
            "corruption": "mask",
            "decoder_reduction": "sum",
            "bow_weight": 1.0,
            "bag": "one",
            "pooled": "unmasked",
            "projection": "tied_embedding",
        },
    }

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        from retrobench.model import bag_of_words, decoding_batch, pack

        packed = pack(passages, vocabulary, max_length)
        batch = decoding_batch(packed, vocabulary, self.mask_ratio, generator, self.corruption)
        content = packed.words >= 0  # [B, L]
        if self.pooled == "unmasked":
            batch["pooled"] = content & (batch["input_ids"] != vocabulary.mask)
        else:
            batch["pooled"] = packed.attention_mask.bool()
            batch["pooled"][:, 0] = False  # [CLS]
        rows = [ids[mask].numpy() for ids, mask in zip(packed.input_ids, content, strict=True)]
        batch["bag"], batch["bag_weights"] = bag_of_words(rows, self.bag)
        return batch

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
        pooled: torch.Tensor,
        bag: torch.Tensor,
        bag_weights: torch.Tensor,
        visible: torch.Tensor | None = None,
    ) -> Step:
        """Compute the losses; `visible` [B, L, L] is drawn on the batch's device unless given."""
        from retrobench.model import bag_loss, decoder_visibility, pooled_logits, token_loss

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
        terms = pooled_logits(model.backbone, hidden, pooled, self.projection == "mlm_head")  # [B, V]
        losses = {
            "mlm": token_loss(model.backbone, hidden, masked_positions, masked_ids),
            "decoder": decoding,
            "bow": self.bow_weight * bag_loss(terms, bag, bag_weights),
        }
        return Step(losses, {})


@hookimpl
def retrobench_objectives() -> Sequence[type[DupMAE]]:
    return [DupMAE]
