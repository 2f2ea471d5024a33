"""Plots in the README of a track's folder: drawn where they can be, current where they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from leaderboard_rows import entrants

from retrobench.leaderboard import pages
from retrobench.leaderboard.pages import find_stale, write_readme


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return entrants(tmp_path / "mini")


def test_plots_are_drawn_beside_the_readme_and_shown_in_it(folder: Path) -> None:
    pytest.importorskip("vl_convert")
    text = write_readme(folder).read_text()
    assert "![Differences from the baseline](plots/forest.svg)" in text
    assert (folder / "plots" / "forest.svg").read_text().startswith("<svg")
    spec = json.loads((folder / "plots" / "forest.vl.json").read_text())
    assert {value["line"] for value in spec["data"]["values"]} == {"retromae", "bert"}
    assert find_stale(folder) == []


def test_a_plot_of_other_numbers_is_stale(folder: Path) -> None:
    pytest.importorskip("vl_convert")
    write_readme(folder)
    specification = folder / "plots" / "forest.vl.json"
    specification.write_text(specification.read_text().replace("retromae", "bow-mae"))
    assert find_stale(folder) == [str(specification)]


def test_a_folder_without_drawn_plots_is_current_without_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "can_draw", lambda: False)
    assert "plots/" not in write_readme(folder).read_text()
    assert find_stale(folder) == []
