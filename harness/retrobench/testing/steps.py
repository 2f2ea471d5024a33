"""
Steps of an objective in the training loop, on invented texts.

* check_resuming    training resumed in the middle ends with the weights of an unbroken one, bit for bit
* check_processes   two processes train as one that takes two shards in turn
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from retrobench.config import Optimisation, configure_objective, discover, find_objective
from retrobench.core import processes
from retrobench.model import Backbone
from retrobench.objective import Context, Objective, Passage, Vocabulary
from retrobench.training import Batches, Loop, check_module, deterministic, load_checkpoint, save_checkpoint, trainable

__all__ = ["MAX_LENGTH", "TrialTraining", "check_processes", "check_resuming", "main"]

MAX_LENGTH = 24
STEPS = 4
SETTINGS = Optimisation(STEPS, batch=8, learning_rate=1e-3, precision="fp32", bucket=0, shards=2)
# Between the norms of two processes and of one, whose sums have other orders. A bias whose gradient is zero but for
# rounding, as that of attention's keys, has a norm below LEAST.
TOLERANCE = 1e-4
LEAST = 0.1
CHILD = "from retrobench.testing.steps import main; main()"


class TrialTraining(NamedTuple):
    """The parts of a trial training."""

    objective: Objective
    base: Backbone
    vocabulary: Vocabulary
    passages: Sequence[Passage]

    def loop(self, seed: int = 0) -> tuple[nn.Module, Loop]:
        """Return the module and the training loop around a copy of the base."""
        objective = self.objective
        backbone = deepcopy(self.base)
        torch.manual_seed(seed)
        context = Context(self.vocabulary, MAX_LENGTH, load=lambda name: deepcopy(self.base.lm))
        couples = objective.couples_batch
        model = check_module(objective.name, objective.wrap(backbone, context), backbone, couples)
        lengths = np.full(len(self.passages), MAX_LENGTH)
        batches = Batches(lengths, SETTINGS.batch, SETTINGS.bucket, seed=0, shards=SETTINGS.shards)
        model = trainable(objective, model)
        return model, Loop(model, batches, self._collate, SETTINGS, 0, couples)

    def _collate(self, rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        passages = [self.passages[row] for row in rows]
        return self.objective.collate(passages, self.vocabulary, MAX_LENGTH, generator)


def check_resuming(name: str, training: TrialTraining) -> None:
    """Raise AssertionError where a training resumed from the checkpoint of its middle ends otherwise."""
    unbroken, loop = training.loop()
    for step in range(STEPS):
        loop.step(step)
    broken, loop = training.loop()
    for step in range(STEPS // 2):
        loop.step(step)
    with TemporaryDirectory() as folder, redirect_stderr(StringIO()):
        cost = {"seconds": 0.0, "data_seconds": 0.0, "tokens": 0.0}
        save_checkpoint(Path(folder), STEPS // 2, broken, loop.optimizer, loop.loss_scale, cost)
        resumed, loop = training.loop(seed=1)  # other weights, all of which the checkpoint must replace
        load_checkpoint(Path(folder), resumed, loop.optimizer, loop.loss_scale, loop.accelerator.device)
    for step in range(STEPS // 2, STEPS):
        loop.step(step)
    expected = unbroken.state_dict()
    different = [key for key, tensor in resumed.state_dict().items() if not torch.equal(tensor, expected[key])]
    if different:
        raise AssertionError(
            f"{name}: a training resumed at step {STEPS // 2} of {STEPS} ends with other weights than an unbroken one: "
            f"{', '.join(different[:3])}. Keep all state in parameters and buffers."
        )


def check_processes(name: str, training: TrialTraining, plugins: Sequence[Path] = ()) -> None:
    """Raise AssertionError where two processes train otherwise than one that takes two shards in turn.

    The processes find the objective by its name, among the installed ones and those of `plugins`.
    """
    alone = _norms(training)
    with TemporaryDirectory() as folder:
        out = Path(folder) / "norms.json"
        _run_two([name, str(out), *map(str, plugins)], name)
        shared = json.loads(out.read_text("utf-8"))
    for key, norm in alone.items():
        if abs(norm - shared[key]) > TOLERANCE * max(abs(norm), LEAST):
            raise AssertionError(
                f"{name}: {key} is {shared[key]:.6g} in two processes and {norm:.6g} in one with two shards. "
                "A loss that compares examples needs couples_batch."
            )


def _norms(training: TrialTraining) -> dict[str, float]:
    """Return the gradient norm of each step, and the norms of the weights at the end."""
    model, loop = training.loop()
    norms = {}
    for step in range(STEPS):
        _, norm = loop.step(step)
        norms[f"the gradient's norm in step {step}"] = float(norm)
    for key, parameter in model.named_parameters():
        norms[f"the norm of {key}"] = parameter.norm().item()
    return norms


def _run_two(words: Sequence[str], name: str) -> None:
    """Run `main` with the same arguments in two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    running = []
    for rank in ("0", "1"):
        environment = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank, "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-c", CHILD, *words]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        running.append(process)
    messages = []
    for process in running:
        _, errors = process.communicate()
        if process.returncode:
            messages += errors.splitlines()[-1:] or ["without a message"]
    if messages:
        raise AssertionError(f"{name}: one of two processes ended with {messages[0]}")


@deterministic()
def main() -> None:
    """Train as one of two processes, and write the norms. The arguments are those that `check_processes` gives."""
    from retrobench.testing.checking import make_training

    name, out, *plugins = sys.argv[1:]
    torch.set_num_threads(1)
    objective = find_objective(name, discover([Path(plugin) for plugin in plugins])).objective
    assert objective is not None
    norms: dict[str, Any] = _norms(make_training(configure_objective(objective, {})))
    if processes.leads():
        Path(out).write_text(json.dumps(norms), "utf-8")
