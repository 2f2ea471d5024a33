"""
The BoW paper's table of speed, measured twice: collating as released, and as retrobench does.

The steps are retrobench's own in both, so that what differs is the wait for data. Texts have one length, as in the
paper: 64 of 512 tokens for BERT-base on a GPU, 4 of 128 for the small model on a CPU, where the collators are timed at
64 x 512 by themselves.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from retrobench.bench.collation import FEW, collated
from retrobench.bench.feeds import WORKERS
from retrobench.bench.frame import Case, Setting, Timed, UnequalError
from retrobench.bench.models import Scale, scale
from retrobench.bench.peers.collators import RATIO
from retrobench.bench.pretraining import Released, as_ours, same_step
from retrobench.bench.rows import BOW, ENHANCED, LOSSES, MLM, ROWS, Fed, Row, Side
from retrobench.bench.texts import VOCABULARY, passages
from retrobench.bench.verdict import Degenerations, published, verdict
from retrobench.plan import arithmetic

__all__ = ["Table", "cases"]

ROUNDS_ALONE = 5


def cases(setting: Setting) -> Iterator[Case]:
    """The table's rows, the collators alone, and what is slower than pure MLM without a wait; then the verdict."""
    sizes = scale(setting)
    table = Table(sizes if setting.smoke else replace(sizes, **_table_sizes(setting)), setting)
    for row in ROWS:
        yield table.case(row)
    texts, length = (8, 64) if setting.smoke else (64, 512)
    for row in ROWS:
        yield _collating(row, texts, length)
    plain = Plain(table.sizes if setting.cuda or setting.smoke else replace(sizes, batch=16, length=128), setting)
    for row in (ENHANCED, BOW):
        says = partial(_verdict, table, plain) if row is BOW else None
        yield plain.case(row, table.same, says)


def _table_sizes(setting: Setting) -> dict[str, int]:
    return {"batch": 64, "length": 512} if setting.cuda else {"batch": 4, "length": 128}


class Table:
    """All rows and both ways of collating, each round through all ten in turn; ratios are of one round."""

    def __init__(self, sizes: Scale, setting: Setting) -> None:
        self.sizes, self.setting = sizes, setting
        self.rounds = 1 if setting.smoke else 5 if setting.cuda else 3
        self.texts = passages(np.full(16 * sizes.batch, sizes.length))
        self.same = cache(self._same)

    @property
    def sides(self) -> dict[tuple[str, Fed], Side]:
        return self._measured()

    def case(self, row: Row) -> Case:
        """Samples a second, ours beside the collator as released."""

        def replayed(fed: Fed) -> Callable[[], Timed]:
            rates = iter(range(10**9))
            return lambda: Timed(self.sides[row.name, fed].rates[next(rates)], 1.0)

        return Case(
            name=row.name,
            unit="samples/s",
            ours=replayed("ours"),
            peer=replayed("as released"),
            peer_name="the same steps, collated as released",
            check=partial(self.same, row),
            memory=False,
            rounds=self.rounds,
            warmups=0,
            note=f"{self.sizes.layers} layers, {self.sizes.hidden} wide, {self.at}",
            says=lambda: self._told(row),
        )

    @property
    def at(self) -> str:
        """Texts and tokens of a batch."""
        return f"{self.sizes.batch} x {self.sizes.length}"

    def degenerations(self, fed: Fed, waiting: bool = True) -> Degenerations:
        """1 - rate / rate of pure MLM, of steps alone where they are not `waiting` for data."""
        return Degenerations(*(self._degeneration(row, fed, waiting) for row in (ENHANCED, BOW)))

    def _degeneration(self, row: Row, fed: Fed, waiting: bool = True) -> float:
        pairs = zip(self._seconds(MLM, fed, waiting), self._seconds(row, fed, waiting), strict=True)
        return 1 - statistics.median(of_mlm / seconds for of_mlm, seconds in pairs)

    def _seconds(self, row: Row, fed: Fed, waiting: bool) -> list[float]:
        """Of a batch, in each round."""
        side = self.sides[row.name, fed]
        pairs = zip(side.rates, side.waits, strict=True)
        return [self.sizes.batch / rate - (0.0 if waiting else wait) for rate, wait in pairs]

    def _told(self, row: Row) -> str:
        parts = []
        for fed, what in (("as released", "collated as released"), ("ours", "collated by retrobench")):
            side = self.sides[row.name, fed]  # type: ignore[index]
            fell = 100 * self._degeneration(row, fed)  # type: ignore[arg-type]
            parts.append(
                f"{what} it degenerates by {fell:.1f} % and waits {statistics.median(side.waits):.2g} s a batch"
            )
        known = published()[row.name]
        fell = 100 * (known["degeneration"] or 0.0)  # pure MLM's is nothing by definition
        parts.append(f"published {fell:.1f} % and {known['data-s']:g} s, by {WORKERS} workers at 64 x 512")
        return "; ".join(parts)

    def _same(self, row: Row) -> str:
        """The released step's losses and gradients; of a baseline, which was not released, what its batches hold."""
        if row.plugin:
            peer = Released("", row.collator, LOSSES[row.plugin])
            return same_step(row.plugin, peer, self.sizes, self.texts, self.setting)
        texts, length = self.texts[: self.sizes.batch], self.sizes.length
        drawn, generator = random.Random(0), torch.Generator().manual_seed(0)
        return _same_batch(
            row.ours().collate(texts, VOCABULARY, length, generator),
            as_ours(row.collator(texts, VOCABULARY, length, drawn)),
        )

    @cache  # noqa: B019 - there is one table
    def _measured(self) -> dict[tuple[str, Fed], Side]:
        feds: tuple[Fed, ...] = ("as released", "ours")
        sides = {(row.name, fed): Side(row, fed, self.sizes, self.texts, self.setting) for row in ROWS for fed in feds}
        for number in range(self.rounds + (not self.setting.smoke)):
            for side in sides.values():
                side()
                if number == 0 and not self.setting.smoke:
                    side.forget()
        return sides


