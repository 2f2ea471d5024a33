"""
Dynamic loss scaling, for training in float16.

Gradients below 3e-8 are 0 in float16, and above 65,504 they overflow. So the loss is multiplied by a scale. The
weights' gradients, which are float32, are divided by it before the optimizer reads them. The scale begins at 2^16. A
step whose gradient overflows leaves the weights as they are and halves the scale. 2,000 steps without an overflow
double it.

All processes skip the same steps, so their scales stay equal. Each checks the sum of all processes' gradients, and an
infinity or NaN of one process is in that sum. The scale does not change within a step, so the gradients of the step's
shards are added before they are divided.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retrobench.config import ResolvedPrecision

__all__ = ["LossScale"]


class LossScale:
    """The scale of the losses in fp16. In other precisions it changes nothing.

    Nothing here waits for the device but `state`. The fused optimizer itself reads whether a gradient overflowed.
    """

    def __init__(self, precision: ResolvedPrecision) -> None:
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss for the backward pass."""
        return self.scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients of a whole step by the scale, before they are clipped."""
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer make its step, unless a gradient is not finite, and change the scale."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def value(self) -> Tensor | None:
        """Return the scale of the next step, on the device; None without scaling."""
        if not self.scaler.is_enabled():
            return None
        return self.scaler.scale(torch.ones((), device="cuda"))

    def state(self) -> dict[str, Any]:
        """Return the scale and its history as JSON values; empty without scaling."""
        return self.scaler.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue with a state of `state`; an empty one changes nothing."""
        if state:
            self.scaler.load_state_dict(state)
