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
from retrobench.core import bar, gpu_memory, processes, say
from retrobench.model import Backbone
from retrobench.objective import Step
from retrobench.training.batches import AHEAD, Batches, Feed, MicroBatch, count_tokens, map_tensors, seeded
from retrobench.training.checkpoints import load, save
from retrobench.training.determinism import deterministic
from retrobench.training.ledger import Ledger
from retrobench.training.machine import compiles, resolve_precision

__all__ = ["Loop", "train"]

Collate = Callable[[np.ndarray, torch.Generator], Mapping[str, Any]]  # rows to the arguments of a forward


class Loop:
    """The optimizer steps of one training. A step depends on its number and on the state after the step before."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        collate: Collate,
        settings: Optimisation,
        seed: int,
    ) -> None:
        """Prepare `model` for training; the arguments are as in `train`."""
        processes.join()
        # Fine-tuning by [CLS] does not use the head; without this a process would wait forever for its gradients.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(kwargs_handlers=[unused])
        self.settings = settings.resolved(len(batches.lengths), self.accelerator.num_processes)
        self.bfloat16 = resolve_precision(settings.precision) == "bf16"
        model.to(self.accelerator.device).train()
        if compiles(settings) == "on":
            _compile_layers(model)
        groups = _parameter_groups(model, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        self.prepared, self.adam = self.accelerator.prepare(model, self.optimizer)
        self.batches = batches
        self.collate = collate
        self.seed = seed
        self.feed = Feed(self._make, AHEAD[self.accelerator.device.type])
        self.tokens = 0.0  # of this process, since `take_tokens`
        self.waited = 0.0  # seconds spent waiting for data

    def step(self, number: int) -> tuple[list[tuple[Step, np.ndarray]], Tensor]:
        """Make optimizer step `number`, counted from 0.

        Returns each forward's losses with the rows of its batch, and the gradient's norm before clipping. No operation
        waits for the device, except ModernBERT's mask.
        """
        settings = self.settings
        for group in self.adam.param_groups:
            group["lr"] = settings.rate(number)
        first = number * settings.accumulation
        last = first + settings.accumulation - 1
        outputs = []
        for micro in range(first, last + 1):
            outputs.append(self._accumulate(number, micro, micro == last))
        norm = self.accelerator.clip_grad_norm_(self.prepared.parameters(), settings.clip or float("inf"))
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return outputs, norm

    def _accumulate(self, step: int, micro: int, synchronises: bool) -> tuple[Step, np.ndarray]:
        """Add the gradients of one micro-batch; processes exchange theirs only if it `synchronises`."""
        settings, accelerator = self.settings, self.accelerator
        micro_batch, batch = self._next_batch(micro)
        torch.manual_seed(micro_batch.seed)
        context = contextlib.nullcontext() if synchronises else accelerator.no_sync(self.prepared)
        with context:
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=self.bfloat16):
                output: Step = self.prepared(step / settings.steps, **batch)
            losses = [loss.float() for loss in output.losses.values()]
            accelerator.backward(torch.stack(losses).sum() / settings.accumulation)
        return output, micro_batch.rows

    def _next_batch(self, micro: int) -> tuple[MicroBatch, Mapping[str, Any]]:
        """Return micro-batch `micro`, and its tensors on the device."""
        start = time.perf_counter()
        micro_batch = self.feed.take(micro, self.settings.steps * self.settings.accumulation)
        to_device = partial(Tensor.to, device=self.accelerator.device, non_blocking=True)
        batch = map_tensors(micro_batch.batch, to_device)
        self.waited += time.perf_counter() - start
        self.tokens += micro_batch.tokens
        return micro_batch, batch

    def take_tokens(self) -> float:
        """Return the tokens of all processes since the last call; every process must call this together."""
        tokens = torch.tensor(self.tokens, dtype=torch.float64, device=self.accelerator.device)
        self.tokens = 0.0
        return float(self.accelerator.reduce(tokens))

    def _make(self, micro: int) -> MicroBatch:
        """Make micro-batch `micro` of this process; micro-batches are numbered through all steps."""
        step, index = divmod(micro, self.settings.accumulation)
        rank = self.accelerator.process_index
        rows = self.batches.rows(micro * self.accelerator.num_processes + rank)
        seed = seeded(self.seed, step, index, rank)
        batch = self.collate(rows, torch.Generator().manual_seed(seed))
        tokens = count_tokens(batch)
        if self.accelerator.device.type == "cuda":
            batch = map_tensors(batch, Tensor.pin_memory)
        return MicroBatch(rows, seed, batch, tokens)


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
) -> dict[str, float]:
    """Minimise the sum of the losses of `model(progress, **batch)`, for `settings.steps` or `settings.epochs`.

    `collate(rows, generator)` makes the batch of some rows, and `names(rows)` gives their document ids. Checkpoints
    stay in `folder` until `checkpoints.discard`. Training resumes from the last one, bit for bit.

    Returns the cost: seconds, tokens of all processes, tokens per second, seconds spent waiting for data, and a GPU's
    peak memory in bytes. Raises DivergedError at a non-finite loss or gradient.
    """
    loop = Loop(model, batches, collate, settings, seed)
    if settings.epochs:
        examples = len(batches.lengths)
        say(f"{label}: {loop.settings.steps:,} steps, {settings.epochs:g} times over {examples:,} examples")
    settings = loop.settings
    done, cost = load(folder, model, loop.optimizer, loop.accelerator.device)
    start = time.perf_counter() - cost["seconds"]
    loop.waited = cost["data_seconds"]
    ledger = Ledger(folder, settings, label)
    with bar(label, settings.steps, "steps", done) as advance:
        for step in range(done, settings.steps):
            outputs, norm = loop.step(step)
            for output, rows in outputs:
                ledger.add(step, output, names(rows))
            ledger.add_gradient_norm(norm)
            advance(1)

            is_last = step + 1 == settings.steps
            logs = (step + 1) % settings.log_every == 0
            saves = (step + 1) % settings.checkpoint_every == 0 and not is_last
            if logs or saves or is_last:
                ledger.settle()
            if saves or is_last:
                # A checkpoint's cost holds the tokens of all processes, so each adds only the later tokens.
                cost["tokens"] += loop.take_tokens()
                cost["data_seconds"] = loop.waited
                cost["seconds"] = time.perf_counter() - start
            if saves and processes.leads():
                save(folder, step + 1, model, loop.optimizer, cost)
    rate = cost["tokens"] / max(cost["seconds"], 1e-9)
    return {**cost, "tokens_per_second": rate, **gpu_memory()}
