"""Benchmarks as a whole: real processes on made-up cases, what they leave behind, and the names that aims know."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from retrobench.bench import BENCHMARKS, bench, collation
from retrobench.bench.ceilings import Ceilings
from retrobench.bench.feeds import as_ours
from retrobench.bench.frame import (
    Case,
    Floor,
    Setting,
    Timed,
    UnequalError,
    close,
    gradients_close,
    measured,
    steps_alike,
)
from retrobench.bench.methods import METHODS
from retrobench.bench.models import pretraining, scale
from retrobench.bench.peers import collators
from retrobench.bench.texts import VOCABULARY, passages
from retrobench.bench.verdict import Degenerations, published, verdict
from retrobench.bench.worker import load
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import performance
from retrobench.leaderboard.performance import Aim, BenchmarkResult

CEILINGS = Ceilings({"fp32": 100.0, "bf16": 200.0}, 50.0)
SMOKE = Setting("cpu", smoke=True)
KEYS = {
    *("benchmark", "case", "device", "ours", "peer", "peer_name", "unit", "ratio", "floor_share", "memory", "equal"),
    *("versions", "commit"),
}

MADE_UP = """
import os
from retrobench.bench.frame import Case, UnequalError

def differ():
    raise UnequalError("loss: 1 apart, of at most 0.1. Nothing was timed.")

def case(name, **given):
    sides = {"ours": lambda: 2.0, "peer": lambda: 1.0, "peer_name": "another", "check": lambda: "all"}
    return Case(**{"name": name, "unit": "things/s", **sides, **given})

def good(setting):
    yield case("first", says=lambda: "twice as much")
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
    """Three benchmarks that worker processes find beside the real ones."""
    folder = tmp_path / "more"
    folder.mkdir()
    for name in ("good", "unequal", "dying"):
        (folder / f"{name}.py").write_text(f"{MADE_UP}\ncases = {name}\n")
        monkeypatch.setitem(BENCHMARKS, name, f"{name}:cases")
    (folder / "sitecustomize.py").write_text(
        f"import retrobench.bench\nretrobench.bench.__path__.append({str(folder)!r})\n"
    )
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return tmp_path


def case(
    ours: Callable[[], float | Timed] = lambda: 1.0, check: Callable[[], str] = lambda: "all", **given: Any
) -> Case:
    return Case(
        **{"name": "a", "unit": "things/s", "ours": ours, "check": check, "memory": False, "warmups": 0, **given}
    )


def result(**given: Any) -> BenchmarkResult:
    known: dict[str, Any] = {"benchmark": "retromae", "case": "step alone", "device": "cpu", "ours": 8.0, "peer": 2.0}
    known |= {
        "peer_name": "another",
        "unit": "tokens/s",
        "ratio": 4.0,
        "floor_share": 0.6,
        "memory": None,
        "equal": "all",
    }
    known |= {"versions": {}, "commit": "abc", "command": "retrobench bench", "date": "now", "hardware": {}}
    return BenchmarkResult(**{**known, **given})


# Whole runs


