"""BoW prediction ("Drop your Decoder"): the [CLS] vector predicts the set of the text's words, with no decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval

from retrobench import Passage, Step, Vocabulary, hookimpl

if TYPE_CHECKING:
    import torch

    from retrobench.model import Backbone, Pretraining


@dataclass(frozen=True)
class BowPrediction:
    """The [CLS] vector, through the tied masked-language-modelling head, predicts each distinct word of the text.

    Adds no parameter. Loss: masked language modelling + weight * bag of words, the weight falling along a cosine.
    """

    mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.3
    bow_weight: Annotated[float, Ge(0)] = 1.0
    decay_to: Annotated[float, Ge(0)] = 0.1
    decay_share: Annotated[float, Interval(gt=0, le=1)] = (
        0.25  # the released loop counted micro-batches, so with 4 a step the floor came this early
    )
    projection: Literal["mlm_head", "tied_embedding"] = "mlm_head"
    truncation: Literal["random", "head"] = "random"

    name: ClassVar[str] = "bow-mae"
    paper: ClassVar[str] = "Ma et al., SIGIR 2024, arXiv:2401.11248"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "as_released": {},
        "as_released_marco": {"decay_share": 0.5},  # the MS MARCO stage ran 2 micro-batches a step
        "paper": {"projection": "tied_embedding", "decay_to": 1.0},
    }

    def weight(self, progress: float) -> float:
        """The bag's weight after a share `progress` of the optimizer steps (released scheduler.py)."""
        turned = min(progress / self.decay_share, 1.0)
        falling = 0.5 * (1 + math.cos(math.pi * turned))
        return self.bow_weight * (self.decay_to + (1 - self.decay_to) * falling)

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        from retrobench.model import bag_of_words, masked_batch, pack, special_ids

        packed = pack(passages, vocabulary, max_length, generator if self.truncation == "random" else None)
        batch = masked_batch(packed, vocabulary, self.mask_ratio, generator)
        content = ~special_ids(vocabulary)[packed.input_ids]
        rows = [ids[kept] for ids, kept in zip(packed.input_ids.numpy(), content.numpy(), strict=True)]
        batch["bag"], batch["bag_weights"] = bag_of_words(rows, "unique")
        return batch

    def wrap(self, backbone: Backbone) -> torch.nn.Module:
        from retrobench.model import Pretraining

        return Pretraining(backbone, self.step)

    def step(
        self,
        model: Pretraining,
        progress: float,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        masked_positions: torch.Tensor,
        masked_ids: torch.Tensor,
        bag: torch.Tensor,
        bag_weights: torch.Tensor,
    ) -> Step:
        from torch.nn.functional import linear

        from retrobench.model import bag_loss, token_loss

        hidden = model.backbone.hidden(input_ids, attention_mask)  # [B, L, D]
        mlm = token_loss(model.backbone, hidden, masked_positions, masked_ids)
        sentence = hidden[:, 0]  # [B, D]
        head = self.projection == "mlm_head"
        logits = model.backbone.logits(sentence) if head else linear(sentence, model.backbone.word_matrix)
        bow = bag_loss(logits, bag, bag_weights)
        # The raw loss is never below the entropy of the target, ln |bag|: only the difference compares across corpora.
        floor = bag_weights.gt(0).sum(1).clamp(min=1).log().mean()
        return Step({"mlm": mlm, "bow": self.weight(progress) * bow}, {"bow_kl": (bow - floor).detach()})


@hookimpl
def retrobench_objectives() -> Sequence[type[BowPrediction]]:
    return [BowPrediction]
