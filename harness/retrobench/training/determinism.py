"""The state of a process on which a training's numbers depend: torch's deterministic algorithms, random generators."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from retrobench.errors import RetrobenchError

__all__ = ["UnrepeatableError", "deterministic", "undisturbed"]


class UnrepeatableError(RetrobenchError):
    """A model uses an operation without a deterministic algorithm."""


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Use torch's deterministic algorithms within the context, and restore its settings afterwards.

    Encoding in a process must not depend on whether the process has trained. Raises UnrepeatableError where the
    model uses an operation without a deterministic algorithm.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this setting
    try:
        with _algorithms_restored():
            # Without warn_only: with it, fused attention on a GPU would keep backward passes that differ between runs.
            # It also rules out cuDNN's attention, which would plan anew for every shape of batch.
            torch.use_deterministic_algorithms(True)
            torch.backends.cuda.enable_flash_sdp(torch.cuda.is_available())  # the setting applies to processors too
            utilities: Any = torch.utils.deterministic
            utilities.fill_uninitialized_memory = False  # a debugging aid that writes all memory twice
            yield
    except RuntimeError as error:
        operation, separator, _ = str(error).partition(" does not have a deterministic implementation")
        if not separator:
            raise
        raise UnrepeatableError(
            f"The model uses {operation}, for which torch has no deterministic algorithm on this machine, so no run "
            "could be repeated. Let the objective use another operation."
        ) from error


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Do other work in the midst of a training, outside its deterministic algorithms.

    Afterwards torch's algorithms and the states of all random generators are as before.
    """
    devices = []
    if torch.cuda.is_available():
        devices.append(torch.cuda.current_device())
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices), _algorithms_restored():
            torch.use_deterministic_algorithms(False)
            torch.backends.cuda.enable_flash_sdp(True)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def _algorithms_restored() -> Iterator[None]:
    """Restore torch's choice of algorithms afterwards."""
    utilities: Any = torch.utils.deterministic
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    flash = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
    fill = utilities.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.backends.cuda.enable_flash_sdp(flash)
        utilities.fill_uninitialized_memory = fill
