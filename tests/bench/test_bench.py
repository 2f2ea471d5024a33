"""Benchmarks as a whole: real processes on made-up cases, the results they leave, and the cases that aims name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retrobench.bench import BENCHMARKS, bench
from retrobench.bench.ceilings import Ceilings
from retrobench.bench.frame import (
    Case,
    Floor,
    Measured,
    Setting,
    StepResult,
    Timed,
    UnequalError,
    measure,
    require_close,
    require_close_gradients,
    require_equal_steps,
)
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import performance
from retrobench.leaderboard.performance import Aim, BenchmarkResult

CEILINGS = Ceilings({"fp32": 100.0, "bf16": 200.0}, 50.0)
CPU = Setting("cpu")
PERFORMANCE = Path(__file__).parents[2] / "leaderboards" / "performance"
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
    """Three benchmarks that worker processes import beside the real ones."""
    folder = tmp_path / "more"
    folder.mkdir()
    for name in ("good", "unequal", "dying"):
        (folder / f"{name}.py").write_text(f"{MADE_UP}\ncases = {name}\n")
        monkeypatch.setitem(BENCHMARKS, name, f"{name}:cases")
    (folder / "sitecustomize.py").write_text(
        f"import retrobench.bench\nretrobench.bench.__path__.append({str(folder)!r})\n"
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


def make_result(**fields: Any) -> BenchmarkResult:
    defaults: dict[str, Any] = {
        "benchmark": "retromae",
        "case": "step alone",
        "device": "cpu",
        "ours": 8.0,
        "peer": 2.0,
        "peer_name": "another",
        "unit": "tokens/s",
        "ratio": 4.0,
        "floor_share": 0.6,
        "memory": None,
        "equal": "all",
        "versions": {},
        "commit": "abc",
        "command": "retrobench bench",
        "date": "now",
        "hardware": {},
    }
    return BenchmarkResult(**{**defaults, **fields})


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
    results = json.loads(file.read_text())
    names = [(result["benchmark"], result["case"]) for result in results]
    assert names == [("good", "first"), ("good", "second"), ("unequal", "first"), ("dying", "first")]
    for result in results:
        assert result.keys() == KEYS
    first, second = results[:2]
    assert first["ratio"] > 0
    assert first["memory"].keys() == {"ours", "peer"}
    assert second["ratio"] is None
    assert second["peer"] is None
    assert "nothing is kept" in benched.text
    assert not boards.exists()


def test_results_of_benchmarks_that_ended_well_are_appended(made_up: Path) -> None:
    boards = made_up / "boards"
    (boards / "performance").mkdir(parents=True)
    performance.append(boards / "performance", [make_result()])
    benched = bench(["good", "dying"], device="cpu", leaderboard=boards)
    assert benched.exit_code == 1
    assert "good, first: twice as much" in benched.text
    results = performance.read(boards / "performance")
    appended = [(result.benchmark, result.case, result.says) for result in results]
    assert appended == [("retromae", "step alone", ""), ("good", "first", "twice as much"), ("good", "second", "")]


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
    for wrong in (1.1, float("nan")):
        with pytest.raises(UnequalError, match="loss"):
            require_close(wrong, 1.0, 1e-6, "loss")
    ones = torch.ones(3)
    peer = {"a": ones, "b": torch.zeros(2)}
    assert require_close_gradients(peer, peer, 1e-6)
    with pytest.raises(UnequalError, match="gradient of a"):
        require_close_gradients({**peer, "a": ones * 1.1}, peer, 1e-3)
    with pytest.raises(UnequalError, match="other parameters"):
        require_close_gradients({"a": ones}, peer, 1e-3)
    zeros = {"a": torch.zeros(3)}
    with pytest.raises(UnequalError, match="all 0"):
        require_close_gradients(zeros, zeros, 1e-3)


@pytest.mark.parametrize("wrong", [None, "fp32", "bf16"])
def test_steps_are_compared_in_the_precision_that_is_timed(wrong: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrobench.bench.frame.resolve_precision", lambda precision: "bf16")
    errors = {"fp32": 1e-7, "bf16": 1e-3}
    if wrong is not None:
        errors[wrong] *= 100

    def ours(halved: bool) -> StepResult:
        error = errors["bf16" if halved else "fp32"]
        return StepResult(torch.tensor(1.0 + error), {"a": torch.ones(3) * (1 + 10 * error)})

    peer = StepResult(torch.tensor(1.0), {"a": torch.ones(3)})
    if wrong is None:
        report = require_equal_steps(ours, peer)
        assert re.fullmatch(r"fp32 losses .*, gradients .*; bf16 losses .*, gradients .*", report)
    else:
        with pytest.raises(UnequalError):
            require_equal_steps(ours, peer)


def test_a_side_may_measure_its_own_time() -> None:
    rates = iter([10.0, 20.0, 30.0])

    def ours() -> Timed:
        return Timed(next(rates), 2.0)

    measured = measure_on_cpu(make_case(ours, peer=lambda: Timed(5.0, 1.0), peer_name="b", rounds=3))
    assert (measured.ours, measured.peer, measured.ratio) == (10.0, 5.0, 2.0)
    assert (measured.rounds, measured.spread) == (3, (1.0, 3.0))


def test_ratios_are_above_one_where_ours_is_better() -> None:
    peer: dict[str, Any] = {"peer": lambda: Timed(1.0, 6.0), "peer_name": "b", "rounds": 1}
    faster = measure_on_cpu(make_case(lambda: Timed(1.0, 2.0), kind="seconds", **peer))
    assert faster.ratio == pytest.approx(3.0)
    slower = measure_on_cpu(make_case(lambda: Timed(1.0, 12.0), allowed=0.4, **peer))
    assert slower.ratio == pytest.approx(0.5)
    assert slower.floor_share == pytest.approx(1.25)
    bounded = measure_on_cpu(make_case(lambda: Timed(4.0, 1.0), floor=Floor(flops=10.0), **peer))
    assert bounded.floor_share == pytest.approx(4.0 * 10.0 / 200.0)


# Rendering

AIMS = """
[[aim]]
benchmark = "retromae"
case = "step alone"
device = "cpu"
ratio = 4.5

