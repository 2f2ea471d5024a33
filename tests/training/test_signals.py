"""Signals end a training behind its step, with a checkpoint, in all processes; it resumes there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny
import torch
from processes import start
from torch import Tensor
from trainings import LeastSquares, checkpoint_names, fit, log

from retrobench.core import signals

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def handled() -> Iterator[None]:
    """Handle signals as the command line does, also where the tests run as a shell's job that ignores them."""
    earlier = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    with signals.handled():
        yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


def sending(*numbers: signal.Signals, pause: float = 0.0) -> Callable[[Tensor, float], Tensor]:
    """Return a loss that sends signals to this process in the second of four steps."""

    def loss(error: Tensor, progress: float) -> Tensor:
        if progress == 0.25:
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(pause)
        return error

    return loss


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize("number", ENDING)
def test_a_training_ends_behind_its_step_and_resumes_there(number: signal.Signals, tmp_path: Path) -> None:
    whole = LeastSquares()
    fit(whole, tmp_path / "whole", checkpoint_every=100)
    with pytest.raises(signals.Stop) as stopped:
        fit(LeastSquares(sending(number, number)), tmp_path / "broken", checkpoint_every=100, log_every=100)
    assert stopped.value.number == number
    assert stopped.value.state == "pretrain line has a checkpoint at step 2 of 4"
    assert checkpoint_names(tmp_path / "broken") == ["step-000000002"]
    resumed = LeastSquares()
    fit(resumed, tmp_path / "broken", checkpoint_every=100)
    assert resumed.progress == [0.5, 0.75]
    assert torch.equal(resumed.linear.weight, whole.linear.weight)


@pytest.mark.usefixtures("handled")
def test_a_signal_that_is_repeated_ends_a_training_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ONCE", 0.01)
    with pytest.raises(signals.Stop) as stopped:
        fit(LeastSquares(sending(signal.SIGTERM, signal.SIGTERM, pause=0.05)), tmp_path)
    assert stopped.value.state == ""
    assert checkpoint_names(tmp_path) == []


@pytest.mark.usefixtures("handled")
def test_sigusr1_writes_a_checkpoint_and_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = LeastSquares(sending(signal.SIGUSR1))
    fit(model, tmp_path, checkpoint_every=100, log_every=1)
    assert model.progress == [0, 0.25, 0.5, 0.75]
    assert checkpoint_names(tmp_path) == ["step-000000002", "step-000000004"]
    assert "pretrain line has a checkpoint at step 2 of 4\n" in capfd.readouterr().err
    assert len(log(tmp_path)) == 4


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """A command under nohup outlives its terminal."""
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.handled():
            model = LeastSquares(sending(signal.SIGHUP))
            fit(model, tmp_path)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, earlier)
    assert len(model.progress) == 4


MAIN = [sys.executable, "-c", "from retrobench.cli import main; main()"]
LONG = ["pretrain.steps=5000", "pretrain.checkpoint_every=5000", "pretrain.shards=2", "finetune.shards=2"]


def stop_one_rank(words: list[str], store: Path, steps: int) -> tuple[list[subprocess.Popen[str]], list[str]]:
    """Start two processes, send SIGTERM to rank 1 behind so many logged steps, and return both with their errors."""
    running = start(words)
    deadline = time.monotonic() + 300
    while sum(len(file.read_text().splitlines()) for file in store.glob("pretrain/*.partial/log.jsonl")) < steps:
        assert time.monotonic() < deadline
        assert [process.poll() for process in running] == [None, None], running[0].communicate()
        time.sleep(0.01)
    os.kill(running[1].pid, signal.SIGTERM)
    start_of_end = time.monotonic()
    errors = [process.communicate(timeout=60)[1] for process in running]
    assert time.monotonic() - start_of_end < 10
    return running, errors


def test_a_signal_to_one_process_ends_all_and_they_resume(tmp_path: Path) -> None:
    track = tiny.make(tmp_path)
    words = [*MAIN, *track.options("mlm")]
    for setting in LONG:
        words += ["--set", setting]
    running, errors = stop_one_rank(words, track.store, 3)
    assert [process.returncode for process in running] == [143, 143], errors
    assert "Interrupted" not in errors[1]
    last_line = errors[0].splitlines()[-1]
    (step,) = re.findall(r"pretrain mlm has a checkpoint at step ([\d,]+) of 5,000\. Resume: ", last_line)
    assert last_line.startswith("Interrupted by SIGTERM. ")
    assert "Resume: torchrun --no-python --nproc-per-node 2 retrobench run " in last_line

    running, errors = stop_one_rank(words, track.store, int(step) + 1)
    assert [process.returncode for process in running] == [143, 143], errors
    assert f"continuing at step {step} of 5,000\n" in errors[0]
