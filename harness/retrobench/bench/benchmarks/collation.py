"""
Collating for the enhanced decoder: masks of the encoder, and for each token the tokens that the decoder sees.

On a CPU a case counts texts a second beside the released collator, on a single thread like a loader's worker. On a GPU
the device draws the masks, and a case compares their time with the whole step's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrobench.bench.feeds import convert_batch
from retrobench.bench.frame import Case, Timed, UnequalError, require
from retrobench.bench.loops import pretraining_steps, repeat_batches
from retrobench.bench.methods import ENHANCED, Method
from retrobench.bench.models import Workload, default_scale, installed_objective
from retrobench.bench.peers import collators
from retrobench.bench.peers.collators import UNLABELLED
from retrobench.bench.setting import Setting
from retrobench.bench.texts import VOCABULARY, draw_passages
from retrobench.model import decoder_visibility
from retrobench.objective import Passage

__all__ = ["cases", "collate_visible", "collator_case", "require_equal_batches", "require_equal_distributions"]

FEW = 4  # texts that the released collator is timed on: its time is proportional to them
ERRORS = 6.0  # standard errors that two means of a single distribution may differ by
REPEATS = 20  # draws of masks in a round on a GPU
STEPS = 8  # steps taken in a round on a GPU


def cases(setting: Setting) -> Iterator[Case]:
    """Yield cases of fixed lengths, as in the papers' own batches: every text as long as the longest allowed."""
    torch.set_num_threads(1)
    long_texts = (64, 512)
    short_texts = (128, 150)
    if setting.smoke:
        long_texts = (8, 64)
        short_texts = (8, 32)
    yield _enhanced_case("64 x 512", long_texts)
    yield _enhanced_case("128 x 150", short_texts)
    if setting.cuda:
        yield _share_of_a_step(setting)


def _enhanced_case(name: str, size: tuple[int, int]) -> Case:
    texts, length = size
    case = collator_case(ENHANCED, texts, length)
    check = partial(_compare_distributions, length)
    return replace(case, name=name, peer_name="RetroMAE's collator", check=check)


@dataclass(frozen=True)
class _Collating:
    """Both collators at work on full texts."""

    method: Method
    batch: Sequence[Passage]
    length: int
    draw: random.Random
    generator: torch.Generator

    @property
    def few(self) -> int:
        """Return the texts that the released collator is timed on."""
        if self.method is ENHANCED:
            return min(FEW, len(self.batch))
        return len(self.batch)

    def collate(self) -> dict[str, Tensor]:
        objective = self.method.objective()
        batch: dict[str, Tensor] = objective.collate(self.batch, VOCABULARY, self.length, self.generator)
        return batch

    def collate_released(self) -> dict[str, Tensor]:
        return self.method.collator(self.batch[: self.few], VOCABULARY, self.length, self.draw)

    def ours(self) -> float:
        if self.method is ENHANCED:
            collate_visible(self.batch, self.length, self.generator)
        else:
            self.collate()
        return len(self.batch)

    def peer(self) -> Timed:
        start = time.perf_counter()
        self.collate_released()
        seconds = time.perf_counter() - start
        return Timed(len(self.batch), seconds * len(self.batch) / self.few)

    def check(self) -> str:
        return require_equal_batches(self.collate(), convert_batch(self.collate_released()))


def collator_case(method: Method, texts: int, length: int) -> Case:
    """Return a case of collating full texts, with the decoder's masks; tensor names and masked tokens are compared."""
    batch = draw_passages(np.full(texts, length))
    generator = torch.Generator().manual_seed(0)
    sides = _Collating(method, batch, length, random.Random(0), generator)
    note = ""
    if sides.few < texts:
        note = f"the peer timed on {sides.few} texts"
    return Case(
        name=f"{texts} x {length}",
        unit="texts/s",
        ours=sides.ours,
        peer=sides.peer,
        peer_name="the released collator",
        check=sides.check,
        note=note,
        memory=False,
    )


