"""
Corridors: the losses that a healthy seed of an entrant has at each logged step, from the curves of earlier seeds.

* Corridor         the logs of one training over several seeds, and the bounds of a further seed's loss
* read_corridors   those of an entrant under a track, by training

A bound is a prediction interval of Student's t at a logged step. Its variance is that between the seeds, averaged over
the step and its neighbours, because three seeds alone tell little; where the step's own variance is larger, as at the
first batch of a fine-tuning, it counts. The steps share the risk (Bonferroni). In `leaderboards/small`, each seed
against three others left its corridor in 5 of 660 trainings, and against the four others in 1 of 165.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrobench.config import Experiment
from retrobench.leaderboard.rows.curves import curve_roles, read_curve
from retrobench.leaderboard.rows.file import read
from retrobench.leaderboard.rows.folders import folders_with_rows

__all__ = ["FEWEST", "Bounds", "Corridor", "read_corridors"]

FEWEST = 3  # seeds of a corridor
RISK = 0.01  # of a healthy seed to leave its corridor at any step
NEIGHBOURS = 3  # logged steps on either side whose variances are averaged with a step's


class Bounds(NamedTuple):
    """The lowest and the highest loss of a healthy seed at a step."""

    low: float
    high: float


@dataclass(frozen=True)
class Corridor:
    """The logs of one training, a list of records for each seed."""

    seeds: tuple[Sequence[Mapping[str, Any]], ...]

    def bounds(self, losses: Sequence[str]) -> dict[int, Bounds]:
        """Return the bounds of the sum of these losses at each step that all seeds logged with all of them."""
        from scipy.special import stdtrit

        by_seed = [_totals(records, losses) for records in self.seeds]
        steps = sorted(set.intersection(*[set(totals) for totals in by_seed]))
        if not steps:
            return {}
        table = np.array([[totals[step] for step in steps] for totals in by_seed])  # [seeds, steps]
        means = table.mean(0)
        variances = table.var(0, ddof=1)
        bounds = {}
        for index, step in enumerate(steps):
            neighbours = variances[max(0, index - NEIGHBOURS) : index + NEIGHBOURS + 1]
            freedom = (len(table) - 1) * len(neighbours)
            quantile = stdtrit(freedom, 1 - RISK / 2 / len(steps))
            variance = max(neighbours.mean(), variances[index])
            width = float(quantile * np.sqrt(variance * (1 + 1 / len(table))))
            bounds[step] = Bounds(float(means[index]) - width, float(means[index]) + width)
        return bounds


def _totals(records: Sequence[Mapping[str, Any]], losses: Sequence[str]) -> dict[int, float]:
    """Return the sum of the losses by step, without the records that lack one of them."""
    totals = {}
    for record in records:
        values = [record.get(name) for name in losses]
        known = [value for value in values if value is not None]
        if len(known) == len(losses):
            totals[record["step"]] = sum(known)
    return totals


def read_corridors(experiment: Experiment, leaderboard: Path | None = None) -> dict[str, Corridor]:
    """Return the corridor of each training, by its role in a row, such as `pretrain` or `finetune mined`.

    A corridor needs the kept curves of three seeds of the experiment's entrant under its track, from the user's rows
    and the shipped ones. The latest row of a seed counts.
    """
    track, entrant = experiment.track, experiment.entrant
    by_role: dict[str, dict[int | None, list[dict[str, Any]]]] = {}
    for folder in reversed(folders_with_rows(leaderboard).get(track.name, [])):
        for row in read(folder):
            measured = row.identity, row.entrant, row.settings, row.representation
            if measured != (track.identity, entrant.name, entrant.settings, entrant.representation):
                continue
            for role, key in curve_roles(row):
                records = read_curve(folder, key)
                if records:
                    by_role.setdefault(role, {})[row.seed] = records
    return {role: Corridor(tuple(seeds.values())) for role, seeds in by_role.items() if len(seeds) >= FEWEST}
