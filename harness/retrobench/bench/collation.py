"""
Collating for the enhanced decoder: masks of the encoder, and for each token what the decoder sees.

On a CPU texts a second of one thread, as a loader's worker has, beside the released collator. On a GPU masks are made
there: their time beside that of the whole step they are part of.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrobench.bench.frame import Case, Setting, Timed, UnequalError
from retrobench.bench.models import objective, scale
from retrobench.bench.peers import collators
from retrobench.bench.pretraining import Ours
from retrobench.bench.texts import VOCABULARY, lengths, passages
from retrobench.model import decoder_visibility

__all__ = ["cases", "distributions_agree"]

FEW = 4  # texts that the released collator is timed on: its time is proportional to them
ERRORS = 6.0  # standard errors that means of the same distribution may be apart


def cases(setting: Setting) -> Iterator[Case]:
    """Fixed lengths, as in the papers' own batches: every text as long as the longest allowed."""
    torch.set_num_threads(1)
    sizes = [(8, 64), (8, 32)] if setting.smoke else [(64, 512), (128, 150)]
    for name, (texts, length) in zip(["64 x 512", "128 x 150"], sizes, strict=True):
        yield _case(name, texts, length)
    if setting.cuda:
        yield _share_of_a_step(setting)


def _case(name: str, texts: int, length: int) -> Case:
    batch = passages(np.full(texts, length))
    drawn = random.Random(0)

    def ours() -> float:
        for _ in range(4):
            collated(batch, length)
        return 4.0 * texts

    def peer() -> float:
        collators.retromae(batch[:FEW], VOCABULARY, length, drawn)
        return FEW

    return Case(
        name=name,
        unit="texts/s",
        ours=ours,
        peer=peer,
        peer_name="RetroMAE's collator",
        check=lambda: distributions_agree(
            collated(batch[:FEW], length), collators.retromae(batch[:FEW], VOCABULARY, length, drawn)
        ),
        note=f"the peer timed on {FEW} texts" if texts > FEW else "",
        memory=False,
    )


def collated(batch: list[Any], length: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """A whole batch as RetroMAE's step uses it, `visible` [B, L, L] bool with it."""
    retromae: Any = objective("retromae")
    made: dict[str, Tensor] = retromae.collate(batch, VOCABULARY, length, generator or torch.default_generator)
    lengths = made["attention_mask"].sum(1)
    made["visible"] = decoder_visibility(made["words"], lengths, retromae.decoder_mask_ratio, retromae.mask_pool)
    return made


def distributions_agree(ours: Mapping[str, Tensor], peer: Mapping[str, Tensor]) -> str:
    """That two batches of the same full texts are drawn alike: equal where nothing is random, else within errors."""
    clean, words = ours["clean_ids"], ours["words"]
    labels = torch.full_like(clean, -100)
    labels.view(-1)[ours["masked_positions"]] = ours["masked_ids"]
    length = clean.shape[1]
    budget = [round(length * collators.RATIO)] * len(clean)
    facts = {
        "clean ids": torch.equal(clean, peer["decoder_input_ids"]),
        "real tokens": torch.equal(ours["attention_mask"], peer["encoder_attention_mask"]),
        "tokens masked of each text": all(
            (of != -100).sum(1).tolist() == budget for of in (labels, peer["encoder_labels"])
        ),
    }
    for side, seen in (("ours", ours["visible"].bool()), ("the peer's", peer["decoder_attention_mask"].bool())):
        facts[f"own position hidden, {side}"] = not seen.diagonal(0, 1, 2).any()
        facts[f"[CLS] and [SEP] shown, {side}"] = bool(seen[:, 1:, 0].all() and seen[:, :-1, -1].all())
        facts[f"words hidden whole, {side}"] = _whole(seen, words)
        hidden = (~seen).sum(2)
        most = round(length * collators.DECODER_RATIO) + 1
        facts[f"tokens hidden of a row, {side}"] = bool((hidden <= most).all() and (hidden >= most - 2).all())
    if wrong := [what for what, holds in facts.items() if not holds]:
        raise UnequalError(f"{', '.join(wrong)}: not as they should be. Nothing was timed.")
    return (
        f"masks per text and row, whole words, own position; {_alike(ours['visible'], peer['decoder_attention_mask'])}"
    )


def _whole(seen: Tensor, words: Tensor) -> bool:
    """Whether in every row pieces of one word are hidden together, save where one is the row's own position."""
    follows = (words[:, 1:] == words[:, :-1]) & (words[:, 1:] >= 0)  # [B, L - 1]
    split = (seen[:, :, 1:] != seen[:, :, :-1]) & follows[:, None]
    own = torch.eye(seen.shape[1], dtype=torch.bool)
    return not (split & ~(own[:, 1:] | own[:, :-1])).any()


def _alike(ours: Tensor, peer: Tensor) -> str:
    """That tokens are as often visible to a text's rows on both sides, but for sampling errors."""
    shares = [of.double()[:, 1:-1, 1:-1].mean(1) for of in (ours, peer)]  # [B, L - 2]: how often a token is seen
    firsts, seconds = (of.var(1).mean().item() + 1e-12 for of in shares)
    apart = (shares[0].mean() - shares[1].mean()).abs().item()
    spread = firsts / seconds
    error = ((firsts + seconds) / shares[0].numel()) ** 0.5
    if apart > ERRORS * error or not 0.5 < spread < 2:
        raise UnequalError(
            f"visible share: {apart:.2g} apart, of at most {ERRORS * error:.2g}, and {spread:.2g} times as spread. "
            "Nothing was timed."
        )
    return f"visible share within {apart:.1g}"


def _share_of_a_step(setting: Setting) -> Case:
    """Seconds of making the masks, beside those of RetroMAE's whole step; the ratio is 1 over their share."""
    sizes, of, times = scale(setting), objective("retromae"), 20
    texts = passages(lengths(sizes.batch * 32, sizes.length))
    step = Ours(of, sizes, texts, setting.device, steps=8, ahead=True)
    made = of.collate(passages(np.full(sizes.batch, sizes.length)), VOCABULARY, sizes.length, torch.default_generator)
    words, real = made["words"].to(setting.device), made["attention_mask"].sum(1).to(setting.device)

    def timed(work: Callable[[], object], count: int) -> Timed:
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return Timed(1.0, (time.perf_counter() - began) / count)

    def masks() -> None:
        for _ in range(times):
            decoder_visibility(words, real, collators.DECODER_RATIO, collators.POOL)

    def check() -> str:
        seen = decoder_visibility(words, real, collators.DECODER_RATIO, collators.POOL)
        if not _whole(seen.cpu(), words.cpu()) or seen.diagonal(0, 1, 2).any():
            raise UnequalError("masks made on the GPU split words or show a row its own position. Nothing was timed.")
        return "words hidden whole, own position"

    return Case(
        name="masks of a step",
        unit="s",
        ours=lambda: timed(masks, times),
        peer=lambda: timed(step, step.steps),
        peer_name="the whole step",
        check=check,
        kind="seconds",
        memory=False,
    )
