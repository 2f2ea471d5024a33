"""Benchmarks as a whole: real processes on made-up cases, the results they leave, and the cases that aims name."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_results import make_result

from retrobench.bench import BENCHMARKS, bench, process, worker
from retrobench.bench.ceilings import Ceilings
from retrobench.bench.frame import (
    Case,
    Floor,
    Measured,
    StepResult,
    Timed,
    UnequalError,
    measure,
    require_close,
    require_close_gradients,
    require_equal_steps,
)
from retrobench.bench.run import run_benchmark
from retrobench.bench.setting import Setting
from retrobench.config import ResolvedPrecision
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import performance

CEILINGS = Ceilings({"fp32": 100.0, "bf16": 200.0}, 50.0)
CPU = Setting("cpu")
KEYS = {
    "benchmark",
    "case",
    "device",
    "ours",
    "peer",
    "peer_name",
    "unit",
    "ratio",
    "floor_share",
    "memory",
    "equal",
    "versions",
    "commit",
}

MADE_UP = """
import os
from retrobench.bench.frame import Case, UnequalError

def differ():
    raise UnequalError("loss: 1 apart, of at most 0.1. Nothing was timed.")

def case(name, **fields):
    sides = {"ours": lambda: 2.0, "peer": lambda: 1.0, "peer_name": "another", "check": lambda: "all"}
    return Case(**{"name": name, "unit": "things/s", **sides, **fields})

def good(setting):
    yield case("first", interpret=lambda: "twice as much")
    yield case("second", peer=None, peer_name=None)

def unequal(setting):
    yield case("first")
    yield case("second", check=differ, ours=lambda: print("TIMED"))

def dying(setting):
    yield case("first")
    yield case("second", ours=lambda: os._exit(9))
