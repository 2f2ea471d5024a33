"""Rows are matched to claims by the settings of their tracks; keys that change no result never exclude a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from leaderboard_rows import SETTINGS, TRACK, board, cells, facts, measured, tracked, write_track

from retrobench.leaderboard.reproduce import reproduce
from retrobench.leaderboard.rows import Row, folders, read

CLAIMED = "adapt.corpus=[]"  # the override that the table's `set` names


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide all tracks and claims but the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "PACKAGE", tmp_path / "package")


def judged_cell(folder: Path, model: str = "BERT") -> dict[str, Any]:
    """Return the one cell of a model's MRR@10."""
    (cell,) = cells(reproduce("paper/table-1", "json", leaderboard=folder).text)[model, "d:dev MRR@10"]
    return cell


def judge_row(folder: Path, *overrides: str, kept: bool = True) -> dict[str, Any]:
    """Return the cell of a row of bert under the claimed recipe with further overrides."""
    file = write_track(folder)
    board(folder, tracked(file, measured(), CLAIMED, *overrides, kept=kept))
    return judged_cell(folder)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    "override",
    [
        "finetune.gradient_cache=64",
        "finetune.compile=off",
        "pretrain.compile=on",
        "pretrain.log_every=7",
        "finetune.checkpoint_every=7",
    ],
)
def test_settings_that_change_no_result_count(tmp_path: Path, override: str, kept: bool) -> None:
    cell = judge_row(tmp_path, override, kept=kept)
    assert (cell["verdict"], cell["note"]) == ("WITHIN (one seed)", None)


def test_overrides_of_knobs_in_a_row_do_not_count(tmp_path: Path) -> None:
    """A row of an earlier version may name the knobs among its overrides."""
    write_track(tmp_path)
    overrides = {"adapt.corpus": [], "finetune.gradient_cache": 64, "pretrain.log_every": 7}
    board(tmp_path, measured(overrides=overrides))
    assert judged_cell(tmp_path)["verdict"] == "WITHIN (one seed)"


def test_processes_do_not_count(tmp_path: Path) -> None:
    file = write_track(tmp_path)
    board(tmp_path, tracked(file, measured(processes=8), CLAIMED))
    assert judged_cell(tmp_path)["verdict"] == "WITHIN (one seed)"


@pytest.mark.parametrize("kept", [True, False])
def test_another_number_of_shards_counts_and_is_said(tmp_path: Path, kept: bool) -> None:
    """The advice of `plan` for 4 GPUs: the same batch, cut into 4 parts, with a gradient cache."""
    cell = judge_row(tmp_path, "finetune.shards=4", "finetune.gradient_cache=64", kept=kept)
    assert (cell["verdict"], cell["note"]) == ("WITHIN (one seed)", "finetune.shards=4 (claimed 1)")
    text = " ".join(reproduce("paper/table-1", leaderboard=tmp_path).text.split())
    assert "another number of shards and the same batch count" in text


def test_seeds_of_several_numbers_of_shards_share_an_interval(tmp_path: Path) -> None:
    file = write_track(tmp_path)
    one = tracked(file, measured(mrr=0.300, seed=0), CLAIMED)
    four = tracked(file, measured(mrr=0.301, seed=1), CLAIMED, "finetune.shards=4")
    eight = tracked(file, measured(mrr=0.302, seed=2), CLAIMED, "finetune.shards=8")
    assert len({one.identity, four.identity, eight.identity}) == 3
    board(tmp_path, one, four, eight)
    cell = judged_cell(tmp_path)
    assert (cell["verdict"], cell["seeds"]) == ("PASS", 3)


@pytest.mark.parametrize("kept", [True, False])
def test_a_near_miss_is_named_with_its_keys(tmp_path: Path, kept: bool) -> None:
    cell = judge_row(tmp_path, "finetune.batch=4", "pretrain.learning_rate=3e-4", kept=kept)
    assert cell["verdict"] == "NOT RUN"
    (row,) = read(tmp_path / "small")
    assert cell["reason"] == (
        f"no row of bert by this recipe on track small; the row {row.id[:8]} of bert (seed 0) differs in "
        "finetune.batch=4 (claimed 8), pretrain.learning_rate=0.0003 (claimed 0.0001)"
    )
    assert f"{row.id[:8]} of bert" in " ".join(reproduce("paper/table-1", leaderboard=tmp_path).text.split())


def test_the_nearest_row_is_named(tmp_path: Path) -> None:
    file = write_track(tmp_path)
    far = tracked(file, measured(seed=1), CLAIMED, "finetune.batch=4", "finetune.steps=9")
    near = tracked(file, measured(seed=2), CLAIMED, "finetune.steps=8")
    board(tmp_path, far, near)
    assert judged_cell(tmp_path)["reason"].endswith("(seed 2) differs in finetune.steps=8 (claimed 60)")