def require_equal_batches(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """Require that batches of one length have equal names and equal shares of masked tokens.

    `theirs` may hold fewer texts.
    """
    texts = len(theirs["input_ids"])
    all_texts = len(ours["input_ids"])
    facts = {
        "parts": ours.keys() == theirs.keys() - {"visible"},
        "real tokens": torch.equal(ours["attention_mask"][:texts], theirs["attention_mask"]),
    }
    for name in ("masked_positions", "content_positions", "decoder_positions"):
        if name in ours:
            ours_per_text = len(ours[name]) / all_texts
            theirs_per_text = len(theirs[name]) / texts
            facts[name.replace("_", " ")] = ours_per_text == theirs_per_text
    require(facts)
    return ", ".join(facts)


def collate_visible(
    passages: Sequence[Passage], length: int, generator: torch.Generator = torch.default_generator
) -> dict[str, Tensor]:
    """Collate a batch as RetroMAE's step uses it, with `visible` [B, L, L] bool."""
    retromae: Any = installed_objective("retromae")
    batch: dict[str, Tensor] = retromae.collate(passages, VOCABULARY, length, generator)
    counts = batch["attention_mask"].sum(1)
    batch["visible"] = decoder_visibility(batch["words"], counts, retromae.decoder_mask_ratio, retromae.mask_pool)
    return batch


def _compare_distributions(length: int) -> str:
    passages = draw_passages(np.full(FEW, length))
    ours = collate_visible(passages, length)
    peer = collators.retromae(passages, VOCABULARY, length, random.Random(0))
    return require_equal_distributions(ours, peer)


def require_equal_distributions(ours: Mapping[str, Tensor], peer: Mapping[str, Tensor]) -> str:
    """Require that two batches of equal full texts are drawn alike; UnequalError names the facts that differ.

    Tensors without randomness must be equal, the random ones within sampling errors.
    """
    clean = ours["clean_ids"]
    labels = torch.full_like(clean, UNLABELLED)
    flat_labels = labels.view(-1)
    flat_labels[ours["masked_positions"]] = ours["masked_ids"]
    budget = round(clean.shape[1] * collators.RATIO)
    facts = {
        "clean ids": torch.equal(clean, peer["decoder_input_ids"]),
        "real tokens": torch.equal(ours["attention_mask"], peer["encoder_attention_mask"]),
        "tokens masked of each text, ours": _masks_exactly(labels, budget),
        "tokens masked of each text, the peer's": _masks_exactly(peer["encoder_labels"], budget),
    }
    matrices = {"ours": ours["visible"], "the peer's": peer["decoder_attention_mask"]}
    for side, visible in matrices.items():
        for name, holds in _visibility_facts(visible.bool(), ours["words"]).items():
            facts[f"{name}, {side}"] = holds
    require(facts)
    report = _require_equal_shares(ours["visible"], peer["decoder_attention_mask"])
    return f"masks per text and row, whole words, own position; {report}"


def _masks_exactly(labels: Tensor, budget: int) -> bool:
    """Return whether every text has `budget` masked tokens."""
    counts = (labels != UNLABELLED).sum(1)
    return bool((counts == budget).all())


def _visibility_facts(visible: Tensor, words: Tensor) -> dict[str, bool]:
    """Return the facts that hold of every matrix of visible tokens, [B, L, L]."""
    cls_shown = visible[:, 1:, 0].all()
    sep_shown = visible[:, :-1, -1].all()
    hidden = (~visible).sum(2)
    most = round(visible.shape[1] * collators.DECODER_RATIO) + 1
    within = (hidden <= most) & (hidden >= most - 2)
    return {
        "[CLS] and [SEP] shown": bool(cls_shown and sep_shown),
        "tokens hidden of a row": bool(within.all()),
        **_word_facts(visible, words),
    }


def _word_facts(visible: Tensor, words: Tensor) -> dict[str, bool]:
    """Return the facts that hold on padded texts too; a word may be split at the row's own position."""
    word = words[:, 1:]
    previous_word = words[:, :-1]
    continues = (word == previous_word) & (word >= 0)  # [B, L - 1]
    changes = visible[:, :, 1:] != visible[:, :, :-1]  # [B, L, L - 1]
    length = visible.shape[1]
    own = torch.eye(length, dtype=torch.bool)
    beside_own = own[:, 1:] | own[:, :-1]
    split = changes & continues[:, None] & ~beside_own
    own_shown = visible.diagonal(0, 1, 2)
    return {
        "own position hidden": not own_shown.any(),
        "words hidden whole": not split.any(),
    }


def _require_equal_shares(ours: Tensor, peer: Tensor) -> str:
    """Require that a token is visible to equal shares of a text's rows on both sides, within sampling errors."""
    our_shares = _visible_shares(ours)
    peer_shares = _visible_shares(peer)
    our_variance = our_shares.var(1).mean().item() + 1e-12
    peer_variance = peer_shares.var(1).mean().item() + 1e-12
    mean_difference = our_shares.mean() - peer_shares.mean()
    difference = mean_difference.abs().item()
    spread = our_variance / peer_variance
    squared_error = (our_variance + peer_variance) / our_shares.numel()
    most = ERRORS * squared_error**0.5
    if difference > most or not 0.5 < spread < 2:
        raise UnequalError(
            f"visible share: {difference:.2g} apart, of at most {most:.2g}, and {spread:.2g} times as spread. "
            "Nothing was timed."
        )
    return f"visible share within {difference:.1g}"


def _visible_shares(visible: Tensor) -> Tensor:
    """Return the share of a text's rows that see each token, [B, L - 2]; special tokens are left out."""
    words_only = visible[:, 1:-1, 1:-1].double()
    return words_only.mean(1)


def _share_of_a_step(setting: Setting) -> Case:
    """Return the seconds of drawing masks beside RetroMAE's whole step; the ratio is 1 over the share of the masks."""
    sizes = default_scale(setting)
    retromae = installed_objective("retromae")
    work = Workload.of_passages(setting, sizes)
    training = pretraining_steps(retromae, work, repeat_batches(retromae, work))
    passages = draw_passages(np.full(sizes.batch, sizes.length))
    batch = retromae.collate(passages, VOCABULARY, sizes.length, torch.default_generator)
    words = batch["words"].to(setting.device)
    counts = batch["attention_mask"].sum(1).to(setting.device)

    def draw_masks() -> Tensor:
        return decoder_visibility(words, counts, collators.DECODER_RATIO, collators.POOL)

    def repeat_masks() -> None:
        for _ in range(REPEATS):
            draw_masks()

    def check() -> str:
        facts = _word_facts(draw_masks().cpu(), words.cpu())
        require(facts)
        return ", ".join(facts)

    take_steps = partial(training.take, STEPS)
    return Case(
        name="masks of a step",
        unit="s",
        ours=partial(_time, setting, repeat_masks, REPEATS),
        peer=partial(_time, setting, take_steps, STEPS),
        peer_name="the whole step",
        check=check,
        kind="seconds",
        memory=False,
    )


def _time(setting: Setting, work: Callable[[], object], count: int) -> Timed:
    """Return the mean seconds of `count` repetitions, all of them run by one call of `work`."""
    start = setting.start()
    work()
    return Timed(1.0, setting.seconds(start) / count)
