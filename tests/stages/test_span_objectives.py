"""Condenser, coCondenser and CoT-MAE through the stages of a tiny track."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
from safetensors.torch import load_file

from retrobench.config import Experiment, discover, read_entrant, read_track
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.rows import Row
from retrobench.runs.sweep import Request, sweep


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    """A tiny track that adapts to the target too, without mining."""
    track = tiny.make(tmp_path_factory.mktemp("tiny"))
    pretrain = track.track.read_text().split("[pretrain]")[1].split("[finetune]")[0]
    text = track.track.read_text().replace("[finetune]", f"[adapt]{pretrain}[finetune]")
    track.track.write_text(text.replace("depth = 10", "depth = 0"))
    return track


def run(track: tiny.Tiny, *entrants: str, overrides: Sequence[str] = ()) -> list[Row]:
    return list(sweep(Request(entrants, str(track.track), (0,), tuple(overrides), track.store, track.boards)).rows)


def folder(track: tiny.Tiny, row: Row, stage: str) -> Path:
    return track.store / stage / row.artifacts[stage]


def log(track: tiny.Tiny, row: Row, stage: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder(track, row, stage) / "log.jsonl").read_text().splitlines()]


def test_every_stage_trains(track: tiny.Tiny) -> None:
    terms = {
        "condenser": {"head_mlm", "late_mlm"},
        "cocondenser": {"head_mlm", "late_mlm", "contrastive"},
        "cot-mae": {"mlm", "decoder"},
    }
    rows = run(track, *terms)
    for row, names in zip(rows, terms.values(), strict=True):
        for stage in ("pretrain", "adapt"):
            lines = log(track, row, stage)
            assert len(lines) == 6
            for line in lines:
                losses = [line[name] for name in names]
                assert all(map(math.isfinite, losses))
                assert min(losses) > 0


def test_cocondenser_as_released_begins_with_condenser(track: tiny.Tiny) -> None:
    (row,) = run(track, "cocondenser:as_released")
    (condenser,) = run(track, "condenser")
    assert row.settings["pretrain.objective"] == "condenser"
    assert row.artifacts["pretrain"] == condenser.artifacts["pretrain"]
    assert row.artifacts["adapt"] != condenser.artifacts["adapt"]
    assert "contrastive" not in log(track, row, "pretrain")[0]
    assert "contrastive" in log(track, row, "adapt")[0]
    before = load_file(folder(track, row, "pretrain") / "added/model.safetensors")
    after = load_file(folder(track, row, "adapt") / "added/model.safetensors")
    assert before.keys() == after.keys()
    # Six steps move a weight by less than 6 * 1e-3; a head drawn anew would differ by tenths of its spread.
    changes = [(after[name] - before[name]).abs().max().item() for name in before]
    assert 0 < max(changes) < 6.1e-3


def test_a_track_of_one_stage_refuses_the_released_recipe(track: tiny.Tiny) -> None:
    recipe = read_track(track.track, "tiny", ["adapt.corpus=[]"])
    entrant = read_entrant("cocondenser:as_released", discover(), [])
    with pytest.raises(RetrobenchError, match="cocondenser:as_released trains by condenser alone"):
        Experiment(recipe, entrant, 0)
    Experiment(recipe, read_entrant("cocondenser", discover(), []), 0)


def test_shards_hold_whole_documents(track: tiny.Tiny) -> None:
    """Four shards of two documents each have a sibling for every span."""
    (row,) = run(track, "cocondenser", overrides=["pretrain.shards=4", "adapt.shards=2"])
    lines = log(track, row, "pretrain")
    assert len(lines) == 6
    # Of 16 vectors that are nearly alike at first; shards apart would compare 4.
    assert lines[0]["contrastive"] > math.log(4)
