"""Training repeats, its checkpoints are on the disk, and its tokens are counted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import resuming_worker
import torch
from processes import launch
from resuming_worker import LENGTHS, SETTINGS_OF_PROCESSES
from torch import Tensor
from trainings import LeastSquares, checkpoint_names, fit

from retrobench.core import files
from retrobench.errors import RetrobenchError
from retrobench.training import Batches


def test_an_operation_that_does_not_repeat_is_named(tmp_path: Path) -> None:
    def put(error: Tensor, progress: float) -> Tensor:
        index = torch.tensor([0])
        return error + torch.zeros(2).put_(index, torch.ones(1)).sum()

    message = r"^The model uses put_, for which torch .* Let the objective use another op"
    with pytest.raises(RetrobenchError, match=message):
        fit(LeastSquares(put), tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_unrelated_error_in_a_step_is_not_changed(tmp_path: Path) -> None:
    def add_unequal_sizes(error: Tensor, progress: float) -> Tensor:
        return error + torch.zeros(2) * torch.ones(3)

    with pytest.raises(RuntimeError, match="size of tensor"):
        fit(LeastSquares(add_unequal_sizes), tmp_path)


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def record(function: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*paths: Path) -> Any:
            names = sorted(path.name for path in paths)
            calls.append(" ".join([function.__name__, *names]))
            return function(*paths)

        return recorded

    monkeypatch.setattr(files, "_flush", record(files._flush))
    monkeypatch.setattr(os, "replace", record(os.replace))
    fit(LeastSquares(), tmp_path, checkpoint_every=1)
    second = "step-000000002"
    renamed = calls.index(f"replace {second} {second}.new")
    assert calls[renamed - 5] == "_flush log.jsonl"
    assert sorted(calls[renamed - 4 : renamed]) == [
        "_flush SHA256SUMS",
        "_flush state.json",
        "_flush state.safetensors",
        f"_flush {second}.new",
    ]
    assert calls[renamed + 1] == f"_flush {tmp_path.name}"
    assert calls.index("replace step-000000001 step-000000001.old") > renamed, "the checkpoint before stays"


def test_tokens_are_those_of_all_processes(tmp_path: Path) -> None:
    """Resume a training whose checkpoint holds the tokens of both processes."""
    first, second = launch([sys.executable, resuming_worker.__file__, str(tmp_path)])
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    assert "continuing at step 2" in first.stderr

    batches = Batches(LENGTHS, SETTINGS_OF_PROCESSES.batch, 0, seed=5)
    tokens_by_step = []
    for step in range(SETTINGS_OF_PROCESSES.steps):
        tokens_by_step.append(LENGTHS[batches.rows(step)].sum())

    for process in (first, second):
        cost = json.loads(process.stdout)
        assert cost["tokens"] == sum(tokens_by_step)
        assert cost["tokens_per_second"] == pytest.approx(cost["tokens"] / cost["seconds"])
    assert checkpoint_names(tmp_path) == ["step-000000004", "step-000000005"]
    state = json.loads((tmp_path / "step-000000004" / "state.json").read_text())
    assert state["cost"]["tokens"] == sum(tokens_by_step[:4])
