"""
Collating for the enhanced decoder: masks of the encoder, and for each token the tokens that the decoder sees.

On a CPU texts a second of one thread, as a loader's worker has, beside the released collator. On a GPU masks are made
there: their time beside that of the whole step they are part of.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrobench.bench.feeds import as_ours
from retrobench.bench.frame import Case, Setting, Timed, UnequalError, require
from retrobench.bench.loops import pretraining_steps, repeated
from retrobench.bench.methods import ENHANCED, Method
from retrobench.bench.models import Workload, objective, scale
from retrobench.bench.peers import collators
from retrobench.bench.texts import VOCABULARY, passages
from retrobench.model import decoder_visibility
from retrobench.objective import Passage

__all__ = ["cases", "collated", "collator_case", "distributions_agree", "same_parts"]

FEW = 4  # texts that the released collator is timed on: its time is proportional to them
ERRORS = 6.0  # standard errors that means of one distribution may be apart
REPEATS = 20  # masks made in a round on a GPU


def cases(setting: Setting) -> Iterator[Case]:
    """Yield cases of fixed lengths, as in the papers' own batches: every text as long as the longest allowed."""
    torch.set_num_threads(1)
    for name, full, small in (("64 x 512", (64, 512), (8, 64)), ("128 x 150", (128, 150), (8, 32))):
        texts, length = small if setting.smoke else full
        case = collator_case(ENHANCED, texts, length)
        yield replace(case, name=name, peer_name="RetroMAE's collator", check=partial(_distributions, length))
    if setting.cuda:
        yield _share_of_a_step(setting)


def collator_case(method: Method, texts: int, length: int) -> Case:
    """Return a case of collating full texts, the masks of the decoder included, equal in parts and in masked tokens."""
    batch, draw, generator = passages(np.full(texts, length)), random.Random(0), torch.Generator().manual_seed(0)
    few = min(FEW, texts) if method is ENHANCED else texts
    plain = partial(method.objective().collate, batch, VOCABULARY, length, generator)
    work = partial(collated, batch, length, generator) if method is ENHANCED else plain

    def ours() -> float:
        work()
        return texts

    def released() -> dict[str, Tensor]:
        return method.collator(batch[:few], VOCABULARY, length, draw)

    def peer() -> Timed:
        start = time.perf_counter()
        released()
        return Timed(texts, (time.perf_counter() - start) * texts / few)

    return Case(
        name=f"{texts} x {length}",
        unit="texts/s",
        ours=ours,
        peer=peer,
        peer_name="the released collator",
        check=lambda: same_parts(plain(), as_ours(released())),
        note=f"the peer timed on {few} texts" if few < texts else "",
        memory=False,
    )


