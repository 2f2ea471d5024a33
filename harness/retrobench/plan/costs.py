"""Estimate a stage's costs on a machine: seconds, and the largest batch that fits its memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from retrobench.plan.machines import Machine
from retrobench.plan.needs import StageNeeds, StepMemory, WorkItem

__all__ = [
    "SEARCHING",
    "SEARCHING_ON_GPU",
    "Fit",
    "Seconds",
    "device_bytes",
    "estimate_seconds",
    "find_gradient_cache",
    "fit_step",
]

# Tokens per second on two cores: the highest measured rate, 15,200 passages of 80, and the rate in the rows of mini.
_TOKENISING = 15_200 * 80
_TOKENISING_IN_MINI = 181_000
# FLOP/s of exact search on one core: 1,100 queries a second for their best 1,000 of 100,000 vectors of 384 numbers, on
# two EPYC cores (leaderboards/performance).
SEARCHING = 1_100 * 2 * 100_000 * 384 / 2
# Share of a GPU's peak in exact search: two seconds for MS MARCO's 6,980 queries on an H200. This is the benchmark's
# aim and was never measured.
SEARCHING_ON_GPU = 0.06
# Share of the memory to plan for. Fragments, the driver and the operating system take the remainder.
_USABLE = 0.95
_GRADIENT_CACHES = (65536, 32768, 16384, 8192, 4096, 2048, 1024)  # tokens


class Seconds(NamedTuple):
    """Hold the arithmetic floor and the expected time."""

    floor: float
    expected: float


@dataclass(frozen=True)
class Fit:
    """Hold the batch that fits and its shards. `batch` is 0 if not even one example fits."""

    batch: int  # examples of a step, of all processes together
    shards: int


def find_gradient_cache(stage: StageNeeds, machine: Machine, gpus: int = 1) -> int:
    """Return the gradient cache, in tokens, that makes a fine-tuning batch fit; 0 if there is none."""
    step = _step(stage)
    if stage.section != "finetune" or step.gradient_cache:
        return 0
    for tokens in _GRADIENT_CACHES:
        cached_step = replace(step, gradient_cache=tokens)
        fit = fit_step(replace(stage, step=cached_step), machine, gpus)
        if fit.batch == step.batch:
            return tokens
    return 0


def estimate_seconds(stage: StageNeeds, machine: Machine, gpus: int = 1) -> Seconds:
    """Estimate a stage's time. `gpus` processes share training, encoding and exact search; one does the other work."""
    seconds = [_estimate_item(item, machine, gpus) for item in stage.items]
    floor = sum(item.floor for item in seconds)
    expected = sum(item.expected for item in seconds)
    return Seconds(floor, expected)


def _estimate_item(item: WorkItem, machine: Machine, gpus: int) -> Seconds:
    if item.kind == "tokenise":
        return Seconds(item.tokens / _TOKENISING, item.tokens / _TOKENISING_IN_MINI)
    if not machine.peak:
        return Seconds(math.nan, math.nan)
    processes = 1 if item.kind == "teach" else gpus
    floor = item.flops / machine.peak / processes
    if item.kind == "search":
        return Seconds(floor, _search_seconds(item, machine, floor))
    expected = floor / _share(item, machine) / item.real
    return Seconds(floor, expected)


def _search_seconds(item: WorkItem, machine: Machine, floor: float) -> float:
    if machine.gpu:
        return floor / SEARCHING_ON_GPU
    return item.flops / (SEARCHING * machine.cores)


def _share(item: WorkItem, machine: Machine) -> float:
    """Return the share of the machine's peak that the work reaches."""
    if item.kind == "pretrain":
        return machine.shares.pretrain
    if item.kind == "finetune":
        return machine.shares.finetune
    return machine.shares.encode  # a teacher reads as an encoder does


def device_bytes(stage: StageNeeds, gpus: int = 1) -> float:
    """Return the bytes on each device when `gpus` processes share the track's batch."""
    if stage.step is None:
        return stage.device
    return stage.step.fixed_bytes + stage.step.examples(gpus) * stage.step.example_bytes


def fit_step(stage: StageNeeds, machine: Machine, gpus: int = 1) -> Fit:
    """
    Return the batch of a training stage that fits `gpus` processes, which share its shards equally.

    Pre-training keeps its batch and cuts it into more shards. Fine-tuning holds all shards at once, so its batch
    shrinks.
    """
    step = _step(stage)
    memory = _USABLE * machine.memory
    if not machine.gpu:
        memory -= stage.host
    free = memory - step.fixed_bytes
    largest = max(0, math.floor(free / step.example_bytes))  # examples in one process
    if step.couples:
        return _fit_finetuning(step, largest, gpus)
    return _fit_pretraining(step, largest, gpus)


def _fit_finetuning(step: StepMemory, largest: int, gpus: int) -> Fit:
    shards = step.shards if step.shards % gpus == 0 else gpus
    batch = step.batch - step.batch % shards
    if batch // gpus <= largest:
        return Fit(batch, shards)
    multiple_of_8 = largest - largest % 8
    return Fit((multiple_of_8 or largest) * gpus, gpus)


def _fit_pretraining(step: StepMemory, largest: int, gpus: int) -> Fit:
    """Return the fewest shards, but at least the track's, that divide the batch and fit."""
    for shards in range(step.shards, step.batch + 1):
        if shards % gpus == 0 and step.batch % shards == 0 and step.batch // shards <= largest:
            return Fit(step.batch, shards)
    return Fit(0, step.shards)


def _step(stage: StageNeeds) -> StepMemory:
    assert stage.step is not None, f"{stage.name} does not train"
    return stage.step
