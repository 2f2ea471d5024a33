"""The log of losses, and the check that they are finite."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from retrobench.config import Optimisation
from retrobench.core import processes
from retrobench.errors import DivergedError
from retrobench.objective import Step
from retrobench.training.checkpoints import checkpoints

__all__ = ["Ledger"]


class _Forward(NamedTuple):
    """The losses of one forward, still on the device."""

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]
    names: Sequence[str]  # of the documents read


class _Entry(NamedTuple):
    """An optimizer step: its forwards in this process, and the norm of the gradient of all processes."""

    step: int
    forwards: list[_Forward]
    norm: Tensor


class Ledger:
    """Collects losses on the device and reads several steps' at once, since each read waits for the device."""

    def __init__(self, folder: Path, settings: Optimisation, label: str) -> None:
        self.folder = folder
        self.settings = settings
        self.label = label
        self.pending: list[_Entry] = []

    def add(self, step: int, outputs: Iterable[tuple[Step, Sequence[str]]], norm: Tensor) -> None:
        """Keep the losses and metrics of a step's forwards over the named documents.

        `norm` is the gradient's before clipping: a non-finite gradient spoils weights even where the loss is finite.
        """
        forwards = [_Forward(_detached(output.losses), _detached(output.metrics), names) for output, names in outputs]
        self.pending.append(_Entry(step, forwards, norm.detach()))

    def settle(self) -> None:
        """Write the losses that are due to the log, as means over the shards; every process must call this together.

        Raises DivergedError at the first non-finite loss or gradient.
        """
        means = _read_means(self.pending)
        log = self.folder / "log.jsonl" if processes.leads() else os.devnull
        with open(log, "a") as file:
            for entry, values in zip(self.pending, means, strict=True):
                losses = [values[name] for name in entry.forwards[0].losses]
                if not all(map(math.isfinite, (*losses, values["gradient_norm"]))):
                    raise self._diverged(entry)
                if self._is_logged(entry.step):
                    file.write(json.dumps({"step": entry.step, "rate": self.settings.rate(entry.step), **values}))
                    file.write("\n")
        self.pending.clear()

    def _is_logged(self, step: int) -> bool:
        return step % self.settings.log_every == 0 or step == self.settings.steps - 1

    def _diverged(self, entry: _Entry) -> DivergedError:
        """Return the error of a step, which names the texts of the first non-finite forward, else of all forwards."""
        forward = _first_non_finite(entry.forwards)
        names = [name for forward in entry.forwards for name in forward.names]
        losses = _floats(entry.forwards[0].losses)
        if forward is not None:
            names, losses = list(forward.names), _floats(forward.losses)
        losses["gradient_norm"] = float(entry.norm)
        shown_losses = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        shown_names = ", ".join(names[:8])
        if len(names) > 8:
            shown_names += f" and {len(names) - 8} more"
        finished = checkpoints(self.folder)
        state = f"the last good checkpoint is {finished[-1]}" if finished else "no checkpoint was written yet"
        return DivergedError(
            f"{self.label}: step {entry.step} is not finite ({shown_losses}); the batch held {shown_names}; {state}. "
            "Lower the learning rate or look at these texts."
        )


def _read_means(entries: Sequence[_Entry]) -> list[dict[str, float]]:
    """Return each step's losses, gradient norm and metrics by name, as means over the shards of all processes."""
    if not entries:
        return []
    first = entries[0].forwards[0]
    names = [*first.losses, "gradient_norm", *first.metrics]
    means = [_mean_values(entry) for entry in entries]
    table = torch.stack([torch.stack([values[name] for name in names]) for values in means])  # [steps, names]
    rows = processes.average(table).tolist()
    return [dict(zip(names, row, strict=True)) for row in rows]


def _mean_values(entry: _Entry) -> dict[str, Tensor]:
    """Return a step's losses, gradient norm and metrics, as means over this process's forwards."""
    totals: dict[str, Tensor] = {}
    for forward in entry.forwards:
        for name, value in (forward.losses | forward.metrics).items():
            totals[name] = totals.get(name, 0.0) + value.double()
    means = {name: total / len(entry.forwards) for name, total in totals.items()}
    means["gradient_norm"] = entry.norm.double()
    return means


def _first_non_finite(forwards: Iterable[_Forward]) -> _Forward | None:
    for forward in forwards:
        if not all(map(math.isfinite, _floats(forward.losses).values())):
            return forward
    return None


def _detached(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in values.items()}


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