def same_parts(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """Require of batches of one length that their parts agree and are masked as much; `theirs` may be shorter."""
    texts, count = len(theirs["input_ids"]), len(ours["input_ids"])
    facts = {
        "parts": ours.keys() == theirs.keys() - {"visible"},
        "real tokens": torch.equal(ours["attention_mask"][:texts], theirs["attention_mask"]),
    }
    for name in ("masked_positions", "content_positions", "decoder_positions"):
        if name in ours:
            facts[name.replace("_", " ")] = len(ours[name]) * texts == len(theirs[name]) * count
    require(facts)
    return ", ".join(facts)


def collated(
    batch: Sequence[Passage], length: int, generator: torch.Generator = torch.default_generator
) -> dict[str, Tensor]:
    """Collate a batch as RetroMAE's step uses it, `visible` [B, L, L] bool with it."""
    retromae: Any = objective("retromae")
    made: dict[str, Tensor] = retromae.collate(batch, VOCABULARY, length, generator)
    counts = made["attention_mask"].sum(1)
    made["visible"] = decoder_visibility(made["words"], counts, retromae.decoder_mask_ratio, retromae.mask_pool)
    return made


def _distributions(length: int) -> str:
    batch = passages(np.full(FEW, length))
    return distributions_agree(collated(batch, length), collators.retromae(batch, VOCABULARY, length, random.Random(0)))


def distributions_agree(ours: Mapping[str, Tensor], peer: Mapping[str, Tensor]) -> str:
    """Require that two batches of the same full texts are drawn alike; UnequalError names the facts that differ.

    Parts without randomness must be equal, the others within sampling errors.
    """
    clean, words = ours["clean_ids"], ours["words"]
    labels = torch.full_like(clean, -100)
    labels.view(-1)[ours["masked_positions"]] = ours["masked_ids"]
    budget = round(clean.shape[1] * collators.RATIO)
    facts = {
        "clean ids": torch.equal(clean, peer["decoder_input_ids"]),
        "real tokens": torch.equal(ours["attention_mask"], peer["encoder_attention_mask"]),
        "tokens masked of each text, ours": bool(((labels != -100).sum(1) == budget).all()),
        "tokens masked of each text, the peer's": bool(((peer["encoder_labels"] != -100).sum(1) == budget).all()),
    }
    for side, visible in (("ours", ours["visible"]), ("the peer's", peer["decoder_attention_mask"])):
        facts |= {f"{name}, {side}": holds for name, holds in _facts(visible.bool(), words).items()}
    require(facts)
    report = _alike(ours["visible"], peer["decoder_attention_mask"])
    return f"masks per text and row, whole words, own position; {report}"


def _facts(visible: Tensor, words: Tensor) -> dict[str, bool]:
    """Return the facts that hold of every matrix of visible tokens, [B, L, L]."""
    hidden = (~visible).sum(2)
    most = round(visible.shape[1] * collators.DECODER_RATIO) + 1
    return {
        "[CLS] and [SEP] shown": bool(visible[:, 1:, 0].all() and visible[:, :-1, -1].all()),
        "tokens hidden of a row": bool((hidden <= most).all() and (hidden >= most - 2).all()),
        **_word_facts(visible, words),
    }


def _word_facts(visible: Tensor, words: Tensor) -> dict[str, bool]:
    """Return the facts that hold on padded texts too; a word may be split at the row's own position."""
    follows = (words[:, 1:] == words[:, :-1]) & (words[:, 1:] >= 0)  # [B, L - 1]
    split = (visible[:, :, 1:] != visible[:, :, :-1]) & follows[:, None]
    own = torch.eye(visible.shape[1], dtype=torch.bool)
    return {
        "own position hidden": not visible.diagonal(0, 1, 2).any(),
        "words hidden whole": not (split & ~(own[:, 1:] | own[:, :-1])).any(),
    }


def _alike(ours: Tensor, peer: Tensor) -> str:
    """Require that tokens are visible to as many of a text's rows on both sides, within sampling errors."""
    shares = [visible.double()[:, 1:-1, 1:-1].mean(1) for visible in (ours, peer)]  # [B, L - 2], of rows
    variances = [share.var(1).mean().item() + 1e-12 for share in shares]
    apart = (shares[0].mean() - shares[1].mean()).abs().item()
    spread = variances[0] / variances[1]
    error = (sum(variances) / shares[0].numel()) ** 0.5
    if apart > ERRORS * error or not 0.5 < spread < 2:
        raise UnequalError(
            f"visible share: {apart:.2g} apart, of at most {ERRORS * error:.2g}, and {spread:.2g} times as spread. "
            "Nothing was timed."
        )
    return f"visible share within {apart:.1g}"


def _share_of_a_step(setting: Setting) -> Case:
    """Return seconds of making the masks, beside those of RetroMAE's whole step; the ratio is 1 over their share."""
    sizes, retromae = scale(setting), objective("retromae")
    work = Workload.of_passages(setting, sizes)
    training = pretraining_steps(retromae, work, repeated(retromae, work))
    full = passages(np.full(sizes.batch, sizes.length))
    batch = retromae.collate(full, VOCABULARY, sizes.length, torch.default_generator)
    words, counts = batch["words"].to(setting.device), batch["attention_mask"].sum(1).to(setting.device)

    def timed(work: Callable[[], object], count: int) -> Timed:
        start = setting.start()
        work()
        return Timed(1.0, setting.seconds(start) / count)

    def visibility() -> Tensor:
        return decoder_visibility(words, counts, collators.DECODER_RATIO, collators.POOL)

    def masks() -> None:
        for _ in range(REPEATS):
            visibility()

    def check() -> str:
        facts = _word_facts(visibility().cpu(), words.cpu())
        require(facts)
        return ", ".join(facts)

    return Case(
        name="masks of a step",
        unit="s",
        ours=lambda: timed(masks, REPEATS),
        peer=lambda: timed(lambda: training.take(8), 8),
        peer_name="the whole step",
        check=check,
        kind="seconds",
        memory=False,
    )
