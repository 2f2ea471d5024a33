"""Losses and gradients of every objective and of fine-tuning on the device, beside a processor's in 32 bits."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from retrobench.bench.acceptance.check import Check
from retrobench.bench.benchmarks.contrastive import compare_steps
from retrobench.bench.frame import (
    StepResult,
    Tolerances,
    compute_gradients,
    loss_scale,
    require_equal_steps,
)
from retrobench.bench.models import Scale, installed_objective, make_pretraining
from retrobench.bench.setting import Setting
from retrobench.bench.texts import VOCABULARY, draw_lengths, draw_passages
from retrobench.config import ResolvedPrecision, discover
from retrobench.model import Pretraining, autocast, drawn_on_cpu
from retrobench.training import forward, map_tensors

__all__ = ["checks", "trained_objectives"]

SIZES = Scale(2, 64, 2, 128, batch=8, length=64, dropout=0.0, spread=0.1)
# Half precision rounds the masks' logits too, and no two devices round alike.
ROUNDING = Tolerances(0.01, 0.1)


def trained_objectives() -> list[str]:
    """Return the names of this distribution's objectives that pre-train."""
    names = []
    for entry in discover():
        if entry.distribution == "retrobench" and entry.objective is not None and entry.objective.pretrains:
            names.append(entry.name)
    return names


def checks(setting: Setting) -> Iterator[Check]:
    """Yield a check for each objective, and one for fine-tuning."""
    for name in trained_objectives():
        yield Check(name, partial(_compare_objective, name, setting))
    yield Check("contrastive", partial(compare_steps, setting.device, "cpu"))


def _compare_objective(name: str, setting: Setting) -> str:
    objective = installed_objective(name)
    texts = draw_passages(draw_lengths(SIZES.batch, SIZES.length))
    batch = objective.collate(texts, VOCABULARY, SIZES.length, torch.Generator().manual_seed(0))
    peer = _step(objective, _make(objective, "cpu", ""), batch, "fp32")
    # A processor's attention is computed by another kernel, so that even there two ways are compared.
    model = _make(objective, setting.device, "sdpa")

    def ours(precision: ResolvedPrecision) -> StepResult:
        return _step(objective, deepcopy(model), batch, precision)  # a step may change the state

    return require_equal_steps(ours, peer, ROUNDING)


def _make(objective: Any, device: str, attention: str) -> Pretraining:
    model = make_pretraining(objective, SIZES, device)
    if attention:
        model.backbone.lm.set_attn_implementation(attention)
    return model.train()


def _step(objective: Any, model: Pretraining, batch: dict[str, Tensor], precision: ResolvedPrecision) -> StepResult:
    """Return the losses and gradients of a batch, with equal masks on every device, on the processor."""
    device = next(model.parameters()).device
    on_device = map_tensors(batch, lambda tensor: tensor.to(device))
    with autocast(device.type, precision), drawn_on_cpu():
        step = forward(objective, model, 0.5, on_device)
        if objective.couples_batch:  # the second step counts, for before it a queue holds no text
            step = forward(objective, model, 0.5, on_device)
    losses = torch.stack([loss.float() for loss in step.losses.values()])
    scale = loss_scale(precision)
    gradients = compute_gradients(model, scale * losses)
    on_processor = {name: gradient.cpu() for name, gradient in gradients.items()}
    return StepResult(losses.detach().cpu(), on_processor, scale)
