"""What a training can be relied on for: that it repeats, that its checkpoints are on the disk, what it counts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import counting_of_two
import pytest
import torch
from counting_of_two import LENGTHS, STEPS
from processes import launch
from test_training import Line, fit
from torch import Tensor

from retrobench.core import files
from retrobench.errors import RetrobenchError
from retrobench.training import Batches, checkpoints, resolve_precision


def test_an_operation_that_does_not_repeat_is_named(tmp_path: Path) -> None:
    def put(error: Tensor, progress: float) -> Tensor:
        return error + torch.zeros(2).put_(torch.tensor([0]), torch.ones(1)).sum()

    with pytest.raises(
        RetrobenchError, match=r"^The model uses put_, for which torch .* Let the objective use another op"
    ):
        fit(Line(put), tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_else_goes_wrong_in_a_step_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="size of tensor"):
        fit(Line(lambda error, _: error + torch.zeros(2) @ torch.zeros(2) + torch.zeros(2) * torch.ones(3)), tmp_path)


def test_a_gpu_that_only_emulates_bf16_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert (resolve_precision("auto"), resolve_precision("bf16")) == ("fp32", "bf16")


def test_a_checkpoint_is_on_the_disk_before_the_earlier_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def record(call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*paths: Path) -> Any:
            done.append(f"{call.__name__} {' '.join(sorted(path.name for path in paths))}")
            return call(*paths)

        return recorded

    monkeypatch.setattr(files, "_flush", record(files._flush))
    monkeypatch.setattr(os, "replace", record(os.replace))
    fit(Line(), tmp_path, checkpoint_every=1)
    second = "step-000000002"
    renamed = done.index(f"replace {second} {second}.new")
    assert sorted(done[renamed - 3 : renamed]) == [
        "_flush state.json",
        "_flush state.safetensors",
        f"_flush {second}.new",
    ]
    assert done[renamed + 1 : renamed + 3] == [
        f"_flush {tmp_path.name}",
        "replace step-000000001 step-000000001.old",
    ]


def test_tokens_are_those_of_all_processes(tmp_path: Path) -> None:
    """In a training that was taken up again, whose checkpoint holds what all of them had read."""
    ended = launch([sys.executable, str(Path(counting_of_two.__file__)), str(tmp_path)])
    assert [process.returncode for process in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    batches = Batches(LENGTHS, STEPS.batch, 0, seed=5)
    read = [LENGTHS[batches.rows(number)].sum() for number in range(STEPS.steps * STEPS.accumulation * 2)]
    for process in ended:
        cost = json.loads(process.stdout)
        assert cost["tokens"] == sum(read)
        assert cost["tokens_per_second"] == pytest.approx(cost["tokens"] / cost["seconds"])
    (last,) = checkpoints.checkpoints(tmp_path)
    assert json.loads((last / "state.json").read_text())["cost"]["tokens"] == sum(read[: 4 * 4])
    assert "continuing at step 2" in ended[0].stderr
