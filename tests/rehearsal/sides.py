"""
A model on the CPU beside its copy on the device.

* without_dropout   set every dropout to 0, so that both sides compute one thing
* moved             a batch on the device
* gradients         take a backward pass; return losses and gradients by name
* assert_close      compare two sides
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from retrobench.objective import Step
from retrobench.training import map_tensors

__all__ = ["assert_close", "gradients", "moved", "without_dropout"]


def without_dropout(model: Any) -> Any:
    """Set the dropouts of a transformers model or of modules to 0, and return the model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def moved(batch: Any) -> Any:
    """Return a batch with its tensors on the device."""
    return map_tensors(batch, Tensor.cuda)


def gradients(model: nn.Module, step: Step) -> dict[str, Tensor]:
    """Return the losses of a step and the gradients of their sum, on the CPU."""
    model.zero_grad()
    torch.stack(list(step.losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    numbers = {f"loss {name}": loss.detach().cpu() for name, loss in step.losses.items()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            numbers[name] = parameter.grad.cpu().clone()
    return numbers


def assert_close(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Assert that two sides agree but for the order of their sums."""
    assert actual.keys() == expected.keys()
    assert len(expected) > 10
    for name, tensor in expected.items():
        is_close = torch.allclose(actual[name], tensor, rtol=1e-4, atol=1e-5)
        assert is_close, f"{name} differs by {float((actual[name] - tensor).abs().max()):.2g}"
