"""Optimizer steps during which the host never waits for the GPU: CUDA raises an error at a wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from retrobench.bench.acceptance.check import Check, SkippedError
from retrobench.bench.acceptance.steps import trained_objectives
from retrobench.bench.benchmarks.contrastive import our_steps
from retrobench.bench.loops import Steps, pretraining_steps
from retrobench.bench.models import Scale, Workload, installed_objective
from retrobench.bench.setting import Setting

__all__ = ["checks"]

SIZES = Scale(2, 64, 2, 128, batch=8, length=64)
WARMUPS = 3  # steps in which layers are compiled, and memory is taken from the device
STEPS = 4


def checks(setting: Setting) -> Iterator[Check]:
    """Yield a check for each objective, and one for fine-tuning."""
    for name in trained_objectives():
        yield Check(name, partial(_pretrain, name, setting))
    yield Check("contrastive", partial(_finetune, setting))


def _pretrain(name: str, setting: Setting) -> str:
    work = Workload.of_passages(setting, SIZES)
    return _take(lambda: pretraining_steps(installed_objective(name), work), setting)


def _finetune(setting: Setting) -> str:
    return _take(lambda: our_steps(setting.device), setting)


def _take(make: Callable[[], Steps], setting: Setting) -> str:
    """Take steps under CUDA's check for waits."""
    if not setting.cuda:
        raise SkippedError("a processor has no other device to wait for")
    steps = make()
    steps.take(WARMUPS)
    with _no_waits():
        steps.take(STEPS)
    torch.cuda.synchronize()
    return f"{STEPS} steps without a wait"


@contextmanager
def _no_waits() -> Iterator[None]:
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)
