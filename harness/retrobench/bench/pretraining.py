"""
Training steps of pre-training objectives, ours as shipped beside the released ones: real tokens a second.

* Released        what stands for an objective on the peer's side
* step_cases      with each side's collator, and the steps alone
* same_step       that both sides make the same losses and gradients of the same passages and masks
* as_ours         a released batch as our step takes it
* Ours            our loop at work
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrobench.bench.feeds import Feed
from retrobench.bench.frame import Case, Floor, Setting, Timed, gradients, steps_alike
from retrobench.bench.models import Scale, objective, pretraining, scale
from retrobench.bench.peers.collators import RATIO, Collator
from retrobench.bench.peers.steps import Trainer, released
from retrobench.bench.texts import VOCABULARY, lengths, passages
from retrobench.config import Optimisation
from retrobench.objective import Objective, Passage
from retrobench.plan import arithmetic
from retrobench.training import Batches, Loop, deterministic, resolve_precision

__all__ = ["Ours", "Released", "as_ours", "same_step", "settings", "step_cases"]

BUCKET = 32  # batches, the default of a run


@dataclass(frozen=True)
class Released:
    """Its project, collator and loss, and whether its step reads its losses each time."""

    name: str
    collator: Collator
    loss: str
    reads: bool = False


def settings(batch: int, **given: Any) -> Optimisation:
    """Those of a long run, all else at its default; the rate is so small that random weights stay as good as random."""
    return Optimisation(**{"steps": 1_000_000, "batch": batch, "learning_rate": 1e-5, **given})


class Ours:
    """Our loop, some steps a round. Gives the real tokens it trained on."""

    def __init__(
        self, of: Objective, sizes: Scale, texts: Sequence[Passage], device: str, steps: int, ahead: bool = False
    ) -> None:
        """`ahead`: what it goes through is collated now, so that steps alone are timed."""
        counts = np.array([len(text.text) + 2 for text in texts])
        batches = Batches(counts, sizes.batch, BUCKET, seed=0)
        kept = len(texts) // sizes.batch
        self.steps, self.number = steps, 0

        def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
            return of.collate([texts[row] for row in rows], VOCABULARY, sizes.length, generator)

        generator = torch.Generator().manual_seed(0)
        made = [collate(batches.rows(number), generator) for number in range(kept)] if ahead else []
        numbers = iter(range(10**9))

        def replayed(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
            return made[next(numbers) % kept]

        self.loop = Loop(
            pretraining(of, sizes, device), batches, replayed if ahead else collate, settings(sizes.batch), seed=0
        )

    def __call__(self) -> float:
        before = self.loop.tokens
        with deterministic():  # as in a run
            for _ in range(self.steps):
                self.loop.step(self.number)
                self.number += 1
        return self.loop.tokens - before


def step_cases(name: str, peer: Released, setting: Setting) -> Iterator[Case]:
    """Passages as long as those of MS MARCO, at most 150 tokens: ours sorted by length, the peer's at random."""
    sizes, of = scale(setting), objective(name)
    texts = passages(lengths(sizes.batch * BUCKET, sizes.length))
    counts = np.array([len(text.text) + 2 for text in texts], np.float64)
    mean = float((counts**2).sum() / counts.sum())  # as a token sees it
    precision = resolve_precision("auto")
    floor = Floor(arithmetic.pretraining(sizes.shape, mean, name, RATIO), precision=precision)
    check = cache(lambda: same_step(name, peer, sizes, texts, setting))
    for case, ahead in (("with its collator", False), ("step alone", True)):
        ours = Ours(of, sizes, texts, setting.device, 16 if setting.cuda else 2, ahead)
        yield Case(
            name=case,
            unit="real tokens/s",
            ours=ours,
            peer=_peer(peer, of, sizes, texts, setting, ahead),
            peer_name=f"{peer.name}'s step",
            check=check,
            floor=floor,
            rounds=7 if setting.cuda else 3,
            memory=ahead,
            warmups=0 if ahead else 1,  # the round that memory is taken in is one
            note=_about(sizes, precision, setting),
        )


