"""The page of measured speed: aims met, missed and not measured, and the results that still count."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmark_results import make_result

from retrobench.errors import RetrobenchError
from retrobench.leaderboard import performance
from retrobench.leaderboard.performance import Aim

PERFORMANCE = Path(__file__).parents[2] / "leaderboards" / "performance"
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


def test_an_aim_may_be_a_rate() -> None:
    aim = Aim("a", "b", "cuda", ratio=3, rate=3490)
    assert str(aim) == "3x and 3,490 a second"
    assert aim.met(make_result(ratio=3.0, ours=3490.0))
    assert not aim.met(make_result(ratio=3.0, ours=3489.0))


def test_a_faulty_line_is_refused(tmp_path: Path) -> None:
    performance.append(tmp_path, [make_result()])
    results = tmp_path / performance.RESULTS
    with results.open("a") as file:
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
