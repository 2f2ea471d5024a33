"""Masked language modelling on the objectives' corpus for equally many steps: the control that the papers lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Interval

from retrobench import Context, Passage, Step, Vocabulary, hookimpl

if TYPE_CHECKING:
    import torch

    from retrobench.model import Backbone, Pretraining


@dataclass(frozen=True)
class MaskedLanguageModelling:
    """Predict the masked words of a text from its other words; adds nothing, throws nothing away."""

    # As in the objectives that this control is compared with; BERT's own ratio was 0.15.
    mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.3

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "mlm"
    paper: ClassVar[str] = "Devlin et al., NAACL 2019, arXiv:1810.04805, section 3.1"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"bert": {"mask_ratio": 0.15}}

    def collate(
        self, passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        from retrobench.model import masked_batch, pack

        packed = pack(passages, vocabulary, max_length)
        return masked_batch(packed, vocabulary, self.mask_ratio, generator)

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
    ) -> Step:
        from retrobench.model import token_loss

        hidden = model.backbone.hidden(input_ids, attention_mask)  # [B, L, D]
        mlm = token_loss(model.backbone, hidden, masked_positions, masked_ids)
        return Step({"mlm": mlm}, {})


@hookimpl
def retrobench_objectives() -> Sequence[type[MaskedLanguageModelling]]:
    return [MaskedLanguageModelling]
