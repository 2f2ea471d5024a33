"""A track that starts from random weights needs no more of its base than the tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from retrobench.config import Experiment, discover, read_entrant, read_track
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import locate
from retrobench.runs.sweep import Request, sweep
from retrobench.stages import open_inputs

SHAPE = ("model.layers=1", "model.hidden=16", "model.heads=2", "model.intermediate=32", "model.positions=64")
SHORT = ("pretrain.steps=1", "finetune.steps=1", "mine.depth=0", "evaluate.select=")


@pytest.fixture
def track(tmp_path: Path) -> tiny.Tiny:
    """Return a track whose base is a folder of tokenizer files."""
    track = tiny.make(tmp_path)
    for file in track.base.iterdir():
        if not file.name.startswith("tokenizer"):
            file.unlink()
    return track


def request(track: tiny.Tiny, objective: str) -> Request:
    return Request([objective], str(track.track), (0,), (*SHAPE, *SHORT), track.store, track.boards)


def test_random_weights_need_a_tokenizer_alone(track: tiny.Tiny) -> None:
    (row,) = sweep(request(track, "mlm")).rows
    assert row.measures[f"{track.data}:test"]["Recall@100"] > 0


def test_an_entrant_without_pretraining_needs_the_weights(track: tiny.Tiny) -> None:
    with pytest.raises(RetrobenchError, match="holds no safetensors, and nothing pickled is loaded"):
        sweep(request(track, "bert"))


def test_the_track_of_the_embedded_base_starts() -> None:
    track = read_track(locate("base"), "base", [])
    (inputs,) = open_inputs([Experiment(track, read_entrant("mlm", discover(), []), 0)])
    assert inputs.base is not None
    assert inputs.base.name == "retrobench/tokenizer"