def _about(sizes: Scale, precision: str, setting: Setting) -> str:
    theirs = "bf16 autocast" if setting.cuda else "fp32"
    of = f"{sizes.layers} layers, {sizes.hidden} wide, batches of {sizes.batch}"
    return f"{of}; ours in {precision}, the peer in {theirs}"


def _peer(
    peer: Released, of: Objective, sizes: Scale, texts: Sequence[Passage], setting: Setting, ahead: bool
) -> Callable[[], float | Timed]:
    trainer = Trainer(released(pretraining(of, sizes, setting.device), peer.loss), setting.cuda, peer.reads)
    feed = Feed(peer.collator, texts, sizes.batch, sizes.length, setting)
    steps = 8 if setting.cuda else 1
    made = [next(feed) for _ in range(8)] if ahead else []
    numbers = iter(range(10**9))

    def run() -> float | Timed:
        if not ahead:
            feed.steady()
        began, tokens = time.perf_counter(), 0.0
        for _ in range(steps):
            batch = made[next(numbers) % len(made)] if ahead else next(feed)
            tokens += float(batch["encoder_attention_mask"].sum())
            trainer.step(batch)
        if setting.cuda:
            torch.cuda.synchronize()
        return Timed(tokens, time.perf_counter() - began)

    return run


def same_step(name: str, peer: Released, sizes: Scale, texts: Sequence[Passage], setting: Setting) -> str:
    """UnequalError unless both sides make the same of a batch collated as released, without dropout."""
    still = replace(sizes, dropout=0.0)
    model = pretraining(objective(name), still, setting.device)
    theirs = released(model, peer.loss)
    batch = peer.collator(texts[:8], VOCABULARY, sizes.length, random.Random(0))
    batch = {key: value.to(setting.device) for key, value in batch.items()}
    expected = torch.stack(list(theirs(**batch).values()))

    def ours(halved: bool) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(setting.device, torch.bfloat16, enabled=halved):
            losses = torch.stack(list(model(0.0, **as_ours(batch)).losses.values()))
        return losses, {key.removeprefix("backbone."): of for key, of in gradients(model, losses).items()}

    return steps_alike(ours, (expected, gradients(theirs, expected)))


def as_ours(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What our step makes of a released batch: the same ids, labels, matrix of visible tokens or weights of words."""
    labels, real = batch["encoder_labels"].flatten(), batch["encoder_attention_mask"]
    made = {
        "input_ids": batch["encoder_input_ids"],
        "attention_mask": real,
        "masked_positions": (labels != -100).nonzero().flatten(),
        "masked_ids": labels[labels != -100],
    }
    if "decoder_attention_mask" in batch:
        made["clean_ids"], made["words"] = batch["decoder_input_ids"], torch.zeros_like(real)  # unread: masks are given
        made["content_positions"] = (batch["decoder_labels"].flatten() != -100).nonzero().flatten()
        made["visible"] = batch["decoder_attention_mask"].bool()
        made["visible"][:, :, 0] |= ~real.bool()  # no loss reads padding's rows, but a softmax needs something to see
    elif "decoder_input_ids" in batch:
        made["decoder_ids"], predicted = batch["decoder_input_ids"], batch["decoder_labels"]
        if torch.equal(predicted[real.bool()], made["decoder_ids"][real.bool()]):  # all of them: each next one
            predicted = torch.nn.functional.pad(predicted[:, 1:], (0, 1), value=-100)
        made["decoder_positions"] = (predicted.flatten() != -100).nonzero().flatten()
        made["decoder_targets"] = predicted[predicted != -100]
    if "bow_weights" in batch:
        weights = batch["bow_weights"]
        most = int(weights.gt(0).sum(1).max())
        made["bag_weights"], made["bag"] = weights.topk(max(most, 1), dim=1)
    return made
