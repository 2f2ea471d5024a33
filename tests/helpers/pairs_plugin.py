"""An objective that uses every part of the contract: pairs of spans of a document, a queue, a teacher, a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from retrobench import Context, ModelFolder, Step, hookimpl

SEEN: list[Context] = []  # of every `wrap` in this process


@dataclass(frozen=True)
class Pairs:
    """Two halves of a document find each other among those of the batch, and the words of a teacher."""

    teacher: ModelFolder = ModelFolder("")
    weight: float = 1.0

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "pairs"
    paper: ClassVar[str] = "unpublished"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = True
    representation: ClassVar[str] = "cls"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"heavy": {"adapt.weight": 2.0}}

    def examples(self, lengths: Any, max_length: int) -> Any:
        documents = (lengths >= 4).nonzero()[0]
        return documents, lengths[documents] // 2 + 2

    def collate(self, passages: Any, vocabulary: Any, max_length: int, generator: Any) -> Any:
        from retrobench.model import masked_batch, pack

        halves = []
        for passage in passages:
            middle = len(passage.text) // 2
            first = passage._replace(text=passage.text[:middle], text_starts=passage.text_starts[:middle])
            halves += [first, passage._replace(text=passage.text[middle:], text_starts=passage.text_starts[middle:])]
        return masked_batch(pack(halves, vocabulary, max_length), vocabulary, 0.3, generator)

    def wrap(self, backbone: Any, context: Context) -> Any:
        from retrobench.model import Pretraining, WordGenerator

        SEEN.append(context)
        head = torch.nn.Linear(backbone.config.hidden_size, backbone.config.hidden_size)
        kept = {"teacher": WordGenerator(context.load(self.teacher), context.max_length)}
        model = Pretraining(
            backbone,
            self.step,
            couple=self.couple,
            begin=self.begin,
            fresh={"head": head},
            kept=kept,
            added=context.added,
        )
        model.register_buffer("begun", torch.zeros(()))
        return model

    def begin(self, model: Any, progress: float) -> None:
        model.begun += 1

    def step(
        self, model: Any, progress: float, input_ids: Any, attention_mask: Any, masked_positions: Any, masked_ids: Any
    ) -> Step:
        from retrobench.model import token_loss

        hidden = model.backbone.hidden(input_ids, attention_mask)
        with torch.no_grad():
            words = model.teacher.logits(model.teacher.hidden(input_ids, attention_mask)[:, 0]).softmax(-1)
        own = model.backbone.logits(model.head(hidden[:, 0])).log_softmax(-1)
        losses = {
            "mlm": token_loss(model.backbone, hidden, masked_positions, masked_ids),
            "teacher": -(words * own).sum(-1).mean(),
        }
        return Step(losses, {"length": attention_mask.sum(1).float().mean()}, hidden[:, 0])

    def couple(self, model: Any, progress: float, vectors: Any) -> Step:
        scores = vectors @ vectors.T
        scores = scores.masked_fill(torch.eye(len(vectors), dtype=torch.bool, device=vectors.device), float("-inf"))
        siblings = torch.arange(len(vectors), device=vectors.device) ^ 1
        return Step({"pairs": self.weight * F.cross_entropy(scores, siblings)}, {"begun": model.begun.clone()})


@hookimpl
def retrobench_objectives() -> Sequence[type[Pairs]]:
    return [Pairs]