def test_a_run_shows_what_it_had_and_says_what_failed(made_up: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, boards = made_up / "out.json", made_up / "boards"
    benched = bench(["good", "unequal", "dying"], device="cpu", smoke=True, json_file=file, leaderboard=boards)
    told = capfd.readouterr().err
    assert benched.exit_code == 1 and "Failed: unequal, dying" in benched.text
    assert "loss: 1 apart" in told and "TIMED" not in told
    found = json.loads(file.read_text())
    names = [("good", "first"), ("good", "second"), ("unequal", "first"), ("dying", "first")]
    assert [(of["benchmark"], of["case"]) for of in found] == names
    assert all(of.keys() == KEYS for of in found)
    assert found[0]["ratio"] > 0 and found[1]["ratio"] is None and found[1]["peer"] is None
    assert found[0]["memory"].keys() == {"ours", "peer"}
    assert "nothing is kept" in benched.text and not boards.exists()


def test_results_of_benchmarks_that_ended_well_are_appended(made_up: Path) -> None:
    boards = made_up / "boards"
    (boards / "performance").mkdir(parents=True)
    performance.append(boards / "performance", [result()])
    benched = bench(["good", "dying"], device="cpu", leaderboard=boards)
    assert benched.exit_code == 1 and "good, first: twice as much" in benched.text
    kept = [(of.benchmark, of.case, of.says) for of in performance.read(boards / "performance")]
    assert kept == [("retromae", "step alone", ""), ("good", "first", "twice as much"), ("good", "second", "")]


def test_names_and_devices_that_are_not_there_are_one_line(tmp_path: Path) -> None:
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
    def differ() -> str:
        raise UnequalError("no")

    calls: list[int] = []
    with pytest.raises(UnequalError) as raised:
        measured(case(lambda: calls.append(1) or 1.0, differ), Setting("cpu"), CEILINGS.seconds)  # type: ignore[func-returns-value]
    assert raised.value.exit_code == 1 and not calls


def test_differences_beyond_the_bound_are_unequal() -> None:
    assert close(1.0, 1.0 + 1e-7, 1e-6, "loss").startswith("loss within")
    for wrong in (1.1, float("nan")):
        with pytest.raises(UnequalError, match="loss"):
            close(wrong, 1.0, 1e-6, "loss")
    one = {"a": torch.ones(3), "b": torch.zeros(2)}
    assert gradients_close(one, one, 1e-6)
    with pytest.raises(UnequalError, match="gradient of a"):
        gradients_close({**one, "a": torch.ones(3) * 1.1}, one, 1e-3)
    with pytest.raises(UnequalError, match="other parameters"):
        gradients_close({"a": torch.ones(3)}, one, 1e-3)
    with pytest.raises(UnequalError, match="all 0"):
        gradients_close({"a": torch.zeros(3)}, {"a": torch.zeros(3)}, 1e-3)


def test_steps_are_compared_in_the_precision_that_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrobench.bench.frame.resolve_precision", lambda precision: "bf16")
    off = {False: 1e-7, True: 1e-3}

    def ours(halved: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return torch.tensor(1.0 + off[halved]), {"a": torch.ones(3) * (1 + 10 * off[halved])}

    peer = torch.tensor(1.0), {"a": torch.ones(3)}
    assert re.fullmatch(r"fp32 losses .*, gradients .*; bf16 losses .*, gradients .*", steps_alike(ours, peer))
    for halved in (False, True):
        off[halved] *= 100
        with pytest.raises(UnequalError):
            steps_alike(ours, peer)
        off[halved] /= 100


def test_a_side_may_take_the_time_itself() -> None:
    rates = iter([10.0, 20.0, 30.0])
    found = measured(
        case(lambda: Timed(next(rates), 2.0), peer=lambda: Timed(5.0, 1.0), peer_name="b", rounds=3),
        Setting("cpu"),
        CEILINGS.seconds,
    )
    assert (found.ours, found.peer, found.ratio) == (10.0, 5.0, 2.0)
    assert (found.rounds, found.spread) == (3, (1.0, 3.0))


def test_ratios_are_above_one_where_ours_is_better() -> None:
    sides: dict[str, Any] = {"peer": lambda: Timed(1.0, 6.0), "peer_name": "b", "rounds": 1}
    times = measured(case(lambda: Timed(1.0, 2.0), kind="seconds", **sides), Setting("cpu"), CEILINGS.seconds)
    assert times.ratio == pytest.approx(3.0)
    other = measured(case(lambda: Timed(1.0, 12.0), allowed=0.4, **sides), Setting("cpu"), CEILINGS.seconds)
    assert other.ratio == pytest.approx(0.5) and other.floor_share == pytest.approx(1.25)
    floor = measured(case(lambda: Timed(4.0, 1.0), floor=Floor(flops=10.0), **sides), Setting("cpu"), CEILINGS.seconds)
    assert floor.floor_share == pytest.approx(4.0 * 10.0 / 200.0)


# What is rendered


def test_the_page_tells_aims_met_missed_and_not_measured(tmp_path: Path) -> None:
    known = [{"benchmark": "retromae", "case": "step alone", "device": "cpu", "ratio": 4.5}]
    known += [{"benchmark": "retromae", "case": "step alone", "device": "cuda", "ratio": 2.2, "floor_share": 0.5}]
    tables = ("\n".join(["[[aim]]", *(f"{key} = {json.dumps(value)}" for key, value in aim.items())]) for aim in known)
    (tmp_path / performance.AIMS).write_text("\n".join(tables))
    performance.append(
        tmp_path,
        [
            result(ratio=4.0),
            result(ratio=5.0, says="five times", rounds=3, spread=(4.7, 5.25)),
            result(case="other", ratio=None),
        ],
    )
    page = performance.render_page(tmp_path)
    cpu, gpu = page.split("## GPU")
    assert "5x (4.7 to 5.25 in 3)" in cpu and "4.5x |" in cpu and "missed" not in cpu and "five times" in cpu
    assert (
        re.search(r"retromae +\| step alone .*not measured.*2.2x and 50 % of the floor", gpu) and "Compared" not in gpu
    )
    assert Aim("a", "b", "cpu", 4.5).met(result(ratio=5.0)) and not Aim("a", "b", "cpu", 4.5).met(result(ratio=None))


def test_no_result_is_taken_from_a_faulty_line(tmp_path: Path) -> None:
    performance.append(tmp_path, [result()])
    with open(tmp_path / performance.RESULTS, "a") as file:
        file.write('{"benchmark": "retromae"}\n')
    with pytest.raises(RetrobenchError, match=r"results.jsonl:2") as raised:
        performance.read(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_case_that_is_no_more_leaves_the_page() -> None:
    lines = [result(case="old"), result(case="both", ratio=2.0), result(benchmark="another", case="old")]
    lines += [result(case="both", ratio=3.0, commit="b" * 40), result(case="new", commit="b" * 40)]
    found = performance.latest(lines)
    assert {key[:2] for key in found} == {("retromae", "both"), ("retromae", "new"), ("another", "old")}
    assert found["retromae", "both", "cpu"].ratio == 3.0


def test_every_aim_of_a_processor_names_a_case_that_was_measured() -> None:
    """One that is misspelt would stand as not measured for ever."""
    folder = Path(__file__).parents[2] / "leaderboards" / "performance"
    found = performance.latest(performance.read(folder))
    assert [aim for aim in performance.read_aims(folder) if aim.device == "cpu"]
    for aim in performance.read_aims(folder):
        assert aim.device != "cpu" or (aim.benchmark, aim.case, aim.device) in found, aim


# The benchmarks themselves


@pytest.mark.parametrize("name", ["collation", "objectives", "retromae", "bow-mae"])
def test_both_sides_of_every_case_do_the_same(name: str) -> None:
    cases = {case.name: case for case in load(BENCHMARKS[name])(SMOKE)}
    aims = [aim for aim in performance.read_aims(Path(__file__).parents[2] / "leaderboards" / "performance")]
    assert {aim.case for aim in aims if (aim.benchmark, aim.device) == (name, "cpu")} <= set(cases)
    for check in {case.check for case in cases.values()}:
        assert check()


def test_a_wrong_mask_is_found_before_timing() -> None:
    texts = passages([64] * 4)
    ours = collation.collated(texts, 64)
    peer = collators.retromae(texts, VOCABULARY, 64, random.Random(0))
    assert "visible share" in collation.distributions_agree(ours, peer)
    for at, value in (((0, 5, 5), True), ((1, 3, 0), False)):
        wrong = ours["visible"].clone()
        wrong[at] = value
        with pytest.raises(UnequalError, match="ours"):
            collation.distributions_agree({**ours, "visible": wrong}, peer)
    fewer = {**peer, "encoder_labels": torch.full_like(peer["encoder_labels"], -100)}
    with pytest.raises(UnequalError, match="tokens masked"):
        collation.distributions_agree(ours, fewer)


def test_the_verdict_is_made_of_the_printed_numbers() -> None:
    table = published()
    assert table["Enhanced Decoding"]["samples/s"] == 85.797 and table["Pure MLM"]["degeneration"] is None
    released, waitless = Degenerations(0.7, 0.02), Degenerations(0.3, 0.01)
    told = verdict(released, waitless, Degenerations(0.4, 0.01), Degenerations(0.24, 0.0), "4 x 128")
    assert "68.2 % - 1.2 % = 67 points" in told and "85.8 samples/s, 94 % of the 91.0 that 8 workers" in told
    assert "accounts for 24 points" in told and "so it measures a data loader, not an objective; here, at 4" in told
    assert "is 68 points collating as released, 29 with the wait for data taken out, 39 collating as retrob" in told
    assert told.count(". ") == 0  # one sentence


def test_the_verdict_follows_the_published_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that ran at half of what its loader could make did not wait for the loader."""
    table = {name: dict(cells) for name, cells in published().items()}
    table["Enhanced Decoding"]["samples/s"] = 45.0
    monkeypatch.setattr("retrobench.bench.verdict.published", lambda: table)
    same = Degenerations(0.5, 0.1)
    assert "49 % of the 91.0" in verdict(same, same, same, same, "4 x 128")
    assert "so it is not explained by the data loader" in verdict(same, same, same, same, "4 x 128")
    table["BoW"]["degeneration"] = None
    with pytest.raises(RetrobenchError, match="print no degeneration of BoW"):
        verdict(same, same, same, same, "4 x 128")


def test_objectives_learn_from_either_collator() -> None:
    """A batch collated as released has the same parts as ours, of the same shapes."""
    sizes, texts = replace(scale(SMOKE), dropout=0.0), passages([20, 12, 16, 9])
    for method in METHODS:
        objective = method.objective()
        ours = objective.collate(texts, VOCABULARY, 32, torch.Generator().manual_seed(0))
        theirs = as_ours(method.collator(texts, VOCABULARY, 32, random.Random(0)))
        assert theirs.keys() - {"visible"} == ours.keys(), method.name
        for name in ours.keys() & {"decoder_positions", "content_positions", "attention_mask"}:
            assert ours[name].shape == theirs[name].shape, (method.name, name)
        model = pretraining(objective, sizes, "cpu").eval()
        losses = [torch.stack(list(model(0.0, **batch).losses.values())) for batch in (ours, theirs)]
        assert all(bool(loss.isfinite().all()) for loss in losses)
        assert losses[0].sum().item() == pytest.approx(losses[1].sum().item(), rel=0.1)
