"""The forward of an objective as the training loop calls it; its loss may compare the examples of a whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from retrobench.objective import Objective, Step
from retrobench.training.batches import Shard
from retrobench.training.contract import check_step
from retrobench.training.gathering import gathered

__all__ = ["Coupled", "forward", "trainable"]


class Coupled(nn.Module):
    """A module of an objective with `couples_batch`, over all shards of a process.

    Several shards are computed twice, the second time in the backward pass, so that memory grows with a shard and not
    with the batch (gradient cache: Gao et al. 2021, arXiv:2101.06983). This changes neither losses nor gradients.
    """

    def __init__(self, name: str, model: nn.Module) -> None:
        """Wrap the module that the objective `name` made."""
        super().__init__()
        self.name = name
        self.model = model

    def forward(self, progress: float, shards: Sequence[Shard]) -> Step:
        """Return the means of the shards' losses, and the losses that compare the rows of all processes' shards."""
        model: Any = self.model
        if hasattr(model, "begin"):
            with torch.no_grad():
                model.begin(progress)
        outputs = []
        for shard in shards:
            torch.manual_seed(shard.seed)
            outputs.append(self._forward_shard(progress, shard, len(shards) > 1))
        vectors = gathered(torch.cat([cast(Tensor, output.vectors).float() for output in outputs]))
        # The comparison stays in float32: a softmax over thousands of rows needs its digits.
        with torch.autocast(vectors.device.type, enabled=False):
            coupled = check_step(self.name, model.couple(progress, vectors))
        losses = _means([output.losses for output in outputs])
        metrics = _means([output.metrics for output in outputs])
        return Step({**losses, **coupled.losses}, {**metrics, **coupled.metrics})

    def _forward_shard(self, progress: float, shard: Shard, again: bool) -> Step:
        """Return the output of a shard; with `again` its activations are computed again in the backward pass."""
        if again and torch.is_grad_enabled():
            output = checkpoint(self.model, progress, use_reentrant=False, **shard.batch)
        else:
            output = self.model(progress, **shard.batch)
        return check_step(self.name, output, couples=True)


def trainable(objective: Objective, model: nn.Module) -> nn.Module:
    """Return an objective's module as `train` takes it: over all shards, or with each Step checked."""
    if objective.couples_batch:
        return Coupled(objective.name, model)

    def check_output(model: nn.Module, arguments: tuple[Any, ...], output: object) -> None:
        check_step(objective.name, output)

    model.register_forward_hook(check_output)
    return model


def forward(
    objective: Objective, model: nn.Module, progress: float, batch: Mapping[str, Tensor], seed: int = 0
) -> Step:
    """Return the Step of one batch; where an objective couples its batch, the batch is a single shard.

    torch's default generators are seeded with `seed` first.
    """
    if objective.couples_batch:
        coupled: Step = Coupled(objective.name, model)(progress, [Shard(np.zeros(0, np.int64), seed, batch, 0.0)])
        return coupled
    torch.manual_seed(seed)
    return check_step(objective.name, model(progress, **batch))


def _means(values: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean over the shards of each value."""
    return {name: torch.stack([shard[name].float() for shard in values]).mean() for name in values[0]}
