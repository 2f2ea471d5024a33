"""
Training steps of pre-training objectives, ours as shipped beside the released ones: real tokens a second.

* retromae_cases, bow_mae_cases   with each side's collator, and the steps alone
* same_step                       check that both sides make the same losses and gradients of a released batch
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from retrobench.bench.feeds import Feed, as_ours
from retrobench.bench.frame import Case, Floor, Setting, Timed, gradients, steps_alike
from retrobench.bench.loops import pretraining_steps, repeated
from retrobench.bench.methods import BOW, ENHANCED, Method
from retrobench.bench.models import Workload, pretraining, scale
from retrobench.bench.peers.steps import Trainer, released
from retrobench.bench.texts import VOCABULARY, token_counts
from retrobench.training import resolve_precision

__all__ = ["bow_mae_cases", "retromae_cases", "same_step"]


def retromae_cases(setting: Setting) -> Iterator[Case]:
    """Yield RetroMAE's steps beside the released ones."""
    return _cases(ENHANCED, setting)


def bow_mae_cases(setting: Setting) -> Iterator[Case]:
    """Yield the steps of BoW prediction beside the released ones."""
    return _cases(BOW, setting)


def _cases(method: Method, setting: Setting) -> Iterator[Case]:
    """Passages are as long as those of MS MARCO, at most 150 tokens: ours sorted by length, the peer's at random."""
    sizes = scale(setting)
    work = Workload.of_passages(setting, sizes)
    counts = token_counts(work.texts).astype(np.float64)
    mean = float((counts**2).sum() / counts.sum())  # as a token sees it
    ours, theirs = resolve_precision("auto"), "bf16 autocast" if setting.cuda else "fp32"
    check = cache(lambda: same_step(method, work))
    for name, ahead in (("with its collator", False), ("step alone", True)):
        yield Case(
            name=name,
            unit="real tokens/s",
            ours=_ours(method, work, ahead),
            peer=_peer(method, work, ahead),
            peer_name=f"{method.project}'s step",
            check=check,
            floor=Floor(method.flops(sizes.shape, mean), precision=ours),
            rounds=7 if setting.cuda else 3,
            memory=ahead,
            warmups=0 if ahead else 1,  # the round that memory is taken in is one
            note=f"{sizes.model_text}, batches of {sizes.batch}; ours in {ours}, the peer in {theirs}",
        )


def _ours(method: Method, work: Workload, ahead: bool) -> Callable[[], float]:
    """Return our side; with `ahead` its batches are collated now."""
    objective = method.objective()
    training = pretraining_steps(objective, work, repeated(objective, work) if ahead else None)

    def run() -> float:
        before = training.loop.tokens
        training.take(16 if work.setting.cuda else 2)
        return training.loop.tokens - before

    return run


def _peer(method: Method, work: Workload, ahead: bool) -> Callable[[], Timed]:
    """Return the released side; with `ahead` its batches are collated now."""
    setting = work.setting
    model = released(pretraining(method.objective(), work.sizes, setting.device), method.loss)
    trainer = Trainer(model, setting.cuda, method.reads_losses)
    feed = Feed(method.collator, work)
    batches = cycle([next(feed) for _ in range(8)]) if ahead else feed

    def run() -> Timed:
        if not ahead:
            feed.steady()
        start, tokens = setting.start(), 0.0
        for _ in range(8 if setting.cuda else 1):
            batch = next(batches)
            tokens += float(batch["encoder_attention_mask"].sum())
            trainer.step(batch)
        return Timed(tokens, setting.seconds(start))

    return run


def same_step(method: Method, work: Workload) -> str:
    """Compare losses and gradients of a batch collated as released, without dropout; UnequalError if they differ."""
    sizes, device = replace(work.sizes, dropout=0.0), work.setting.device
    model = pretraining(method.objective(), sizes, device)
    theirs = released(model, method.loss)
    batch = method.collator(work.texts[:8], VOCABULARY, sizes.length, random.Random(0))
    batch = {name: value.to(device) for name, value in batch.items()}
    expected = torch.stack(list(theirs(**batch).values()))

    def ours(halved: bool) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(device, torch.bfloat16, enabled=halved):
            losses = torch.stack(list(model(0.0, **as_ours(batch)).losses.values()))
        slopes = gradients(model, losses)
        return losses, {name.removeprefix("backbone."): slope for name, slope in slopes.items()}

    return steps_alike(ours, (expected, gradients(theirs, expected)))
