"""Condenser: further layers predict the masked words, and the encoder's later layers reach them through [CLS] alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from annotated_types import Ge, Interval

from retrobench import Context, Passage, Step, Vocabulary, hookimpl

if TYPE_CHECKING:
    import torch

    from retrobench.model import Backbone, Layers, Pretraining


@dataclass(frozen=True)
class Condenser:
    """Two further layers predict the masked words from the last [CLS] and the other tokens' states of a middle layer.

    Adds the layers, its head, thrown away in the export; `condenser` or `cocondenser` in the next stage goes on with
    them. Loss: masked language modelling by the head + by the encoder, both with weight 1.
    """

    # Sources are files of luyug/Condenser. Its collator draws a long text's window twice, once for the mask and once
    # for the ids; here both have one window.
    mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.15  # arguments.py:66-68
    head_layers: Annotated[int, Ge(1)] = 2  # README.md:75
    skip_from: Annotated[int, Ge(0)] = 0  # 0 is half of the layers, so 6 of 12 as in README.md:76
    late_mlm: bool = True  # README.md:80: the encoder's own masked language modelling

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "condenser"
    paper: ClassVar[str] = "Gao and Callan, EMNLP 2021, arXiv:2104.08253"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls"
    # No preset "paper": the values that are known of the paper are the released ones.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"as_released": {}}

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        from retrobench.model import masked_batch, pack

        packed = pack(passages, vocabulary, max_length, generator)
        return masked_batch(packed, vocabulary, self.mask_ratio, generator, budget="content", specials="skip")

    def wrap(self, backbone: Backbone, context: Context) -> torch.nn.Module:
        from retrobench.model import Layers, Pretraining, early_layer

        early_layer(backbone, self.skip_from)
        head = Layers(backbone, self.head_layers)
        return Pretraining(backbone, self.step, fresh={"head": head}, added=context.added)

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
        losses = {"head_mlm": token_loss(model.backbone, top, masked_positions, masked_ids)}
        if self.late_mlm:
            losses["late_mlm"] = token_loss(model.backbone, late, masked_positions, masked_ids)
        return Step(losses, {})


@hookimpl
def retrobench_objectives() -> Sequence[type[Condenser]]:
    return [Condenser]
