"""The log of losses, and the check that they are finite."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from retrobench.config import Optimisation
from retrobench.core import processes
from retrobench.errors import DivergedError
from retrobench.objective import Step
from retrobench.training.checkpoints import checkpoints

__all__ = ["Ledger"]


class _Entry(NamedTuple):
    """The losses of one forward, still on the device."""

    step: int
    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]
    names: Sequence[str]  # of the batch's documents


class Ledger:
    """Collects losses on the device and reads several steps' at once, since each read waits for the device."""

    def __init__(self, folder: Path, settings: Optimisation, label: str) -> None:
        self.folder = folder
        self.settings = settings
        self.label = label
        self.pending: list[_Entry] = []

    def add(self, step: int, output: Step, names: Sequence[str]) -> None:
        """Keep the losses and metrics of a forward over the named documents."""
        self.pending.append(_Entry(step, _detached(output.losses), _detached(output.metrics), names))

    def add_gradient_norm(self, norm: Tensor) -> None:
        """Keep the norm before clipping: a non-finite gradient spoils the weights even where the loss is finite."""
        self.pending[-1].losses["gradient_norm"] = norm.detach()

    def settle(self) -> None:
        """Write the losses that are due to the log.

        Raises DivergedError at the first non-finite loss or gradient.
        """
        log = self.folder / "log.jsonl" if processes.leads() else os.devnull
        with open(log, "a") as file:
            for entry in self.pending:
                losses = _floats(entry.losses)
                if not all(map(math.isfinite, losses.values())):
                    raise self._diverged(entry, losses)
                if self._is_logged(entry.step):
                    values = {**losses, **_floats(entry.metrics)}
                    file.write(json.dumps({"step": entry.step, "rate": self.settings.rate(entry.step), **values}))
                    file.write("\n")
        self.pending.clear()

    def _is_logged(self, step: int) -> bool:
        return step % self.settings.log_every == 0 or step == self.settings.steps - 1

    def _diverged(self, entry: _Entry, losses: dict[str, float]) -> DivergedError:
        shown_losses = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        shown_names = ", ".join(entry.names[:8])
        if len(entry.names) > 8:
            shown_names += f" and {len(entry.names) - 8} more"
        finished = checkpoints(self.folder)
        state = f"the last good checkpoint is {finished[-1]}" if finished else "no checkpoint was written yet"
        return DivergedError(
            f"{self.label}: step {entry.step} is not finite ({shown_losses}); the batch held {shown_names}; {state}. "
            "Lower the learning rate or look at these texts."
        )


def _detached(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in values.items()}


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