[[aim]]
benchmark = "retromae"
case = "step alone"
device = "cuda"
ratio = 2.2
floor_share = 0.5
"""


def test_the_page_shows_aims_met_missed_and_not_measured(tmp_path: Path) -> None:
    (tmp_path / performance.AIMS).write_text(AIMS)
    results = [
        make_result(ratio=4.0),
        make_result(ratio=5.0, says="five times", rounds=3, spread=(4.7, 5.25)),
        make_result(case="other", ratio=None),
    ]
    performance.append(tmp_path, results)
    cpu, gpu = performance.render_page(tmp_path).split("## GPU")
    for cell in ("5x (4.7 to 5.25 in 3)", "4.5x |", "five times"):
        assert cell in cpu
    assert "missed" not in cpu
    assert re.search(r"retromae +\| step alone .*not measured.*2.2x and 50 % of the floor", gpu)
    assert "Compared" not in gpu


def test_an_aim_is_met_by_a_large_enough_ratio() -> None:
    aim = Aim("a", "b", "cpu", 4.5)
    assert aim.met(make_result(ratio=5.0))
    assert not aim.met(make_result(ratio=4.0))
    assert not aim.met(make_result(ratio=None))


def test_a_faulty_line_is_refused(tmp_path: Path) -> None:
    performance.append(tmp_path, [make_result()])
    with open(tmp_path / performance.RESULTS, "a") as file:
        file.write('{"benchmark": "retromae"}\n')
    with pytest.raises(RetrobenchError, match=r"results.jsonl:2") as raised:
        performance.read(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_removed_case_leaves_the_page() -> None:
    newer = "b" * 40
    results = [
        make_result(case="old"),
        make_result(case="both", ratio=2.0),
        make_result(benchmark="another", case="old"),
        make_result(case="both", ratio=3.0, commit=newer),
        make_result(case="new", commit=newer),
    ]
    latest = performance.latest(results)
    assert set(latest) == {
        ("retromae", "both", "cpu"),
        ("retromae", "new", "cpu"),
        ("another", "old", "cpu"),
    }
    assert latest["retromae", "both", "cpu"].ratio == 3.0


def test_every_aim_of_a_processor_names_a_measured_case() -> None:
    """A misspelt case would stand as not measured for ever."""
    results = performance.latest(performance.read(PERFORMANCE))
    aims = [aim for aim in performance.read_aims(PERFORMANCE) if aim.device == "cpu"]
    assert aims
    for aim in aims:
        assert (aim.benchmark, aim.case, aim.device) in results
