"""
The log of losses, and the check that they are finite.

In fp16 a gradient that overflows ends no training: that step was skipped, and its loss scale halved (`loss_scale`). Its
`gradient_norm` in the log is null. Training ends where a loss is not finite, which no scale mends, or where the scale
falls below 1. If every step overflows, the scale falls from 2^16 below 1 in 17 steps.

A probe reads the weights before a step, as the step's losses do, so its value stands in the line of that step. The
probe after the last step has a line of its own.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, TextIO

import torch
from torch import Tensor

from retrobench.config import Optimisation
from retrobench.core import processes
from retrobench.errors import DivergedError
from retrobench.objective import Step
from retrobench.training.checkpoints import checkpoints
from retrobench.training.trackers import Tracking
from retrobench.training.watching import UNWATCHED, Departures, Watch

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
    loss_scale: Tensor | None  # after the step, with loss scaling


class Ledger:
    """Collects losses on the device and reads several steps' at once, since each read waits for the device."""

    def __init__(self, folder: Path, settings: Optimisation, label: str, watch: Watch = UNWATCHED) -> None:
        self.folder = folder
        key = folder.name.partition(".")[0]
        self.tracking = Tracking(f"{label} {key[:8]}".replace(" ", "-"), asdict(settings))
        self.settings = settings
        self.label = label
        self.pending: list[_Entry] = []
        self.probes: dict[int, Mapping[str, float | None]] = {}  # by the step that follows
        self.latest_probe = ""  # with a comma before it
        self.departures = Departures(watch.corridor, label)
        self.latest_loss = ""  # and the rate of the last settled step

    @property
    def latest(self) -> str:
        """Return the last settled loss and rate and the last probe, for a progress bar."""
        return self.latest_loss + self.latest_probe

    def add(
        self,
        step: int,
        outputs: Iterable[tuple[Step, Sequence[str]]],
        norm: Tensor,
        loss_scale: Tensor | None = None,
    ) -> None:
        """Keep the losses and metrics of a step's forwards over the named documents.

        `norm` is the gradient's before clipping: a non-finite gradient spoils weights even where the loss is finite,
        unless `loss_scale` says that such a step is skipped.
        """
        forwards = [_Forward(_detached(output.losses), _detached(output.metrics), names) for output, names in outputs]
        self.pending.append(_Entry(step, forwards, norm.detach(), loss_scale))

    def add_probe(self, step: int, values: Mapping[str, float | None]) -> None:
        """Keep the probe of the weights before a step, for its line; after the last step write a line at once."""
        self.probes[step] = values
        score = values.get("probe")
        if score is not None:
            self.latest_probe = f", probe {score:.4g}"
        if step == self.settings.steps:
            with self._open() as file:
                self._write(file, step, {"step": step, **values})

    def settle(self) -> None:
        """Write the losses that are due to the log, as means over the shards; every process must call this together.

        Raises DivergedError at the first non-finite loss or gradient, and at a loss scale below 1.
        """
        means = _read_means(self.pending)
        with self._open() as file:
            for entry, values in zip(self.pending, means, strict=True):
                losses = {name: values[name] for name in entry.forwards[0].losses}
                if _is_diverged(entry, values):
                    raise self._diverged(entry)
                if self._is_logged(entry.step):
                    self._write(file, entry.step, self._line(entry.step, values))
                    self.departures.compare(entry.step, losses)
                self.latest_loss = f"loss {sum(losses.values()):.4g}, rate {self.settings.rate(entry.step):.2g}"
        self.pending.clear()

    def _open(self) -> TextIO:
        """Open the log for further lines; only rank 0 writes it."""
        if processes.leads():
            return open(self.folder / "log.jsonl", "a")
        return open(os.devnull, "a")

    def _write(self, file: TextIO, step: int, line: Mapping[str, float | None]) -> None:
        """Write a step's line of the log, and send it to the tracker."""
        file.write(json.dumps(line) + "\n")
        self.tracking.log(step, line)

    def _line(self, step: int, values: Mapping[str, float]) -> dict[str, float | None]:
        """Return a step's line of the log. JSON has no infinity, so the gradient norm of a skipped step is null."""
        line: dict[str, float | None] = {"step": step, "rate": self.settings.rate(step), **values}
        if not math.isfinite(values["gradient_norm"]):
            line["gradient_norm"] = None
        line.update(self.probes.get(step, {}))
        return line

    def _is_logged(self, step: int) -> bool:
        return step % self.settings.log_every == 0 or step == self.settings.steps - 1 or step in self.probes

    def _diverged(self, entry: _Entry) -> DivergedError:
        """Return the error of a step, which names the texts of the first non-finite forward, else of all forwards."""
        forward = _first_non_finite(entry.forwards)
        names = [name for forward in entry.forwards for name in forward.names]
        losses = _floats(entry.forwards[0].losses)
        if forward is not None:
            names, losses = list(forward.names), _floats(forward.losses)
        losses["gradient_norm"] = float(entry.norm)
        advice = "Lower the learning rate or look at these texts."
        if entry.loss_scale is not None:
            losses["loss_scale"] = float(entry.loss_scale)
            advice = "Lower the learning rate, look at these texts, or set precision to fp32."
        shown_losses = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        shown_names = ", ".join(names[:8])
        if len(names) > 8:
            shown_names += f" and {len(names) - 8} more"
        finished = checkpoints(self.folder)
        state = f"the last good checkpoint is {finished[-1]}" if finished else "no checkpoint was written yet"
        return DivergedError(
            f"{self.label}: step {entry.step} is not finite ({shown_losses}); the batch held {shown_names}; {state}. "
            f"{advice}"
        )


def _is_diverged(entry: _Entry, values: dict[str, float]) -> bool:
    """Tell whether a loss of the step is not finite, or a gradient that no loss scale mends."""
    losses = [values[name] for name in entry.forwards[0].losses]
    if not all(map(math.isfinite, losses)):
        return True
    if entry.loss_scale is not None:
        return values["loss_scale"] < 1
    return not math.isfinite(values["gradient_norm"])


def _read_means(entries: Sequence[_Entry]) -> list[dict[str, float]]:
    """Return each step's values by name, as means over the shards of all processes.

    They are the losses, the gradient norm, the metrics and, with loss scaling, the scale.
    """
    if not entries:
        return []
    first = entries[0].forwards[0]
    names = [*first.losses, "gradient_norm", *first.metrics]
    if entries[0].loss_scale is not None:
        names.append("loss_scale")
    means = [_mean_values(entry) for entry in entries]
    table = torch.stack([torch.stack([values[name] for name in names]) for values in means])  # [steps, names]
    rows = processes.average(table).tolist()
    return [dict(zip(names, row, strict=True)) for row in rows]


def _mean_values(entry: _Entry) -> dict[str, Tensor]:
    """Return a step's losses, metrics, gradient norm and loss scale, as means over this process's forwards."""
    totals: dict[str, Tensor] = {}
    for forward in entry.forwards:
        for name, value in (forward.losses | forward.metrics).items():
            totals[name] = totals.get(name, 0.0) + value.double()
    means = {name: total / len(entry.forwards) for name, total in totals.items()}
    means["gradient_norm"] = entry.norm.double()
    if entry.loss_scale is not None:
        means["loss_scale"] = entry.loss_scale.double()
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
