"""The losses and gradients of coupled shards, beside those of the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrobench import Step
from retrobench.errors import RetrobenchError
from retrobench.training import Coupled, Shard

INPUTS = torch.linspace(-1, 1, 24).view(8, 3).cos()


class Twins(nn.Module):
    """Neighbouring rows find each other; each forward's own loss is the rows' mean square."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4, dtype=torch.float64)
        self.forwards = 0
        self.begun: list[float] = []

    def begin(self, progress: float) -> None:
        assert not torch.is_grad_enabled()
        self.begun.append(progress)

    def forward(self, progress: float, inputs: Tensor) -> Step:
        self.forwards += 1
        vectors = self.linear(inputs.double()).tanh()
        return Step({"square": vectors.square().mean()}, {"rows": torch.tensor(len(inputs))}, vectors)

    def couple(self, progress: float, vectors: Tensor) -> Step:
        assert vectors.dtype == torch.float32
        scores = (vectors @ vectors.T).masked_fill(torch.eye(len(vectors), dtype=torch.bool), -torch.inf)
        return Step({"twins": F.cross_entropy(scores, torch.arange(len(vectors)) ^ 1)}, {})


def taken(shards: int) -> tuple[Twins, Step]:
    torch.manual_seed(0)
    model = Twins()
    parts = [Shard(np.zeros(0, np.int64), 0, {"inputs": rows}, 0.0) for rows in INPUTS.chunk(shards)]
    step: Step = Coupled("twins", model)(0.25, parts)
    torch.stack([loss.float() for loss in step.losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
    return model, step


def test_shards_change_neither_losses_nor_gradients() -> None:
    whole_model, whole = taken(1)
    model, step = taken(4)
    assert whole.losses.keys() == step.losses.keys() == {"square", "twins"}
    for name, loss in whole.losses.items():
        assert step.losses[name].item() == pytest.approx(loss.item(), rel=1e-6)
    for ours, theirs in zip(model.parameters(), whole_model.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)
    assert whole_model.forwards == 1, "one shard is computed once"
    assert model.forwards == 8, "several are computed again in the backward pass"
    assert model.begun == [0.25]
    assert step.metrics["rows"].item() == 2.0


def test_vectors_are_required_and_belong_to_coupled_objectives() -> None:
    model = Twins()
    shard = Shard(np.zeros(0, np.int64), 0, {"inputs": INPUTS}, 0.0)
    model.forward = lambda progress, inputs: Step({}, {})  # type: ignore[method-assign]
    with pytest.raises(RetrobenchError, match=r"twins: .* must give vectors, not None"):
        Coupled("twins", model)(0.0, [shard])
