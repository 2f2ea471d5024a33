"""
No step of a training waits for the device, save where the loop's docstring announces it.

* watch         make `Loop.step` raise at a wait
* wait          say that the host waits by a function of Python's
* ANNOUNCED     the functions that may wait within a step
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

__all__ = ["ANNOUNCED", "wait", "watch"]

IGNORES, RAISES = 0, 2  # modes of torch.cuda.set_sync_debug_mode

ANNOUNCED = (("transformers.models.modernbert.modeling_modernbert", "create_bidirectional_mask"),)

_watched = 0


def wait(reason: str) -> None:
    """Raise within a step. A card's `set_sync_debug_mode` does not see these waits."""
    if _watched:
        raise RuntimeError(f"called a synchronizing CUDA operation: {reason}")


def watch(loop_module: Any) -> None:
    """Make every step of the training loop raise where it waits for the device."""
    loop = loop_module.Loop
    take_step = loop.step

    @functools.wraps(take_step)
    def step(self: Any, number: int) -> Any:
        with _mode(RAISES):
            return take_step(self, number)

    loop.step = step
    for module_name, function_name in ANNOUNCED:
        module = import_module(module_name)
        setattr(module, function_name, _allowed(getattr(module, function_name)))


def _allowed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def waiting_function(*arguments: Any, **options: Any) -> Any:
        with _mode(IGNORES):
            return function(*arguments, **options)

    return waiting_function


@contextmanager
def _mode(mode: int) -> Iterator[None]:
    import torch

    rehearsal = torch.ops.rehearsal
    earlier = rehearsal.sync_mode()
    rehearsal.set_sync_mode(mode)
    try:
        yield
    finally:
        rehearsal.set_sync_mode(earlier)
