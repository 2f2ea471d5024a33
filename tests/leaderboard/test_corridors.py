"""Corridors of losses: their bounds by hand, the rows behind them, and healthy seeds within them."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from leaderboard_rows import row
from scipy.stats import t

from retrobench.config import Experiment, discover, read_entrant, read_track
from retrobench.leaderboard.rows import (
    Corridor,
    append,
    curve_roles,
    keep_curve,
    locate,
    read,
    read_corridors,
    read_curve,
)

SMALL = Path(__file__).parents[2] / "leaderboards" / "small"
LOSSES = {"mlm": ("mlm",), "dupmae": ("mlm", "decoder", "bow"), "finetune": ("contrastive",)}


def test_bounds_by_hand() -> None:
    """The variances between the seeds are 1 at step 0 and 4 at step 10: step 0 has their mean, step 10 its own."""
    seeds: list[list[dict[str, Any]]] = []
    for first, second in ((4.0, 1.0), (5.0, 3.0), (6.0, 5.0)):
        records = [{"step": 0, "a": first - 1, "b": 1.0, "x": 7.0}, {"step": 10, "a": second, "b": 0.0}]
        seeds.append([*records, {"step": 20, "probe": 0.5}])
    seeds[0].append({"step": 15, "a": 1.0, "b": 1.0})
    bounds = Corridor(tuple(seeds)).bounds(("a", "b"))
    quantile = t.ppf(1 - 0.01 / 4, 4)
    first, later = (quantile * (variance * (1 + 1 / 3)) ** 0.5 for variance in (2.5, 4))
    assert bounds == {0: pytest.approx((5 - first, 5 + first)), 10: pytest.approx((3 - later, 3 + later))}
    assert Corridor(tuple(seeds)).bounds(("c",)) == {}


def test_a_corridor_needs_three_seeds_of_the_entrant_under_the_track(tmp_path: Path) -> None:
    track = read_track(locate("mini"), "mini", [])
    experiment = Experiment(track, read_entrant("mlm", discover(), []), 0)
    own: dict[str, Any] = {"identity": track.identity, "settings": experiment.entrant.settings}
    folder = tmp_path / "mini"
    others: list[dict[str, Any]] = [
        {"identity": "0" * 16},
        {"settings": {"mask_ratio": 0.9}},
        {"representation": "mean"},
    ]
    for number, changed in enumerate([{}, {}, *others]):
        _append(folder, number, {**own, **changed})
    assert read_corridors(experiment, tmp_path) == {}
    _append(folder, 7, own)
    (role,) = read_corridors(experiment, tmp_path)
    assert role == "pretrain"
    seeds = read_corridors(experiment, tmp_path)["pretrain"].seeds
    assert sorted(records[0]["mlm"] for records in seeds) == [0.0, 1.0, 7.0]


def _append(folder: Path, number: int, changed: dict[str, Any]) -> None:
    """Append a row of a seed, with the curve of its pre-training."""
    trained = folder.parent / f"trained-{number}"
    trained.mkdir()
    (trained / "log.jsonl").write_text(json.dumps({"step": 0, "mlm": float(number)}) + "\n")
    artifacts = {"pretrain": f"key{number}", "score": f"score{number}"}
    append(folder, replace(row("mlm", number, [0.5], artifacts=artifacts), **changed), {})
    keep_curve(folder, f"key{number}", trained)


def test_healthy_seeds_stay_within_the_corridor_of_the_others() -> None:
    """Compare every shipped training with every three of the other seeds."""
    logs: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for shipped in read(SMALL):
        for role, key in curve_roles(shipped):
            objective = role.split()[0]
            if objective == "pretrain":
                objective = shipped.objective
            if objective in LOSSES:
                logs[shipped.entrant, shipped.identity, shipped.representation, role].append(
                    (LOSSES[objective], read_curve(SMALL, key))
                )
    compared = left = 0
    for trainings in logs.values():
        for *others, (losses, records) in itertools.permutations(trainings, 4):
            if others != sorted(others, key=trainings.index):
                continue
            bounds = Corridor(tuple(other for _, other in others)).bounds(losses)
            compared += 1
            for record in records:
                if losses[0] not in record:
                    continue  # a probe after the last step
                low, high = bounds[record["step"]]
                if not low <= sum(record[name] for name in losses) <= high:
                    left += 1
                    break
    assert compared >= 200
    assert left / compared < 0.02