def test_a_row_that_differs_in_many_keys_is_no_near_miss(tmp_path: Path) -> None:
    keys = ("steps=1", "batch=4", "learning_rate=1e-3", "warmup=0.2", "clip=2.0", "weight_decay=0.1")
    cell = judge_row(tmp_path, *(f"finetune.{key}" for key in keys))
    assert cell["reason"] == "no row of bert by this recipe on track small"


def test_the_row_of_another_system_is_no_near_miss(tmp_path: Path) -> None:
    """The default of an ablation measures its own line of the table."""
    file = write_track(tmp_path)
    board(tmp_path, tracked(file, measured("retromae", 0.351), CLAIMED))
    assert judged_cell(tmp_path, "RetroMAE")["verdict"] == "WITHIN (one seed)"
    assert judged_cell(tmp_path, "mask .9")["reason"] == "no row of retromae by this recipe on track small"


def test_an_objective_and_a_representation_of_near_misses_are_named(tmp_path: Path) -> None:
    file = write_track(tmp_path)
    settings = SETTINGS["retromae"] | {"mask_pool": 128}
    board(tmp_path, tracked(file, measured("retromae", settings=settings, representation="mean"), CLAIMED))
    reason = judged_cell(tmp_path, "RetroMAE")["reason"]
    assert "objective.mask_pool=128 (claimed 256), entrant.representation=mean (claimed cls)" in reason


def test_the_objective_of_a_stage_counts(tmp_path: Path) -> None:
    file = write_track(tmp_path)
    stage = {"pretrain.objective": "mlm", "pretrain.mask_ratio": 0.3}
    other = tracked(file, measured("retromae", 0.1, recall=0.1), "finetune.steps=61", CLAIMED)
    board(tmp_path, other)
    claims = tmp_path / "small" / "claims.toml"
    text = claims.read_text().replace("objective.mask_ratio=0.9", "pretrain.objective=mlm")
    claims.write_text(text)
    reason = judged_cell(tmp_path, "mask .9")["reason"]
    assert "pretrain.objective=none (claimed mlm), pretrain.objective.mask_ratio=none (claimed 0.3)" in reason
    board(tmp_path, tracked(file, measured("retromae", 0.331, settings=SETTINGS["retromae"] | stage), CLAIMED))
    claims.write_text(text)
    assert judged_cell(tmp_path, "mask .9")["measured"] == 0.331
    assert judged_cell(tmp_path, "RetroMAE")["verdict"] == "NOT RUN"
    checkpoint = measured("retromae", 0.329, checkpoint="authors/model")
    board(tmp_path, tracked(file, checkpoint, CLAIMED))
    claims.write_text(text)
    values = cells(reproduce("paper/table-1", "json", leaderboard=tmp_path).text)["mask .9", "d:dev MRR@10"]
    assert {value["measured"] for value in values} == {0.331, 0.329}, "a checkpoint goes through no stage"


def test_a_section_that_a_row_has_and_the_claim_lacks_is_one_difference(tmp_path: Path) -> None:
    file = write_track(tmp_path)
    board(tmp_path, tracked(file, measured()))
    assert judged_cell(tmp_path)["reason"].endswith('differs in adapt.corpus=["d:corpus"] (claimed [])')


def test_rows_of_an_earlier_track_are_near_misses(tmp_path: Path) -> None:
    """The track was edited after the first row; the kept track says in what."""
    earlier = tracked(write_track(tmp_path, TRACK.replace("steps = 60", "steps = 61")), measured(seed=0), CLAIMED)
    board(tmp_path, earlier)
    file = write_track(tmp_path)
    assert judged_cell(tmp_path)["reason"].endswith("differs in finetune.steps=61 (claimed 60)")
    board(tmp_path, tracked(file, measured(seed=1), CLAIMED))
    cell = judged_cell(tmp_path)
    assert (cell["verdict"], [row["seed"] for row in cell["rows"]]) == ("WITHIN (one seed)", [1])


def test_chosen_rows_of_another_track_name_the_first_differences(tmp_path: Path) -> None:
    ours = board(tmp_path / "ours")
    write_track(ours)
    keys = ("steps=1", "batch=4", "learning_rate=1e-3", "warmup=0.2", "clip=2.0", "weight_decay=0.1", "floor=0.1")
    mine = write_track(tmp_path / "mine")
    overrides = [f"finetune.{key}" for key in keys] + ["pretrain.steps=5", "pretrain.batch=4"]
    row: Row = tracked(mine, measured(track="mine", facts={"d:dev": facts()}), *overrides)
    board(tmp_path / "mine", row)
    report = reproduce("paper/table-1", "json", tmp_path / "mine" / "small" / "rows.jsonl", ours)
    (cell,) = cells(report.text)["BERT", "d:dev MRR@10"]
    assert cell["note"].startswith('track mine, adapt.corpus=["d:corpus"] (claimed []), finetune.batch=4 (claimed 8)')
    assert cell["note"].endswith("and 2 more keys")
    assert json.loads(report.text)["unclaimed"] == []
