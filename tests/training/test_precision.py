"""The precision of a training: chosen for the machine, and fp16's loss scale in the log and in checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from trainings import SETTINGS, LeastSquares, fit, log

from retrobench.config import Precision, ResolvedPrecision
from retrobench.errors import DivergedError, RetrobenchError
from retrobench.objective import Step
from retrobench.runs.sweep import Request, sweep
from retrobench.training.checkpoints import load, save
from retrobench.training.ledger import Ledger
from retrobench.training.loss_scale import LossScale
from retrobench.training.machine import resolve_precision

STATE = {
    "scale": 512.0,
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 2000,
    "_growth_tracker": 1999,
}


@pytest.mark.parametrize(
    ("native_bf16", "precision", "resolved"),
    [(True, "auto", "bf16"), (False, "auto", "fp16"), (False, "bf16", "bf16"), (True, "fp16", "fp16")],
)
def test_a_gpu_that_only_emulates_bf16_computes_in_fp16(
    native_bf16: bool, precision: Precision, resolved: ResolvedPrecision, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supports_bf16(including_emulation: bool = True) -> bool:
        return native_bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supports_bf16)
    assert resolve_precision(precision) == resolved
    assert resolve_precision("fp32") == "fp32"


@pytest.mark.parametrize(("has_bf16", "resolved"), [(True, "bf16"), (False, "fp32")])
def test_a_processor_computes_no_fp16(has_bf16: bool, resolved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("retrobench.training.machine.computes_bf16", lambda: has_bf16)
    assert resolve_precision("auto") == resolved
    assert resolve_precision("bf16") == "bf16"
    with pytest.raises(RetrobenchError, match=r"^precision is fp16, .* Set precision to auto, bf16 or fp32\.$"):
        resolve_precision("fp16")


def test_a_run_in_fp16_without_a_gpu_stops_before_any_work(tmp_path: Path) -> None:
    """The last training alone is in fp16, and the collection that it names does not exist."""
    track = tiny.make(tmp_path)
    overrides = ("finetune.precision=fp16", "finetune.queries=nowhere")
    request = Request(["mlm"], str(track.track), (0,), overrides, track.store, track.boards)
    with pytest.raises(RetrobenchError, match=r"^finetune\.precision is fp16, which needs a GPU"):
        sweep(request)
    assert not track.store.exists()


def fp16_scale(monkeypatch: pytest.MonkeyPatch) -> LossScale:
    """Return the loss scale of fp16. Without a GPU torch would turn it off."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    return LossScale("fp16")


def test_a_checkpoint_holds_the_loss_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LeastSquares()
    optimizer = torch.optim.AdamW(model.parameters())
    scale = fp16_scale(monkeypatch)
    scale.restore(STATE)
    save(tmp_path, 2, model, optimizer, scale, {"tokens": 1.0})
    resumed = fp16_scale(monkeypatch)
    assert resumed.state()["scale"] == 2.0**16
    steps, _ = load(tmp_path, model, optimizer, resumed, torch.device("cpu"))
    assert steps == 2
    assert resumed.state() == STATE


def test_no_other_precision_scales_losses(tmp_path: Path) -> None:
    scale = LossScale("bf16")
    loss = torch.tensor(3.0)
    assert scale.scaled(loss) is loss
    assert scale.value() is None
    fit(LeastSquares(), tmp_path)
    assert "loss_scale" not in log(tmp_path)[0]


def settle(folder: Path, *steps: tuple[float, float, float]) -> list[dict[str, Any]]:
    """Return the log of steps in fp16, each by its loss, its gradient norm and the loss scale after it."""
    ledger = Ledger(folder, SETTINGS, "pretrain toy")
    for number, (loss, norm, scale) in enumerate(steps):
        output = Step({"mlm": torch.tensor(loss)}, {})
        values: list[Tensor] = [torch.tensor(norm), torch.tensor(scale)]
        ledger.add(number, [(output, ["doc 1"])], *values)
    ledger.settle()
    return log(folder)


def test_an_overflow_that_a_smaller_scale_mends_ends_no_training(tmp_path: Path) -> None:
    lines = settle(tmp_path, (5.0, 1.5, 4.0), (5.0, math.inf, 2.0), (5.0, math.nan, 1.0), (4.0, 2.0, 1.0))
    assert [line["loss_scale"] for line in lines] == [4, 2, 1, 1]
    assert [line["gradient_norm"] for line in lines] == [1.5, None, None, 2]


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        ((math.nan, 1.5, 4.0), "mlm nan, gradient_norm 1.5, loss_scale 4"),
        ((math.inf, math.inf, 2.0), "mlm inf, gradient_norm inf, loss_scale 2"),
        ((5.0, math.inf, 0.5), "mlm 5, gradient_norm inf, loss_scale 0.5"),
    ],
    ids=["loss", "loss and gradient", "collapsed scale"],
)
def test_a_divergence_that_no_scale_mends_ends_the_training(
    step: tuple[float, float, float], shown: str, tmp_path: Path
) -> None:
    with pytest.raises(DivergedError, match=r"step 1 is not finite .* precision to fp32\.$") as raised:
        settle(tmp_path, (5.0, 1.5, 4.0), step)
    assert shown in str(raised.value)
    assert len(log(tmp_path)) == 1
