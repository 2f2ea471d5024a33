"""BoW prediction ("Drop your Decoder"): the [CLS] vector predicts the set of the text's words, with no decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval

from retrobench import Context, Passage, Step, Vocabulary, hookimpl

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
    # The released loop counted micro-batches, 4 per step, so the weight reached its floor after a quarter of the steps.
    decay_share: Annotated[float, Interval(gt=0, le=1)] = 0.25
    projection: Literal["mlm_head", "tied_embedding"] = "mlm_head"
    truncation: Literal["random", "head"] = "random"

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "bow-mae"
    paper: ClassVar[str] = "Ma et al., SIGIR 2024, arXiv:2401.11248"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "as_released": {},
        "as_released_marco": {"decay_share": 0.5},  # the MS MARCO stage ran 2 micro-batches per step
        "paper": {"projection": "tied_embedding", "decay_to": 1.0},
    }

    def weight(self, progress: float) -> float:
        """Return the bag's weight after a share `progress` of the optimizer steps (released scheduler.py)."""
        share = min(progress / self.decay_share, 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * share))  # from 1 to 0
        return self.bow_weight * (self.decay_to + (1 - self.decay_to) * cosine)

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        from retrobench.model import bag_of_words, masked_batch, pack, special_ids

        window = generator if self.truncation == "random" else None
        packed = pack(passages, vocabulary, max_length, window)
        batch = masked_batch(packed, vocabulary, self.mask_ratio, generator)
        content = ~special_ids(vocabulary)[packed.input_ids]
        rows = [ids[mask].numpy() for ids, mask in zip(packed.input_ids, content, strict=True)]
        batch["bag"], batch["bag_weights"] = bag_of_words(rows, "unique")
        return batch

    def wrap(self, backbone: Backbone, context: Context) -> torch.nn.Module:
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
        if self.projection == "mlm_head":
            logits = model.backbone.logits(sentence)  # [B, V]
        else:
            logits = linear(sentence, model.backbone.word_matrix)
        bow = bag_loss(logits, bag, bag_weights)
        # The loss is at least the target's entropy, ln |bag|, so only the difference can be compared across corpora.
        words = bag_weights.gt(0).sum(1).clamp(min=1)
        entropy = words.log().mean()
        losses = {"mlm": mlm, "bow": self.weight(progress) * bow}
        return Step(losses, {"bow_kl": (bow - entropy).detach()})


@hookimpl
def retrobench_objectives() -> Sequence[type[BowPrediction]]:
    return [BowPrediction]
