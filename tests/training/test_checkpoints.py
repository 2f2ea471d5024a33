"""A damaged checkpoint is reported and not used; the training ends with the bits of an unbroken one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from trainings import Interrupted, LeastSquares, checkpoint_names, fit, log


def flip(file: Path) -> None:
    """Change a bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    """Drop the second half of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def interrupted(error: Tensor, progress: float) -> Tensor:
    """Return the loss of the first five of six steps."""
    if progress > 0.8:
        raise Interrupted
    return error


SUMS = "its files do not match SHA256SUMS"
NEWEST = "step-000000004"

DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "weights flipped": (f"{NEWEST}/state.safetensors", flip, SUMS),
    "weights cut": (f"{NEWEST}/state.safetensors", cut, SUMS),
    "weights emptied": (f"{NEWEST}/state.safetensors", empty, SUMS),
    "weights missing": (f"{NEWEST}/state.safetensors", Path.unlink, "state.safetensors: No such file or directory"),
    "state flipped": (f"{NEWEST}/state.json", flip, SUMS),
    "state emptied": (f"{NEWEST}/state.json", empty, SUMS),
    "sums flipped": (f"{NEWEST}/SHA256SUMS", flip, SUMS),
    "sums missing": (f"{NEWEST}/SHA256SUMS", Path.unlink, "SHA256SUMS: No such file or directory"),
}
BOTH = [f"{step}/state.safetensors" for step in ("step-000000002", NEWEST)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Return weights and log of an unbroken training."""
    folder = tmp_path_factory.mktemp("whole")
    model = LeastSquares()
    fit(model, folder, steps=6, checkpoint_every=2)
    return model.state_dict(), log(folder)


Whole = tuple[dict[str, Tensor], list[dict[str, float]]]


def resume(folder: Path, whole: Whole) -> list[float]:
    """Resume a training, assert that it ends as the unbroken one, and return the progress of its steps."""
    model = LeastSquares()
    fit(model, folder, steps=6, checkpoint_every=2)
    weights, lines = whole
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert log(folder) == lines
    return model.progress


def break_off(folder: Path) -> None:
    """Train until the fifth step."""
    with pytest.raises(Interrupted):
        fit(LeastSquares(interrupted), folder, steps=6, checkpoint_every=2)
    assert checkpoint_names(folder) == ["step-000000002", NEWEST]


@pytest.mark.parametrize("damage", DAMAGE)
def test_training_falls_back_to_the_checkpoint_before(
    damage: str, whole: Whole, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    break_off(tmp_path)
    name, harm, fault = DAMAGE[damage]
    harm(tmp_path / name)
    capfd.readouterr()
    assert resume(tmp_path, whole) == [2 / 6, 3 / 6, 4 / 6, 5 / 6]
    lines = capfd.readouterr().err.splitlines()
    assert lines[:2] == [
        f"{NEWEST}: the checkpoint is damaged ({fault}) and is not used",
        "continuing at step 2 of 6",
    ]


@pytest.mark.parametrize("files", [BOTH, ["log.jsonl"]], ids=["both checkpoints", "log"])
def test_training_starts_over_where_no_checkpoint_is_sound(
    files: list[str], whole: Whole, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    break_off(tmp_path)
    for name in files:
        empty(tmp_path / name)
    capfd.readouterr()
    assert len(resume(tmp_path, whole)) == 6
    printed = capfd.readouterr().err
    assert printed.count("the checkpoint is damaged") == 2
    assert "continuing" not in printed


def test_a_finished_training_is_not_repeated(whole: Whole, tmp_path: Path) -> None:
    assert len(resume(tmp_path, whole)) == 6
    assert checkpoint_names(tmp_path) == [NEWEST, "step-000000006"]
    assert resume(tmp_path, whole) == []
