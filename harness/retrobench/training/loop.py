"""The one training loop, for pre-training and fine-tuning. A step's batch and randomness depend on its number alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from retrobench.config import Optimisation
from retrobench.core import bar, gpu_memory, processes, say, signals
from retrobench.model import Backbone, autocast
from retrobench.objective import Step
from retrobench.training.batches import AHEAD, Batches, Feed, Shard, count_tokens, map_tensors, seeded
from retrobench.training.checkpoints import load, save
from retrobench.training.determinism import deterministic, undisturbed
from retrobench.training.ledger import Ledger
from retrobench.training.loss_scale import LossScale
from retrobench.training.machine import compiles, resolve_precision
from retrobench.training.watching import UNWATCHED, Watch

__all__ = ["Loop", "train"]

Collate = Callable[[np.ndarray, torch.Generator], Any]  # rows to a batch


class Loop:
    """The optimizer steps of one training. A step depends on its number and on the state after the step before.

    Every batch is cut into `settings.shards`, and each process takes equally many, so results do not depend on the
    number of processes, except for rounding.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        collate: Collate,
        settings: Optimisation,
        seed: int,
        couples: bool = False,
    ) -> None:
        """Prepare `model` for training; the arguments are as in `train`."""
        processes.join()
        # Fine-tuning by [CLS] does not use the head; without this a process would wait forever for its gradients.
        # Every process changes its buffers alike; a queue of vectors would be hundreds of megabytes to send each step.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
        self.accelerator = Accelerator(kwargs_handlers=[unused])
        self.settings = settings.resolved(len(batches.lengths))
        self.shards = settings.shards // self.accelerator.num_processes  # of each batch, in this process
        self.first_shard = self.accelerator.process_index * self.shards
        self.precision = resolve_precision(settings.precision)
        self.loss_scale = LossScale(self.precision)
        model.to(self.accelerator.device).train()
        if compiles(settings) == "on":
            _compile_layers(model)
        groups = _parameter_groups(model, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        self.prepared, self.adam = self.accelerator.prepare(model, self.optimizer)
        self.batches = batches
        self.collate = collate
        self.seed = seed
        self.couples = couples
        self.feed = Feed(AHEAD[self.accelerator.device.type])
        self.tokens = 0.0  # of this process, since `take_tokens`
        self.waited = 0.0  # seconds spent waiting for data

    def step(self, number: int) -> tuple[list[tuple[Step, np.ndarray]], Tensor]:
        """Make optimizer step `number`, counted from 0.

        Returns each forward's losses with the rows that it read, and the gradient's norm before clipping. Where
        `loss_scale` scales losses, a step with a non-finite gradient leaves the weights as they are. No operation waits
        for the device.
        """
        for group in self.adam.param_groups:
            group["lr"] = self.settings.rate(number)
        outputs = self._forward_together(number) if self.couples else self._forward_in_turn(number)
        self.loss_scale.unscale(self.optimizer)
        norm = self.accelerator.clip_grad_norm_(self.prepared.parameters(), self.settings.clip or float("inf"))
        self.loss_scale.step(self.optimizer)
        self.adam.zero_grad(set_to_none=True)
        return outputs, norm

    def _forward_in_turn(self, step: int) -> list[tuple[Step, np.ndarray]]:
        """Add the gradients of one shard after another; processes exchange theirs after the last."""
        outputs = []
        for index in range(self.shards):
            shard = self._next_shard(step, index)
            torch.manual_seed(shard.seed)
            is_last = index == self.shards - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.prepared):
                output = self._forward(step, shard.batch)
                self._backward(output, self.shards)
            outputs.append((output, shard.rows))
        return outputs

    def _forward_together(self, step: int) -> list[tuple[Step, np.ndarray]]:
        """Add the gradients of all shards of this process at once, because the loss compares their examples."""
        shards = [self._next_shard(step, index) for index in range(self.shards)]
        output = self._forward(step, {"shards": shards})
        self._backward(output, 1)
        return [(output, np.concatenate([shard.rows for shard in shards]))]

    def _forward(self, step: int, arguments: Mapping[str, Any]) -> Step:
        with autocast(self.accelerator.device.type, self.precision):
            output: Step = self.prepared(step / self.settings.steps, **arguments)
        return output

    def _backward(self, output: Step, forwards: int) -> None:
        """Add the gradients of the mean over a step's forwards; the processes' gradients are averaged."""
        losses = [loss.float() for loss in output.losses.values()]
        self.accelerator.backward(self.loss_scale.scaled(torch.stack(losses).sum() / forwards))

    def _next_shard(self, step: int, index: int) -> Shard:
        """Return shard `index` of this process for a step, with its tensors on the device."""
        start = time.perf_counter()
        shard = self.feed.take(step * self.shards + index, self.settings.steps * self.shards, self._make)
        to_device = partial(Tensor.to, device=self.accelerator.device, non_blocking=True)
        shard = shard._replace(batch=map_tensors(shard.batch, to_device))
        self.waited += time.perf_counter() - start
        self.tokens += shard.tokens
        return shard

    def take_tokens(self) -> float:
        """Return the tokens of all processes since the last call; every process must call this together."""
        tokens = torch.tensor(self.tokens, dtype=torch.float64, device=self.accelerator.device)
        self.tokens = 0.0
        return float(self.accelerator.reduce(tokens))

    def _make(self, number: int) -> Shard:
        """Collate shard `number` of this process; its shards are numbered through all steps."""
        step, index = divmod(number, self.shards)
        position = self.first_shard + index
        rows = self.batches.shard(step, position)
        seed = seeded(self.seed, step, position)
        batch = self.collate(rows, torch.Generator().manual_seed(seed))
        tokens = count_tokens(batch)
        if self.accelerator.device.type == "cuda":
            batch = map_tensors(batch, Tensor.pin_memory)
        return Shard(rows, seed, batch, tokens)