"""


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write benchmarks that worker processes import beside the real ones."""
    folder = tmp_path / "more"
    folder.mkdir()
    for name in ("good", "unequal", "dying"):
        (folder / f"{name}.py").write_text(f"{MADE_UP}\ncases = {name}\n")
        monkeypatch.setitem(BENCHMARKS, name, f"{name}:cases")
    (folder / "sitecustomize.py").write_text(
        f"import retrobench.bench.benchmarks\nretrobench.bench.benchmarks.__path__.append({str(folder)!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return tmp_path


def make_case(
    ours: Callable[[], float | Timed] = lambda: 1.0, check: Callable[[], str] = lambda: "all", **fields: Any
) -> Case:
    defaults: dict[str, Any] = {"name": "a", "unit": "things/s", "memory": False, "warmups": 0}
    return Case(ours=ours, check=check, **{**defaults, **fields})


def measure_on_cpu(case: Case) -> Measured:
    return measure(case, CPU, CEILINGS.seconds)


# Whole runs


def test_a_run_shows_its_results_and_names_failures(made_up: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = made_up / "out.json"
    boards = made_up / "boards"
    benched = bench(["good", "unequal", "dying"], device="cpu", smoke=True, json_file=file, leaderboard=boards)
    log = capfd.readouterr().err
    assert benched.exit_code == 1
    assert "Failed: unequal, dying" in benched.text
    assert "loss: 1 apart" in log
    assert "TIMED" not in log
    results = {}
    for result in json.loads(file.read_text()):
        assert result.keys() == KEYS
        results[result["benchmark"], result["case"]] = result
    assert list(results) == [("good", "first"), ("good", "second"), ("unequal", "first"), ("dying", "first")]
    first = results["good", "first"]
    second = results["good", "second"]
    assert first["ratio"] > 0
    assert first["memory"].keys() == {"ours", "peer"}
    assert second["ratio"] is None
    assert second["peer"] is None
    assert "nothing is kept" in benched.text
    assert not boards.exists()


def test_every_result_is_appended_as_it_comes(made_up: Path) -> None:
    boards = made_up / "boards"
    folder = boards / "performance"
    folder.mkdir(parents=True)
    performance.append(folder, [make_result()])
    benched = bench(["good", "dying"], device="cpu", leaderboard=boards, rounds=2)
    assert benched.exit_code == 1
    assert "good, first: twice as much" in benched.text
    kept = [(result.benchmark, result.case, result.says) for result in performance.read(folder)]
    assert kept == [
        ("retromae", "step alone", ""),
        ("good", "first", "twice as much"),
        ("good", "second", ""),
        ("dying", "first", ""),
    ]
    assert performance.read(folder)[1].rounds == 2


def test_nothing_begins_after_the_deadline(capsys: pytest.CaptureFixture[str]) -> None:
    setting = Setting("cpu", smoke=True, deadline=time.time() - 1)
    assert worker.main(["merge:cases", "merge", json.dumps(asdict(setting))]) == 0
    names = [json.loads(line)["not_reached"] for line in capsys.readouterr().out.splitlines()]
    assert len(names) == 2
    run = run_benchmark("merge", setting, lambda result: None)
    assert (run.not_reached, run.results, run.failed) == (["merge"], [], False)


def test_no_round_begins_after_the_deadline() -> None:
    deadline = time.time() + 0.2

    def ours() -> float:
        time.sleep(0.2)
        return 1.0

    case = make_case(ours, peer=lambda: 1.0, peer_name="b", rounds=9)
    measured = measure(case, Setting("cpu", deadline=deadline), CEILINGS.seconds)
    assert measured.rounds == 1


def test_a_worker_that_hangs_is_stopped_after_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hanging.py").write_text('import time; print("{}", flush=True); time.sleep(600)')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(process, "GRACE", 3.0)
    hanging = process.Worker("hanging", [], "cpu", time.time())
    assert list(hanging.run()) == [{}]
    assert hanging.stopped
    assert hanging.exit_code == -signal.SIGKILL


def test_unknown_names_and_absent_devices_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match="retromae") as unknown:
        bench(["retromea"], leaderboard=tmp_path)
    assert "\n" not in str(unknown.value)
    if not torch.cuda.is_available():
        with pytest.raises(RetrobenchError, match="finds no GPU") as absent:
            bench(["retromae"], device="cuda", leaderboard=tmp_path)
        assert "\n" not in str(absent.value)
    assert list(tmp_path.iterdir()) == []


# Measuring


def test_sides_that_differ_are_not_timed() -> None:
    calls: list[int] = []

    def differ() -> str:
        raise UnequalError("no")

    def ours() -> float:
        calls.append(1)
        return 1.0

    with pytest.raises(UnequalError) as raised:
        measure_on_cpu(make_case(ours, differ))
    assert raised.value.exit_code == 1
    assert not calls


def test_differences_beyond_the_tolerance_are_unequal() -> None:
    assert require_close(1.0, 1.0 + 1e-7, 1e-6, "loss").startswith("loss within")
    for loss in (1.1, math.nan):
        with pytest.raises(UnequalError, match="loss"):
            require_close(loss, 1.0, 1e-6, "loss")


def test_gradients_beyond_the_tolerance_are_unequal() -> None:
    peer = {"a": torch.ones(3), "b": torch.zeros(2)}
    different = {"a": torch.full((3,), 1.1), "b": torch.zeros(2)}
    without_b = {"a": torch.ones(3)}
    all_zeros = {"a": torch.zeros(3)}
    assert require_close_gradients(peer, peer, 1e-6)
    with pytest.raises(UnequalError, match="gradient of a"):
        require_close_gradients(different, peer, 1e-3)
    with pytest.raises(UnequalError, match="other parameters"):
        require_close_gradients(without_b, peer, 1e-3)
    with pytest.raises(UnequalError, match="all 0"):
        require_close_gradients(all_zeros, all_zeros, 1e-3)


PEER_STEP = StepResult(torch.tensor(1.0), {"a": torch.ones(3)})


def erroneous_step(error: float) -> StepResult:
    """Return PEER_STEP with this error in its loss, and ten times the error in its gradients."""
    loss = torch.tensor(1.0 + error)
    gradient = torch.ones(3) * (1 + 10 * error)
    return StepResult(loss, {"a": gradient})


@pytest.fixture
def _timed_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrobench.bench.frame.resolve_precision", lambda precision: "bf16")


@pytest.mark.usefixtures("_timed_in_bf16")
def test_steps_are_compared_in_fp32_and_in_the_precision_that_is_timed() -> None:
    def ours(precision: ResolvedPrecision) -> StepResult:
        if precision == "bf16":
            return erroneous_step(1e-3)
        return erroneous_step(1e-7)

    report = require_equal_steps(ours, PEER_STEP)
    assert re.fullmatch(r"fp32 losses .*, gradients .*; bf16 losses .*, gradients .*", report)


@pytest.mark.usefixtures("_timed_in_bf16")
@pytest.mark.parametrize(("fp32_error", "bf16_error"), [(1e-5, 1e-3), (1e-7, 1e-1)])
def test_steps_that_differ_in_either_precision_are_unequal(fp32_error: float, bf16_error: float) -> None:
    def ours(precision: ResolvedPrecision) -> StepResult:
        if precision == "bf16":
            return erroneous_step(bf16_error)
        return erroneous_step(fp32_error)

    with pytest.raises(UnequalError):
        require_equal_steps(ours, PEER_STEP)


def test_a_side_may_measure_its_own_time() -> None:
    rates = iter([10.0, 20.0, 30.0])

    def ours() -> Timed:
        return Timed(next(rates), 2.0)

    case = make_case(ours, peer=lambda: Timed(5.0, 1.0), peer_name="b", rounds=3)
    measured = measure_on_cpu(case)
    assert measured.ours == 10.0
    assert measured.peer == 5.0
    assert measured.ratio == 2.0
    assert measured.rounds == 3
    assert measured.spread == (1.0, 3.0)


def measure_once(units: float, seconds: float, **fields: Any) -> Measured:
    """Measure a case beside a peer that takes 6 seconds for one item."""
    case = make_case(
        ours=lambda: Timed(units, seconds), peer=lambda: Timed(1.0, 6.0), peer_name="b", rounds=1, **fields
    )
    return measure_on_cpu(case)


def test_ratios_are_above_one_where_ours_is_better() -> None:
    faster = measure_once(1.0, 2.0, kind="seconds")
    slower = measure_once(1.0, 12.0, allowed=0.4)
    bounded = measure_once(4.0, 1.0, floor=Floor(flops=10.0))
    assert faster.ratio == pytest.approx(3.0)
    assert slower.ratio == pytest.approx(0.5)
    assert slower.floor_share == pytest.approx(1.25)
    assert bounded.floor_share == pytest.approx(4.0 * 10.0 / 200.0)
