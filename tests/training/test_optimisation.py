"""Steps of the optimizer by hand: schedule, shards, clipping, decay, and steps that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from trainings import INPUTS, SETTINGS, LeastSquares, checkpoint_names, fit, logged

from retrobench.config.track import Optimisation
from retrobench.errors import DivergedError
from retrobench.training.batches import Batches
from retrobench.training.loop import train


def test_rates_by_hand() -> None:
    linear = Optimisation(steps=10, batch=1, learning_rate=1.0, warmup=0.2)
    rates = [linear.rate(step) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])

    cosine = replace(linear, schedule="cosine", floor=0.1, warmup=0.0)
    assert cosine.rate(0) == 1.0
    assert cosine.rate(5) == pytest.approx(0.55)
    half_wave = 0.5 * (1 + math.cos(0.9 * math.pi))
    assert cosine.rate(9) == pytest.approx(0.1 + 0.9 * half_wave)

    constant = replace(linear, schedule="constant", learning_rate=3e-4)
    rates = [constant.rate(step) for step in (0, 1, 2, 9)]
    assert rates == pytest.approx([1.5e-4, 3e-4, 3e-4, 3e-4])


def test_gradients_are_means_over_the_shards(tmp_path: Path) -> None:
    halves = LeastSquares()
    whole = LeastSquares()
    fit(halves, tmp_path / "halves", batch=8, shards=2)
    fit(whole, tmp_path / "whole", batch=8)
    weight = whole.linear.weight.cpu()
    assert torch.allclose(halves.linear.weight.cpu(), weight, atol=1e-6)
    initial_weight = torch.full((2, 3), 0.5)
    assert not torch.allclose(weight, initial_weight, atol=1e-3), "it did learn"
    norms = logged(tmp_path / "halves", "gradient_norm")
    assert norms == pytest.approx(logged(tmp_path / "whole", "gradient_norm"), rel=1e-5)
    assert halves.progress == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_epochs_are_counted_in_steps(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = LeastSquares()
    batches = Batches(np.ones(18, np.int64), 4, 0, seed=0)
    batch = {"inputs": torch.from_numpy(INPUTS[:4])}
    in_epochs = replace(SETTINGS, steps=0, epochs=1.5, batch=4, bucket=0, warmup=0.0)
    in_steps = replace(in_epochs, steps=6, epochs=0.0)
    train(model, batches, lambda rows, generator: batch, in_epochs, tmp_path, 0, lambda rows: [], "line")
    assert logged(tmp_path, "rate") == [in_steps.rate(step) for step in range(6)]
    assert model.progress == [step / 6 for step in range(6)]
    assert "line: 6 steps, 1.5 times over 18 examples\n" in capfd.readouterr().err


@pytest.mark.parametrize("clip", [0.5, 0.0])
def test_gradients_are_clipped_to_the_norm_asked_for(clip: float, tmp_path: Path) -> None:
    def hundredfold(error: Tensor, progress: float) -> Tensor:
        return 100 * error

    fit(LeastSquares(hundredfold), tmp_path, clip=clip, checkpoint_every=3)
    norms = logged(tmp_path, "gradient_norm")[:3]
    assert min(norms) > 10

    # Adam's second moment, by hand: an average of the squared gradients that forgets 0.001 a step.
    second_moment = 0.0
    for norm in norms:
        clipped = norm
        if clip:
            clipped = min(norm, clip)
        second_moment = 0.999 * second_moment + 0.001 * clipped**2

    state = load_file(tmp_path / "step-000000003" / "state.safetensors")
    weight_moments = state["optimizer.exp_avg_sq.linear.weight"]
    bias_moments = state["optimizer.exp_avg_sq.linear.bias"]
    assert state["optimizer.step.linear.weight"] == 3
    assert float(weight_moments.sum() + bias_moments.sum()) == pytest.approx(second_moment, rel=1e-4)


def test_words_decay_and_biases_do_not(tmp_path: Path) -> None:
    model = LeastSquares(lambda error, progress: 0 * error)
    fit(model, tmp_path, weight_decay=0.5, schedule="constant", warmup=0.0, learning_rate=0.1)
    decayed_weight = torch.full((2, 3), 0.5 * 0.95**4)
    assert torch.allclose(model.linear.weight.cpu(), decayed_weight)
    assert torch.equal(model.linear.bias.cpu(), torch.full((2,), 0.25))


def non_finite_loss(error: Tensor, progress: float) -> Tensor:
    """Return a loss that is not finite in step 3 of 4."""
    if progress == 0.75:
        return error * math.nan
    return error


def non_finite_gradient(error: Tensor, progress: float) -> Tensor:
    """Return a loss whose gradient alone is not finite in step 3 of 4."""
    if progress == 0.75:
        return error + (0 * error).sqrt()  # the square root of 0 is finite, and its slope is not
    return error


@pytest.mark.parametrize(
    ("loss", "logged_error"),
    [(non_finite_loss, "error nan"), (non_finite_gradient, r"error \d\.\d+")],
    ids=["loss", "gradient"],
)
@pytest.mark.parametrize("log_every", [1, 100])
def test_a_non_finite_step_stops_before_a_checkpoint_holds_it(
    loss: Callable[[Tensor, float], Tensor], logged_error: str, log_every: int, tmp_path: Path
) -> None:
    with pytest.raises(DivergedError) as raised:
        fit(LeastSquares(loss), tmp_path, checkpoint_every=1, log_every=log_every)
    batches = Batches(np.ones(16, np.int64), 4, 0, seed=0)
    ids = ", ".join(f"doc {row}" for row in batches.rows(3))
    last = tmp_path / "step-000000003"
    assert raised.match(
        rf"^pretrain line: step 3 is not finite \({logged_error}, gradient_norm nan\); "
        f"the batch held {ids}; the last good checkpoint is {last}. Lower the learning rate or look at these texts."
    )
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 1
    assert checkpoint_names(tmp_path) == ["step-000000002", last.name]
    for value in load_file(last / "state.safetensors").values():
        assert value.isfinite().all()


def test_divergence_before_any_checkpoint_says_so(tmp_path: Path) -> None:
    infinite = LeastSquares(lambda error, progress: error * math.inf)
    with pytest.raises(DivergedError, match=r"step 0 is not finite .* no checkpoint was written yet"):
        fit(infinite, tmp_path)