def _compile_layers(model: nn.Module) -> None:
    """Compile each transformer layer, which fuses the operations between its products; one serves all lengths."""
    for module in model.modules():
        if isinstance(module, Backbone):
            for layer in module.layers:
                layer.compile(dynamic=True)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups; biases and norms, which are vectors, do not decay (transformers' rule)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


@deterministic()
def train(
    model: nn.Module,
    batches: Batches,
    collate: Collate,
    settings: Optimisation,
    folder: Path,
    seed: int,
    names: Callable[[np.ndarray], Sequence[str]],
    label: str,
    couples: bool = False,
    watch: Watch = UNWATCHED,
) -> dict[str, float]:
    """Minimise the sum of the losses of `model(progress, **batch)`, for `settings.steps` or `settings.epochs`.

    `collate(rows, generator)` makes the batch of a shard's rows, and `names(rows)` gives their document ids. A model
    that `couples` examples reads all shards of a process in one forward, `model(progress, shards=[...])`. Checkpoints
    stay in `folder`, the last one of the last step. Training resumes from the newest, bit for bit. The probes of
    `watch` follow a checkpoint, so a resumed training repeats the last one.

    Returns the cost: seconds without probes, tokens of all processes, tokens per second, seconds spent waiting for
    data, and a GPU's peak memory in bytes. Raises DivergedError at a non-finite loss or gradient; in fp16 see `ledger`.
    Raises signals.Stop behind the step in which a signal arrives in any process.
    """
    loop = Loop(model, batches, collate, settings, seed, couples)
    if settings.epochs:
        examples = len(batches.lengths)
        say(f"{label}: {loop.settings.steps:,} steps, {settings.epochs:g} times over {examples:,} examples")
    settings = loop.settings
    done, cost = load(folder, model, loop.optimizer, loop.loss_scale, loop.accelerator.device)
    if done:
        say(f"continuing at step {done:,} of {settings.steps:,}")
    start = time.perf_counter() - cost["seconds"]
    loop.waited = cost["data_seconds"]
    ledger = Ledger(folder, settings, label, watch)
    with contextlib.closing(ledger.tracking), bar(label, settings.steps, "steps", done) as advance, signals.deferred():
        for step in range(done, settings.steps):
            if watch.probes_after(step):
                start += _probe(watch, ledger, step)
            outputs, norm = loop.step(step)
            ledger.add(step, [(output, names(rows)) for output, rows in outputs], norm, loop.loss_scale.value())
            advance(1)

            is_last = step + 1 == settings.steps
            logs = (step + 1) % settings.log_every == 0
            request = signals.requested()
            is_due = (step + 1) % settings.checkpoint_every == 0 or watch.probes_after(step + 1)
            saves = is_due or is_last or any(request)
            if logs or saves:
                ledger.settle()
                advance(0, ledger.latest)
            if saves:
                _settle_cost(cost, loop, start)
            if saves and processes.leads():
                save(folder, step + 1, model, loop.optimizer, loop.loss_scale, cost)
            _answer(request, f"{label} has a checkpoint at step {step + 1:,} of {settings.steps:,}")
        if watch.probes_after(settings.steps):
            _probe(watch, ledger, settings.steps)
            advance(0, ledger.latest)
    rate = cost["tokens"] / max(cost["seconds"], 1e-9)
    return {**cost, "tokens_per_second": rate, **gpu_memory()}


def _settle_cost(cost: dict[str, float], loop: Loop, start: float) -> None:
    """Bring the cost up to date. Every process must call this function together."""
    # A checkpoint's cost holds the tokens of all processes, so each adds only the later tokens.
    cost["tokens"] += loop.take_tokens()
    cost["data_seconds"] = loop.waited
    cost["seconds"] = time.perf_counter() - start


def _answer(request: signals.Request, state: str) -> None:
    """Report the checkpoint that a signal asked for, and raise Stop where it ends the training."""
    if request.checkpoint:
        say(state)
    if request.stop:
        processes.meet()  # a launcher kills the other processes when one ends, which may be writing
        raise signals.Stop(request.stop, state)


def _probe(watch: Watch, ledger: Ledger, step: int) -> float:
    """Log the probe of the weights before a step, and return its seconds, which the training's cost leaves out."""
    assert watch.probe is not None
    start = time.perf_counter()
    with undisturbed():
        values = watch.probe()
    ledger.add_probe(step, values)
    return time.perf_counter() - start
