"""
Losses in a tracker beside the log: TensorBoard, Weights & Biases or Trackio, through Accelerate's interface.

* TRACKERS      their names
* use_tracker   state the tracker of this process's trainings
* Tracking      one training in the tracker

A tracker only reads: it changes no result, and no cache key. Nothing leaves the machine unless its own settings say so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from retrobench.core import processes
from retrobench.errors import RetrobenchError, unknown

__all__ = ["TRACKERS", "Tracking", "use_tracker"]

TRACKERS = ("tensorboard", "wandb", "trackio")
PROJECT = "retrobench"


class _Chosen(NamedTuple):
    name: str
    folder: Path


_chosen: _Chosen | None = None


def use_tracker(name: str | None, folder: Path) -> None:
    """Send the losses of this process's trainings to a tracker, which writes below `folder`; None sends them nowhere.

    RetrobenchError for an unknown tracker, and for one that is not installed.
    """
    global _chosen
    if name is None:
        _chosen = None
        return
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    if find_spec(name) is None:
        raise RetrobenchError(f"The tracker {name} is not installed. Install it: pip install {name}.")
    folder.mkdir(parents=True, exist_ok=True)
    if name == "wandb":
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
    if name == "trackio":
        os.environ.setdefault("TRACKIO_DIR", str(folder))  # read when trackio is imported
    _chosen = _Chosen(name, folder)


class Tracking:
    """One training in the chosen tracker; without one it does nothing. Only rank 0 sends."""

    def __init__(self, run: str, settings: Mapping[str, Any]) -> None:
        """Begin a run of this name. `settings` are shown beside its curves."""
        self._tracker: Any = None
        if _chosen is None or not processes.leads():
            return
        self._tracker = _start(_chosen, run)
        shown = {key: value for key, value in settings.items() if isinstance(value, bool | int | float | str)}
        self._tracker.store_init_configuration(shown)

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Send the finite values of a step."""
        if self._tracker is not None:
            known = {name: value for name, value in values.items() if value is not None}
            self._tracker.log(known, step=step)

    def close(self) -> None:
        """End the run, also where a training failed."""
        if self._tracker is not None:
            self._tracker.finish()


def _start(chosen: _Chosen, run: str) -> Any:
    from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

    if chosen.name == "tensorboard":
        tracker = TensorBoardTracker(run, logging_dir=chosen.folder)
    elif chosen.name == "wandb":
        tracker = WandBTracker(PROJECT, name=run, dir=str(chosen.folder))
    else:
        tracker = TrackioTracker(PROJECT, name=run)
    tracker.start()
    return tracker
