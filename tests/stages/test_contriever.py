"""Contriever in the stage of pre-training: its key encoder and queue are in checkpoints and in nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import contriever_worker
import pytest
import tiny
import torch
from contriever_worker import STEPS, train_until, write_start
from processes import launch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from trainings import Interrupted, log

from retrobench.config import configure_objective
from retrobench.errors import RetrobenchError
from retrobench.runs.sweep import Request, sweep
from retrobench_contriever import Contriever


def test_a_run_leaves_the_encoder_alone(tmp_path: Path) -> None:
    track = tiny.make(tmp_path)
    overrides = ("objective.queue=20", "mine.depth=0", "finetune.steps=1")
    (row,) = sweep(Request(("contriever",), str(track.track), (0,), overrides, track.store, track.boards, [])).rows
    assert (row.representation, row.settings["queue"]) == ("mean", 20)
    folder = track.store / "pretrain" / row.artifacts["pretrain"]
    assert not (folder / "added").exists()
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) <= load_file(track.base / "model.safetensors").keys()
    assert [line["queue_filled"] for line in log(folder)] == pytest.approx([0, 0.4, 0.8, 1, 1, 1])


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def unbroken(start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Path]:
    """Return the state at the end of a training in one go, and its folder."""
    folder = tmp_path_factory.mktemp("unbroken")
    return train_until(2 * STEPS, start, folder), folder


def test_a_resumed_training_ends_with_the_same_bits(start: Path, unbroken: Any, tmp_path: Path) -> None:
    expected, _ = unbroken
    with pytest.raises(Interrupted):
        train_until(2 * 3, start, tmp_path)
    resumed = train_until(2 * (STEPS - 2), start, tmp_path)  # from the checkpoint after two steps
    assert {"queue", "keys_made"} < expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, resumed[name]), name


def test_the_key_encoder_follows(start: Path, unbroken: Any) -> None:
    state, _ = unbroken
    name = "bert.embeddings.word_embeddings.weight"
    first = load_file(start / "base" / "model.safetensors")[name]
    key_distance = (state[f"key_encoder.lm.{name}"] - first).norm()
    query_distance = (state[f"backbone.lm.{name}"] - first).norm()
    assert 0.1 * query_distance < key_distance < 0.95 * query_distance


@pytest.mark.slow
def test_two_processes_train_as_one(start: Path, unbroken: Any, tmp_path: Path) -> None:
    _, folder = unbroken
    results = launch([sys.executable, contriever_worker.__file__, str(start), str(tmp_path)])
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    for ours, theirs in zip(log(folder), log(tmp_path), strict=True):
        for name in ("contrastive", "accuracy", "queue_filled", "gradient_norm"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-4), name


def test_crops_that_end_before_they_begin_are_refused() -> None:
    with pytest.raises(RetrobenchError, match=r"min_crop must be at most max_crop, 0\.5, got 0\.6"):
        configure_objective(Contriever, {"min_crop": 0.6})
