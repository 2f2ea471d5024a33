"""torch's deterministic algorithms, so that a training repeats bit for bit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from retrobench.errors import RetrobenchError

__all__ = ["UnrepeatableError", "deterministic"]


class UnrepeatableError(RetrobenchError):
    """A model uses an operation without a deterministic algorithm."""


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Use torch's deterministic algorithms within the context, and restore its settings afterwards.

    Encoding in a process must not depend on whether the process has trained. Raises UnrepeatableError where the
    model uses an operation without a deterministic algorithm.
    """
    utilities: Any = torch.utils.deterministic
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    flash = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
    fill = utilities.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this setting
    # Without warn_only: with it, fused attention on a GPU would keep backward passes that differ between runs. It also
    # rules out cuDNN's attention, which would plan anew for every shape of batch.
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.enable_flash_sdp(torch.cuda.is_available())  # the setting applies to processors too
    utilities.fill_uninitialized_memory = False  # a debugging aid that writes all memory twice
    try:
        yield
    except RuntimeError as error:
        operation, separator, _ = str(error).partition(" does not have a deterministic implementation")
        if not separator:
            raise
        raise UnrepeatableError(
            f"The model uses {operation}, for which torch has no deterministic algorithm on this machine, so no run "
            "could be repeated. Let the objective use another operation."
        ) from error
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.backends.cuda.enable_flash_sdp(flash)
        utilities.fill_uninitialized_memory = fill
