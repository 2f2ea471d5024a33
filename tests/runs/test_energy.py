"""Energy in the cost of stages and rows, with a stand-in for codecarbon, which has a meter or none."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from retrobench.core import ENERGY, EnergyMeter
from retrobench.errors import RetrobenchError
from retrobench.runs.sweep import Request, sweep
from retrobench.store import Store

STAND_IN = """
from types import SimpleNamespace

class OfflineEmissionsTracker:
    def __init__(self, save_to_file, save_to_api, tracking_mode, **options):
        assert (save_to_file, save_to_api, tracking_mode) == (False, False, "machine")

    def start(self):
        self.final_emissions_data = None

    def stop(self):
        kwh = dict(energy_consumed=6e-6, cpu_energy=3e-6, gpu_energy=2e-6, ram_energy=1e-6)
        self.final_emissions_data = SimpleNamespace(**kwh)
"""


@pytest.fixture(params=[True, False])
def has_meter(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    package = tmp_path / "packages" / "codecarbon"
    (package / "core").mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    (package / "core" / "__init__.py").write_text("")
    meter = f"def is_rapl_available(): return {request.param}\ndef is_powergadget_available(): return False\n"
    (package / "core" / "cpu.py").write_text(meter)
    monkeypatch.syspath_prepend(package.parent)
    yield request.param
    logging.getLogger("codecarbon").disabled = False
    for name in [name for name in sys.modules if name.partition(".")[0] == "codecarbon"]:
        del sys.modules[name]


def test_each_new_stage_has_its_joules_and_the_estimated_part(has_meter: bool, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.meter = EnergyMeter()
    cost = store.ensure("score", {"a": 1}, [], lambda folder: None).cost
    estimated = 3.6 if has_meter else 3.6 + 10.8
    assert [cost[name] for name in ENERGY] == pytest.approx([10.8, 7.2, 3.6, estimated])
    assert ("no meter" in str(store.meter)) is not has_meter
    assert "ESTIMATED" in str(store.meter)
    store.meter = None
    assert store.ensure("score", {"a": 1}, [], lambda folder: None).cost == cost, "the store keeps it"
    assert not set(ENERGY) & store.ensure("score", {"a": 2}, [], lambda folder: None).cost.keys()


def test_a_resumed_stage_has_none(has_meter: bool, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.meter = EnergyMeter()

    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise KeyError

    with pytest.raises(KeyError):
        store.ensure("pretrain", {}, [], fail, resumes=True)
    assert not set(ENERGY) & store.ensure("pretrain", {}, [], lambda folder: None, resumes=True).cost.keys()


@pytest.mark.parametrize("has_meter", [False], indirect=True)
def test_a_row_has_the_sums_of_all_its_stages_or_none(has_meter: bool, tmp_path: Path) -> None:
    track = tiny.make(tmp_path)
    request = Request(["bm25"], str(track.track), (0,), (), track.store, track.boards, energy=True)
    (row,) = sweep(request).rows
    assert row.cost["search"]["cpu_joules"] == pytest.approx(10.8)
    assert row.energy is not None
    assert row.energy["estimated_joules"] == pytest.approx(2 * 14.4), "of the search and the scores"
    (plain,) = sweep(request._replace(store=tmp_path / "other", leaderboard=tmp_path / "plain", energy=False)).rows
    assert plain.energy is None
    assert (plain.artifacts, plain.identity) == (row.artifacts, row.identity)
    # Scores of other measures are new, the search is not: its energy alone is no sum of the row.
    changed = ["evaluate.measures=['MRR@10']"]
    (other,) = sweep(request._replace(overrides=changed, energy=False)).rows
    assert other.energy is None
    assert "cpu_joules" in other.cost["search"] and "cpu_joules" not in other.cost["score"]
    assert json.loads(replace(row, id="").to_json())["energy"] == row.energy


def test_without_the_library_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrobench.core.energy.find_spec", lambda name: None)
    with pytest.raises(RetrobenchError, match=r"codecarbon.*pip install 'retrobench\[energy\]'"):
        EnergyMeter()
