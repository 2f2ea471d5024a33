"""What a stage costs on a machine: seconds, and the largest batch that its memory takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from retrobench.plan.machines import Machine
from retrobench.plan.work import Stage, Work

__all__ = ["SEARCHING", "SEARCHING_ON_GPU", "TOKENISING", "Fit", "Seconds", "cache", "fit", "need", "seconds"]

# Tokens a second. The most that was seen on two cores, 15,200 passages of 80; and what the rows of mini record.
TOKENISING = (15_200 * 80, 181_000)
# FLOP/s of exact search on one core: 1,100 queries a second for their best 1,000 of 100,000 vectors of 384 numbers, on
# two EPYC cores (leaderboards/performance).
SEARCHING = 1_100 * 2 * 100_000 * 384 / 2
# On a GPU the share of its products' peak: two seconds for MS MARCO's 6,980 queries on an H200, which is what the
# benchmark is to show and nobody has measured.
SEARCHING_ON_GPU = 0.06
# What may be planned for: the rest goes to fragments and to the driver, or to the operating system.
_USABLE = 0.95


class Seconds(NamedTuple):
    """The floor by arithmetic, and what is to be expected."""

    floor: float
    expected: float


@dataclass(frozen=True)
class Fit:
    """The batch that one of several processes can take. `examples` is 0 where not even one example fits."""

    examples: int
    accumulation: int
    wanted: int  # examples of the track's batch in one process


def cache(stage: Stage, machine: Machine, gpus: int = 1) -> int:
    """The gradient cache, in tokens, under which a fine-tuning batch fits that does not without; 0 where none helps."""
    assert stage.batch is not None
    if stage.section != "finetune" or stage.batch.cached:
        return 0
    for tokens in (65536, 32768, 16384, 8192, 4096, 2048, 1024):
        found = fit(replace(stage, batch=replace(stage.batch, cached=tokens)), machine, gpus)
        if found.examples == found.wanted:
            return tokens
    return 0


def seconds(stage: Stage, machine: Machine, gpus: int = 1) -> Seconds:
    """Trainings, encoding and exact search are shared among `gpus` processes; all else is done by one."""
    parts = [_seconds(work, machine, gpus) for work in stage.works]
    return Seconds(sum(part.floor for part in parts), sum(part.expected for part in parts))


def _seconds(work: Work, machine: Machine, gpus: int) -> Seconds:
    if work.kind == "tokenise":
        return Seconds(work.tokens / TOKENISING[0], work.tokens / TOKENISING[1])
    if not machine.peak:
        return Seconds(math.nan, math.nan)
    floor = work.flops / machine.peak / (1 if work.kind == "teach" else gpus)
    if work.kind == "search":
        return Seconds(floor, floor / SEARCHING_ON_GPU if machine.gpu else work.flops / (SEARCHING * machine.cores))
    shares = {"pretrain": machine.shares.pretrain, "finetune": machine.shares.finetune}
    # A teacher reads as an encoder does.
    return Seconds(floor, floor / shares.get(work.kind, machine.shares.encode) / work.real)


def need(stage: Stage, gpus: int = 1) -> float:
    """Bytes on each device, with the track's batch shared among `gpus` processes."""
    if stage.batch is None:
        return stage.device
    return stage.batch.fixed + math.ceil(stage.batch.examples / gpus) * stage.batch.each


def fit(stage: Stage, machine: Machine, gpus: int = 1) -> Fit:
    """The largest batch of a training in each of `gpus` processes.

    Pre-training keeps the number of examples per step and accumulates; fine-tuning cannot, and takes fewer.
    """
    assert stage.batch is not None
    batch = stage.batch
    room = _USABLE * machine.memory - (0 if machine.gpu else stage.host) - batch.fixed
    most = max(0, math.floor(room / batch.each))
    if stage.section == "finetune":
        wanted = math.ceil(batch.examples / gpus)
        return Fit(wanted if wanted <= most else most - most % 8 or most, 1, wanted)
    total = math.ceil(batch.examples * batch.accumulation / gpus)
    wanted = min(batch.examples, total)
    divisors = (count for count in range(min(wanted, most), 0, -1) if total % count == 0)
    examples = next(divisors, 0)
    return Fit(examples, total // examples if examples else 1, wanted)
