"""The loss of contrastive fine-tuning."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from retrobench.config import Distil
from retrobench.core import processes
from retrobench.model import Encoder, Vectors
from retrobench.objective import Step
from retrobench.training.gathering import gathered

__all__ = ["Contrastive", "distillation"]


class Contrastive(nn.Module):
    """InfoNCE: a query's own positive against every rival passage of the batch, those of other processes too; with
    `distil` a teacher's loss as well.

    With `cached` texts are embedded twice, a group at a time: what the gradients of a group need is made again on the
    way back, so that memory grows with the group and not with the batch, at 4/3 of the computing (gradient cache, Gao
    et al. 2021, arXiv:2101.06983). Losses and gradients are the same.
    """

    rivals: Tensor

    def __init__(
        self, encoder: Encoder, temperature: float, distil: Distil | None = None, cached: bool = False
    ) -> None:
        super().__init__()
        self.encoder, self.temperature, self.distil, self.cached = encoder, temperature, distil, cached
        # Queries so far and all their negatives. A buffer, so that a training that is taken up again goes on counting.
        self.register_buffer("rivals", torch.zeros(2, dtype=torch.float64))

    @property
    def negatives(self) -> float:
        """How many passages a query was held against beside its own, on average."""
        queries, rivals = self.rivals.tolist()
        return float(rivals / max(queries, 1))

    def forward(
        self,
        progress: float,
        documents: Tensor,
        answers: Tensor,
        group: Tensor | None = None,
        teacher: Tensor | None = None,
        **texts: Tensor,
    ) -> Step:
        """The batch of `Round.collate`."""
        queries = self._embedded("query", texts)
        passages = Vectors(*(_filled(part, len(documents)) for part in self._embedded("passage", texts)))
        every = Vectors(*(None if part is None else gathered(part) for part in passages))
        first = processes.rank() * len(documents)
        own = first + torch.arange(len(answers), device=answers.device)
        rival = _rivals(gathered(documents), answers, own)
        similarity = self.encoder.similarity(queries, every)  # [B, P of all processes]
        scores = (similarity / self.temperature).masked_fill(~rival, float("-inf"))
        found = rival.sum(1)
        if self.training:
            self.rivals[0] += len(found)
            self.rivals[1] += found.sum() - len(found)
        contrastive = F.cross_entropy(scores, own)
        metrics = {"accuracy": (scores.argmax(1) == own).float().mean(), "negatives": found.float().mean() - 1}
        if self.distil is None or group is None or teacher is None:
            return Step({"contrastive": contrastive}, metrics)
        learnt = distillation(similarity.gather(1, first + group), teacher, self.distil)
        return Step({"distillation": learnt, "contrastive": self.distil.contrastive * contrastive}, metrics)

    def _embedded(self, side: str, texts: Mapping[str, Tensor]) -> Vectors:
        parts = []
        for number in itertools.count():
            ids = texts.get(f"{side}_{number}_ids")
            if ids is None:
                break
            mask = texts[f"{side}_{number}_attention_mask"]
            parts.append(
                checkpoint(self.encoder, ids, mask, use_reentrant=False) if self.cached else self.encoder(ids, mask)
            )
        place = texts[f"{side}_place"]
        return Vectors(*(None if of[0] is None else torch.cat(of)[place] for of in zip(*parts, strict=True)))


def _filled(rows: Tensor | None, count: int) -> Tensor | None:
    """Rows [n, ...] with zeros behind them, `count` in all: processes gather equally many."""
    return rows if rows is None or len(rows) == count else F.pad(rows, (0, 0, 0, count - len(rows)))


def _rivals(documents: Tensor, answers: Tensor, own: Tensor) -> Tensor:
    """Which passages [P] compete for each query, [B, P]: its `own` [B], and all that do not answer it too."""
    rival = (documents >= 0).repeat(len(answers), 1)
    for answer in answers.unbind(1):
        rival &= documents != answer[:, None]
    return rival.scatter(1, own[:, None], True)


def distillation(student: Tensor, teacher: Tensor, settings: Distil) -> Tensor:
    """KL(softmax(teacher) || softmax(student / temperature)) of scores [B, N].

    "element-mean" divides by B x N as RetroMAE's released code does, "batch-mean" by B.
    """
    total = F.kl_div(F.log_softmax(student / settings.temperature, 1), F.softmax(teacher, 1), reduction="sum")
    return total / (teacher.numel() if settings.loss == "element-mean" else len(teacher))