class Plain:
    """Steps on a batch that is there already, beside those of pure MLM."""

    def __init__(self, sizes: Scale, setting: Setting) -> None:
        self.sizes, self.setting = sizes, setting
        self.texts = passages(np.full(sizes.batch, sizes.length))

    def allowed(self, row: Row) -> float:
        """Rate over MLM's that arithmetic allows."""
        costs = (
            arithmetic.pretraining(self.sizes.shape, self.sizes.length, name, RATIO) for name in ("mlm", row.plugin)
        )
        return next(costs) / next(costs)

    def case(self, row: Row, same: Callable[[Row], str], says: Callable[[], str] | None) -> Case:
        sides = [Side(of, "no wait", self.sizes, self.texts, self.setting) for of in (row, MLM)]
        if not self.setting.cuda:
            for side in sides:
                side.steps = 1

        def told() -> str:
            pairs = zip(*(side.rates[-ROUNDS_ALONE:] for side in sides), strict=True)
            slower, bound = 1 - statistics.median(ours / mlm for ours, mlm in pairs), 1 - self.allowed(row)
            text = f"{100 * slower:.1f} % slower than pure MLM, {100 * bound:.1f} % by arithmetic"
            return f"{text}. {says()}" if says else text

        return Case(
            name=f"{row.name}, data wait removed",
            unit="samples/s",
            ours=sides[0],
            peer=sides[1],
            peer_name="pure MLM",
            check=lambda: f"pure MLM {same(MLM)}; {row.name} {same(row)}",
            allowed=self.allowed(row),
            memory=False,
            rounds=ROUNDS_ALONE,
            note=f"{self.sizes.layers} layers, {self.sizes.hidden} wide, {self.sizes.batch} x {self.sizes.length}",
            says=told,
        )


def _collating(row: Row, texts: int, length: int) -> Case:
    """Seconds a batch of one process, the masks of the decoder included."""
    batch, drawn = passages(np.full(texts, length)), random.Random(0)
    generator = torch.Generator().manual_seed(0)
    few = min(FEW, texts) if row is ENHANCED else texts
    collate = partial(collated, batch, length) if row is ENHANCED else None
    of = row.ours()

    def ours() -> float:
        _ = collate(generator) if collate else of.collate(batch, VOCABULARY, length, generator)
        return texts

    def peer() -> Timed:
        began = time.perf_counter()
        row.collator(batch[:few], VOCABULARY, length, drawn)
        return Timed(texts, (time.perf_counter() - began) * texts / few)

    return Case(
        name=f"collating for {row.name}, 64 x 512",
        unit="s a batch",
        ours=ours,
        peer=peer,
        peer_name="the released collator",
        check=lambda: _same_batch(
            of.collate(batch, VOCABULARY, length, generator),
            as_ours(row.collator(batch[:few], VOCABULARY, length, drawn)),
        ),
        kind="seconds",
        memory=False,
        rounds=3,
        note=f"the peer timed on {few} texts" if few < texts else "",
    )


def _same_batch(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str:
    """That two batches of texts of one length, of which one may hold fewer, have the same parts, masked as much."""
    texts, count = len(theirs["input_ids"]), len(ours["input_ids"])
    facts = {
        "parts": ours.keys() == theirs.keys() - {"visible"},
        "real tokens": torch.equal(ours["attention_mask"][:texts], theirs["attention_mask"]),
    }
    for name in ("masked_positions", "content_positions", "decoder_positions"):
        if name in ours:
            facts[name.replace("_", " ")] = len(ours[name]) * texts == len(theirs[name]) * count
    if wrong := [what for what, holds in facts.items() if not holds]:
        raise UnequalError(f"{', '.join(wrong)} of the batch: not the same on both sides. Nothing was timed.")
    return ", ".join(facts)


def _verdict(table: Table, plain: Plain) -> str:
    waitless = table.degenerations("as released", waiting=False)
    bounds = Degenerations(*(1 - plain.allowed(row) for row in (ENHANCED, BOW)))
    return verdict(table.degenerations("as released"), waitless, table.degenerations("ours"), bounds, table.at)
