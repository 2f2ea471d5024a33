"""The guide of the leaderboards shows the coverage that was simulated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from retrobench.leaderboard.guide import coverage_table, is_current, write_generated

LEADERBOARDS = Path(__file__).parents[2] / "leaderboards"


def test_the_guide_is_current_until_the_figures_change(tmp_path: Path) -> None:
    for name in ("README.md", "coverage.json"):
        shutil.copy(LEADERBOARDS / name, tmp_path / name)
    guide = tmp_path / "README.md"
    assert is_current(guide)
    results = json.loads((tmp_path / "coverage.json").read_text())
    results[0]["pair"] = 0.5
    (tmp_path / "coverage.json").write_text(json.dumps(results))
    assert not is_current(guide)
    write_generated(guide)
    assert is_current(guide)
    assert "50.0%" in guide.read_text("utf-8")


def test_a_row_holds_the_shares_of_each_number_of_seeds(tmp_path: Path) -> None:
    results = []
    for seeds, pair in ((3, 0.95), (5, 0.96)):
        setting = {"seeds": seeds, "values": "normal", "clustered": True, "ratio": 10}
        shares = {"pair": pair, "simultaneous": 0.92, "games_howell": 0.871}
        results.append({"setting": setting, "repetitions": 7, **shares})
    file = tmp_path / "coverage.json"
    file.write_text(json.dumps(results))
    text = coverage_table(file)
    row = next(line for line in text.splitlines() if line.startswith("| normal"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "normal",
        "in 50 clusters",
        "10",
        "95.0%, 92.0%",
        "96.0%, 92.0%",
    ]
    assert "retrobench.scoring.coverage 7 " in text
    assert "Of 2 settings, all pairs are covered in fewer than 93 % of the tables in 2, " in text
    assert "Games and Howell cover all pairs in fewer than 93 % in 2." in text


def test_the_published_coverage_is_near_its_nominal_value() -> None:
    results = json.loads((LEADERBOARDS / "coverage.json").read_text("utf-8"))
    assert len(results) == 36
    for result in results:
        assert result["repetitions"] >= 2000
        assert 0.93 <= result["pair"] <= 0.97
        assert 0.90 <= result["simultaneous"] <= 0.985
