"""coCondenser: Condenser, and the two spans of a document find each other among the spans of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from annotated_types import Ge, Interval

from retrobench import Context, Passage, Step, Vocabulary, hookimpl

if TYPE_CHECKING:
    import numpy as np
    import torch

    from retrobench.model import Backbone, Layers, Pretraining


@dataclass(frozen=True)
class CoCondenser:
    """The [CLS] vectors of a document's two spans are alike, and unlike those of all other spans of the batch.

    Adds Condenser's head, thrown away in the export. It goes on from that of an earlier stage. Loss: contrastive +
    masked language modelling by the head + by the encoder, all with weight 1.

    The preset `as_released` begins with Condenser, as the released recipe does; it needs a track with two stages.
    """

    # Sources are files of luyug/Condenser. There the user cuts the documents; here spans do not overlap, as the author
    # advises (issue 5), and are as long as whole sentences within max_length allow. A document of one span is not
    # dropped, but cut in two. Window and mask are one, as in `condenser`.
    mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.15  # arguments.py:66-68
    head_layers: Annotated[int, Ge(1)] = 2  # README.md:118
    skip_from: Annotated[int, Ge(0)] = 0  # 0 is half of the layers, so 6 of 12 as in README.md:119
    late_mlm: bool = True  # README.md:123
    # Of both terms of masked language modelling. The official gradient cache, off by default (arguments.py:129), makes
    # it 2: it divides spans by documents (modeling.py:227). `shards` save the same memory here and leave it at 1.
    mlm_weight: Annotated[float, Ge(0)] = 1.0

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "cocondenser"
    paper: ClassVar[str] = "Gao and Callan, ACL 2022, arXiv:2108.05540"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = True
    representation: ClassVar[str] = "cls"
    # No preset "paper": the values that are known of the paper are the released ones.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"as_released": {"pretrain.objective": "condenser"}}

    def examples(self, lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        from retrobench.model import span_examples

        return span_examples(lengths, max_length)

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Return a batch of two rows for each passage, its spans in random order."""
        import torch

        from retrobench.model import cut_spans, masked_batch, pack

        texts: list[Passage] = []
        for passage in passages:
            spans = cut_spans(passage, vocabulary, max_length - 2)
            first, second = torch.randperm(len(spans), generator=generator)[:2].tolist()
            texts += [spans.span(first), spans.span(second)]
        packed = pack(texts, vocabulary, max_length, generator)
        return masked_batch(packed, vocabulary, self.mask_ratio, generator, budget="content", specials="skip")

    def wrap(self, backbone: Backbone, context: Context) -> torch.nn.Module:
        from retrobench.model import Layers, Pretraining, early_layer

        early_layer(backbone, self.skip_from)
        head = Layers(backbone, self.head_layers)
        return Pretraining(backbone, self.step, couple=self.couple, fresh={"head": head}, added=context.added)

    def step(
        self,
        model: Pretraining,
        progress: float,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        masked_positions: torch.Tensor,
        masked_ids: torch.Tensor,
    ) -> Step:
        from retrobench.model import condense, early_layer, token_loss

        layer = early_layer(model.backbone, self.skip_from)
        late, top = condense(model.backbone, cast("Layers", model.head), layer, input_ids, attention_mask)
        losses = {"head_mlm": self.mlm_weight * token_loss(model.backbone, top, masked_positions, masked_ids)}
        if self.late_mlm:
            losses["late_mlm"] = self.mlm_weight * token_loss(model.backbone, late, masked_positions, masked_ids)
        return Step(losses, {}, late[:, 0])

    def couple(self, model: Pretraining, progress: float, vectors: torch.Tensor) -> Step:
        """Compare the spans' vectors [n, D]; those of a document stand one behind the other."""
        import torch
        from torch.nn.functional import cross_entropy

        numbers = torch.arange(len(vectors), device=vectors.device)
        itself = numbers[:, None] == numbers
        scores = (vectors @ vectors.T).masked_fill(itself, float("-inf"))  # [n, n]
        siblings = numbers ^ 1
        is_first = scores.argmax(1) == siblings
        return Step({"contrastive": cross_entropy(scores, siblings)}, {"siblings_first": is_first.float().mean()})


@hookimpl
def retrobench_objectives() -> Sequence[type[CoCondenser]]:
    return [CoCondenser]
