"""A training under watch: its probes stand in its log, and its losses are compared with a corridor."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainings import INPUTS, Interrupted, LeastSquares, checkpoint_names, log, logged

from retrobench.config.track import Optimisation
from retrobench.leaderboard import Corridor
from retrobench.objective import Step
from retrobench.training.batches import Batches
from retrobench.training.loop import train
from retrobench.training.watching import CALM, Departures, Watch

SETTINGS = Optimisation(7, batch=4, learning_rate=1e-3, bucket=0, precision="fp32", checkpoint_every=4, log_every=4)


class Noisy(LeastSquares):
    """Least squares with dropout, whose losses depend on torch's generator."""

    def forward(self, progress: float, inputs: torch.Tensor) -> Step:
        return super().forward(progress, torch.nn.functional.dropout(inputs, 0.5, self.training))


def fit(model: LeastSquares, folder: Path, watch: Watch, stop: int = 99) -> dict[str, float]:
    """Train for 7 steps, or raise at the batch of the step `stop`."""
    folder.mkdir(exist_ok=True)
    batches = Batches(np.ones(16, np.int64), 4, 0, seed=0)
    remaining = stop

    def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, torch.Tensor]:
        nonlocal remaining
        if not remaining:
            raise Interrupted
        remaining -= 1
        return {"inputs": torch.from_numpy(INPUTS[rows])}

    def names(rows: np.ndarray) -> list[str]:
        return [str(row) for row in rows]

    return train(model, batches, collate, SETTINGS, folder, 0, names, "line", False, watch)


def disturbing(model: LeastSquares) -> Callable[[], dict[str, float]]:
    """Return a probe that reads a weight, and changes the state of the process."""

    def probe() -> dict[str, float]:
        assert not torch.are_deterministic_algorithms_enabled()
        torch.manual_seed(int(random.random() * np.random.rand() * 1000))
        torch.rand(3)
        torch.use_deterministic_algorithms(False)
        return {"probe": float(model.linear.weight.detach()[0, 0])}

    return probe


def test_probes_change_neither_weights_nor_generators(tmp_path: Path) -> None:
    weights, states = [], []
    fit(Noisy(), tmp_path / "first", Watch())  # a library draws from `random` when it is first imported
    for name, every in (("plain", 0), ("probed", 3)):
        torch.manual_seed(1)
        random.seed(1)
        model = Noisy()
        fit(model, tmp_path / name, Watch(disturbing(model) if every else None, every))
        weights.append(model.linear.weight.detach().tolist())
        states.append((torch.rand(1).item(), random.random()))
    assert weights[0] == weights[1]
    assert states[0] == states[1]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_resumed_training_logs_every_probe_once(tmp_path: Path) -> None:
    unbroken = LeastSquares()
    fit(unbroken, tmp_path / "unbroken", Watch(disturbing(unbroken), 3))
    for stop in (3, 0):  # after the probe of step 3, and after it again
        with pytest.raises(Interrupted):
            broken = LeastSquares()
            fit(broken, tmp_path / "broken", Watch(disturbing(broken), 3), stop)
        assert checkpoint_names(tmp_path / "broken") == ["step-000000003"]
    resumed = LeastSquares()
    fit(resumed, tmp_path / "broken", Watch(disturbing(resumed), 3))
    records = log(tmp_path / "broken")
    assert records == log(tmp_path / "unbroken")
    assert [record["step"] for record in records] == [0, 3, 4, 6], "a step with a probe is logged"
    assert [record["step"] for record in records if "probe" in record] == [3, 6]
    assert logged(tmp_path / "broken", "probe")[0] == pytest.approx(0.503, abs=1e-3), "after three steps of 1e-3"


def test_a_probe_is_no_part_of_the_cost(tmp_path: Path) -> None:
    def probe() -> dict[str, float]:
        time.sleep(0.2)
        return {"probe": 0.0}

    start = time.perf_counter()
    cost = fit(LeastSquares(), tmp_path, Watch(probe, 2))
    assert time.perf_counter() - start - cost["seconds"] > 0.4


def corridor(*levels: float) -> Corridor:
    """Return the corridor of seeds with these losses at all of 200 steps."""
    seeds = []
    for level in levels:
        seeds.append([{"step": step, "error": level} for step in range(200)])
    return Corridor(tuple(seeds))


def test_a_departure_is_said_once_until_the_losses_are_calm(capsys: pytest.CaptureFixture[str]) -> None:
    departures = Departures(corridor(1.0, 1.1, 1.2), "pretrain mlm")

    def lines(losses: list[float], first: int) -> list[str]:
        for step, loss in enumerate(losses, first):
            departures.compare(step, {"error": loss})
        return capsys.readouterr().err.splitlines()

    assert lines([1.0, 1.2, 1.35], 0) == [], "a seed may differ more than three do"
    (line,) = lines([3.0, 3.0, 1.1, 3.0], 3)
    assert line.startswith("pretrain mlm: step 3 has the loss 3, outside the corridor from 0.") and "of 3 seeds" in line
    assert lines([1.1] * (CALM - 1) + [0.1], 7) == [], "not calm for long enough"
    (line,) = lines([1.1] * CALM + [0.1], 50)
    assert f"step {50 + CALM} has the loss 0.1" in line
    assert lines([99.0], 300) == [], "no seed logged that step"
    Departures(None, "line").compare(0, {"error": 99.0})
    Departures(corridor(1.0, 1.1, 1.2), "line").compare(0, {"other": 99.0})
    assert capsys.readouterr().err == ""


def test_a_training_is_compared_as_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights: list[Any] = []
    for name, watch in (("plain", Watch()), ("compared", Watch(corridor=corridor(9.0, 9.1, 9.2)))):
        model = LeastSquares()
        fit(model, tmp_path / name, watch)
        weights.append(model.linear.weight.tolist())
    lines = [line for line in capsys.readouterr().err.splitlines() if "corridor" in line]
    assert len(lines) == 1 and lines[0].startswith("line: step 0 has the loss ")
    assert weights[0] == weights[1]
