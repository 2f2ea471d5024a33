"""
Observers of a training, which neither change nor end it.

* Watch        a probe of the model, and a corridor of its losses
* Departures   a line where a loss leaves its corridor
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from retrobench.core import say
from retrobench.leaderboard import Bounds, Corridor

__all__ = ["UNWATCHED", "Departures", "Watch"]

CALM = 10  # logged steps in a row within the corridor, before a departure is news again


@dataclass(frozen=True)
class Watch:
    """A probe of the model, and a corridor of its losses; by default neither."""

    # Returns values of the weights as they are, by name, and None for one that there is not. `probe` is the score.
    # Every process calls it, and rank 0 logs.
    probe: Callable[[], Mapping[str, float | None]] | None = None
    probe_every: int = 0  # optimizer steps
    corridor: Corridor | None = None

    def probes_after(self, steps: int) -> bool:
        """Tell whether the weights are probed after so many optimizer steps."""
        return self.probe is not None and steps > 0 and steps % self.probe_every == 0


UNWATCHED = Watch()


class Departures:
    """Compares the losses of a training with a corridor, and prints a line where they leave it."""

    def __init__(self, corridor: Corridor | None, label: str) -> None:
        self.corridor = corridor
        self.label = label
        self.bounds: dict[int, Bounds] | None = None  # by step, computed once the losses' names are known
        self.calm = CALM  # logged steps within the corridor since the last step outside

    def compare(self, step: int, losses: Mapping[str, float]) -> None:
        """Compare the sum of a logged step's losses with the bounds of that step."""
        if self.corridor is None:
            return
        if self.bounds is None:
            self.bounds = self.corridor.bounds(tuple(losses))
        if step not in self.bounds:
            return
        bounds = self.bounds[step]
        total = sum(losses.values())
        if bounds.low <= total <= bounds.high:
            self.calm += 1
            return
        if self.calm >= CALM:
            say(
                f"{self.label}: step {step} has the loss {total:.4g}, outside the corridor from {bounds.low:.4g} to "
                f"{bounds.high:.4g} of {len(self.corridor.seeds)} seeds"
            )
        self.calm = 0
