"""
Training steps of pre-training objectives, ours as shipped beside the released steps: real tokens a second.

* retromae_cases, bow_mae_cases   with each side's collator, and the steps alone
* compare_steps                   check that both sides compute equal losses and gradients of a released batch
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from retrobench.bench.feeds import Feed, convert_batch
from retrobench.bench.frame import Case, Floor, StepResult, Timed, compute_gradients, loss_scale, require_equal_steps
from retrobench.bench.loops import pretraining_steps, repeat_batches
from retrobench.bench.methods import BOW, ENHANCED, Method
from retrobench.bench.models import Workload, default_scale, make_pretraining
from retrobench.bench.peers.steps import Trainer, copy_weights
from retrobench.bench.setting import Setting
from retrobench.bench.texts import VOCABULARY, count_tokens
from retrobench.config import ResolvedPrecision
from retrobench.model import autocast
from retrobench.training import resolve_precision

__all__ = ["bow_mae_cases", "compare_steps", "retromae_cases"]

REPEATED = 8  # batches that the peer's steps alone repeat
COMPARED = 8  # texts of the batch that is compared


def retromae_cases(setting: Setting) -> Iterator[Case]:
    """Yield RetroMAE's steps beside the released steps."""
    return _cases(ENHANCED, setting)


def bow_mae_cases(setting: Setting) -> Iterator[Case]:
    """Yield the steps of BoW prediction beside the released steps."""
    return _cases(BOW, setting)


def _cases(method: Method, setting: Setting) -> Iterator[Case]:
    """Yield steps over passages as long as MS MARCO's, at most 150 tokens.

    Our batches are sorted by length, the peer's are random.
    """
    work = Workload.of_passages(setting, default_scale(setting))
    check = cache(partial(compare_steps, method, work))
    yield _case(method, work, False, check)
    yield _case(method, work, True, check)


def _case(method: Method, work: Workload, ahead: bool, check: Callable[[], str]) -> Case:
    """Return a case; with `ahead` batches are collated beforehand on both sides."""
    sizes = work.sizes
    counts = count_tokens(work.texts).astype(np.float64)
    mean = float((counts**2).sum() / counts.sum())  # weighted by tokens
    name, warmups = "with its collator", 1
    if ahead:
        name, warmups = "step alone", 0  # the round that memory is taken in warms up
    precision = resolve_precision("auto")
    peer_precision, rounds = "fp32", 3
    if work.setting.cuda:
        peer_precision, rounds = f"{precision} autocast", 7
    return Case(
        name=name,
        unit="real tokens/s",
        ours=_our_side(method, work, ahead),
        peer=_released_side(method, work, ahead),
        peer_name=f"{method.project}'s step",
        check=check,
        floor=Floor(method.flops(sizes.shape, mean), precision=precision),
        rounds=rounds,
        memory=ahead,
        warmups=warmups,
        note=f"{sizes.model_text}, batches of {sizes.batch}; ours in {precision}, the peer in {peer_precision}",
    )


def _our_side(method: Method, work: Workload, ahead: bool) -> Callable[[], float]:
    """Return our side; with `ahead` its batches are collated now."""
    objective = method.objective()
    source = None
    if ahead:
        source = repeat_batches(objective, work)
    training = pretraining_steps(objective, work, source)
    steps = 16 if work.setting.cuda else 2

    def run() -> float:
        tokens = training.loop.tokens
        training.take(steps)
        return training.loop.tokens - tokens

    return run


def _released_side(method: Method, work: Workload, ahead: bool) -> Callable[[], Timed]:
    """Return the released side; with `ahead` its batches are collated now."""
    setting = work.setting
    ours = make_pretraining(method.objective(), work.sizes, setting.device)
    released = copy_weights(ours, method.loss)
    precision = resolve_precision("auto") if setting.cuda else "fp32"
    trainer = Trainer(released, precision, method.reads_losses)
    feed = Feed(method.collator, work)
    batches: Iterator[dict[str, Tensor]] = feed
    if ahead:
        batches = cycle(list(islice(feed, REPEATED)))
    steps = 8 if setting.cuda else 1

    def run() -> Timed:
        if not ahead:
            feed.steady()
        start = setting.start()
        tokens = 0.0
        for _ in range(steps):
            batch = next(batches)
            tokens += float(batch["encoder_attention_mask"].sum())
            trainer.step(batch)
        return Timed(tokens, setting.seconds(start))

    return run


def compare_steps(method: Method, work: Workload) -> str:
    """Compare losses and gradients of a batch collated as released, without dropout; UnequalError if they differ."""
    sizes = replace(work.sizes, dropout=0.0)
    device = work.setting.device
    model = make_pretraining(method.objective(), sizes, device)
    released = copy_weights(model, method.loss)
    batch = method.collator(work.texts[:COMPARED], VOCABULARY, sizes.length, random.Random(0))
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    peer_losses = _stack(released(**batch))

    def ours(precision: ResolvedPrecision) -> StepResult:
        with autocast(device, precision):
            step = model(0.0, **convert_batch(batch))
        losses = _stack(step.losses)
        scale = loss_scale(precision)
        gradients = compute_gradients(model, scale * losses)
        released_gradients = {}
        for name, gradient in gradients.items():
            # The released model has no backbone around its language model.
            released_gradients[name.removeprefix("backbone.")] = gradient
        return StepResult(losses, released_gradients, scale)

    peer_gradients = compute_gradients(released, peer_losses)
    return require_equal_steps(ours, StepResult(peer_losses, peer_gradients))


def _stack(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values()))
