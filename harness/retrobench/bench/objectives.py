"""
The BoW paper's table of speed, measured twice: collating as released, and as retrobench does.

The steps are retrobench's own in both, so that only the wait for data differs. Texts have one length, as in the paper.
A batch holds 64 of 512 tokens for BERT-base on a GPU, 4 of 128 for the small model on a CPU. There the collators are
timed at 64 x 512 by themselves.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, cached_property, partial

import torch

from retrobench.bench.collation import collator_case, same_parts
from retrobench.bench.feeds import WORKERS, as_ours
from retrobench.bench.frame import Case, Setting, Timed
from retrobench.bench.loops import Fed, FedSteps
from retrobench.bench.methods import BOW, ENHANCED, METHODS, MLM, Method
from retrobench.bench.models import Scale, Workload, scale
from retrobench.bench.pretraining import same_step
from retrobench.bench.texts import VOCABULARY
from retrobench.bench.verdict import Degenerations, by_arithmetic, published, verdict

__all__ = ["Table", "cases"]

ROUNDS_ALONE = 5


def cases(setting: Setting) -> Iterator[Case]:
    """Yield the table's rows, the collators alone, and the slow-downs without a wait; the last one has the verdict."""
    sizes = scale(setting)
    full = replace(sizes, batch=64, length=512)
    table = Table(setting.choose(smoke=sizes, cpu=replace(sizes, batch=4, length=128), cuda=full), setting)
    for method in METHODS:
        yield table.case(method)
    texts, length = (8, 64) if setting.smoke else (64, 512)
    for method in METHODS:
        case = collator_case(method, texts, length)
        yield replace(case, name=f"collating for {method.name}, 64 x 512", unit="s a batch", kind="seconds", rounds=3)
    alone = setting.choose(smoke=sizes, cpu=replace(sizes, batch=16, length=128), cuda=full)
    yield _without_wait(ENHANCED, alone, setting, table, lambda: "")
    yield _without_wait(BOW, alone, setting, table, lambda: f". {table.verdict(alone)}")


class Table:
    """All methods and both ways of collating, each round through all ten in turn; ratios are of one round."""

    def __init__(self, sizes: Scale, setting: Setting) -> None:
        self.sizes, self.setting = sizes, setting
        self.rounds = setting.choose(smoke=1, cpu=3, cuda=5)
        self.work = Workload.of_full_texts(setting, sizes, batches=16)
        self.same = cache(self._same)

    @cached_property
    def sides(self) -> dict[tuple[str, Fed], FedSteps]:
        """All sides, measured when first needed."""
        steps = self.setting.choose(smoke=2, cpu=2, cuda=8)
        feds: tuple[Fed, Fed] = ("as released", "ours")
        sides = {}
        for method in METHODS:
            for fed in feds:
                sides[method.name, fed] = FedSteps(method, fed, self.work, steps)
        if not self.setting.smoke:  # a warm-up
            for side in sides.values():
                side()
                side.forget()
        for _ in range(self.rounds):
            for side in sides.values():
                side()
        return sides

    def case(self, method: Method) -> Case:
        """Return samples a second, ours beside the collator as released."""
        return Case(
            name=method.name,
            unit="samples/s",
            ours=self._replayed(method, "ours"),
            peer=self._replayed(method, "as released"),
            peer_name="the same steps, collated as released",
            check=partial(self.same, method),
            memory=False,
            rounds=self.rounds,
            warmups=0,
            note=f"{self.sizes.model_text}, {self.sizes.batch_text}",
            says=partial(self._report, method),
        )

    def verdict(self, alone: Scale) -> str:
        """Return the verdict; arithmetic is that of batches of `alone`."""
        return verdict(
            self._degenerations("as released"),
            self._degenerations("as released", waiting=False),
            self._degenerations("ours"),
            by_arithmetic(alone.shape, alone.length),
            self.sizes.batch_text,
        )

    def _replayed(self, method: Method, fed: Fed) -> Callable[[], Timed]:
        """Return a side that repeats the rates already measured, a round each."""
        rounds = iter(range(self.rounds))
        return lambda: Timed(self.sides[method.name, fed].rates[next(rounds)], 1.0)

    def _degenerations(self, fed: Fed, waiting: bool = True) -> Degenerations:
        """Return the slow-downs; unless `waiting`, of steps alone, without their wait for data."""
        return Degenerations(self._degeneration(ENHANCED, fed, waiting), self._degeneration(BOW, fed, waiting))

    def _degeneration(self, method: Method, fed: Fed, waiting: bool = True) -> float:
        pairs = zip(self._seconds(MLM, fed, waiting), self._seconds(method, fed, waiting), strict=True)
        return 1 - statistics.median(mlm / seconds for mlm, seconds in pairs)

    def _seconds(self, method: Method, fed: Fed, waiting: bool) -> list[float]:
        """Return the seconds of a batch in each round."""
        side = self.sides[method.name, fed]
        seconds = [self.sizes.batch / rate for rate in side.rates]
        if waiting:
            return seconds
        return [total - wait for total, wait in zip(seconds, side.waits, strict=True)]

    def _report(self, method: Method) -> str:
        known = published()[method.name]
        fell = 100 * (known["degeneration"] or 0.0)  # pure MLM's is 0 by definition
        return (
            f"collated as released {self._slowed(method, 'as released')}; "
            f"collated by retrobench {self._slowed(method, 'ours')}; "
            f"published {fell:.1f} % and {known['data-s']:g} s, by {WORKERS} workers at 64 x 512"
        )

    def _slowed(self, method: Method, fed: Fed) -> str:
        wait = statistics.median(self.sides[method.name, fed].waits)
        return f"it degenerates by {100 * self._degeneration(method, fed):.1f} % and waits {wait:.2g} s a batch"

    def _same(self, method: Method) -> str:
        """Compare with the released step; of a baseline, which has none, compare the batches."""
        if method.loss:
            return same_step(method, self.work)
        texts, length = self.work.texts[: self.sizes.batch], self.sizes.length
        draw, generator = random.Random(0), torch.Generator().manual_seed(0)
        return same_parts(
            method.objective().collate(texts, VOCABULARY, length, generator),
            as_ours(method.collator(texts, VOCABULARY, length, draw)),
        )


def _without_wait(method: Method, sizes: Scale, setting: Setting, table: Table, behind: Callable[[], str]) -> Case:
    """Return steps on a batch collated beforehand, beside those of pure MLM; `behind` ends the report."""
    work, steps = Workload.of_full_texts(setting, sizes, batches=1), setting.choose(smoke=1, cpu=1, cuda=8)
    ours, mlm = FedSteps(method, "no wait", work, steps), FedSteps(MLM, "no wait", work, steps)
    allowed = MLM.flops(sizes.shape, sizes.length) / method.flops(sizes.shape, sizes.length)

    def report() -> str:
        rates = zip(ours.rates[-ROUNDS_ALONE:], mlm.rates[-ROUNDS_ALONE:], strict=True)
        slower = 1 - statistics.median(rate / rate_of_mlm for rate, rate_of_mlm in rates)
        return f"{100 * slower:.1f} % slower than pure MLM, {100 * (1 - allowed):.1f} % by arithmetic{behind()}"

    return Case(
        name=f"{method.name}, data wait removed",
        unit="samples/s",
        ours=ours,
        peer=mlm,
        peer_name="pure MLM",
        check=lambda: f"pure MLM {table.same(MLM)}; {method.name} {table.same(method)}",
        allowed=allowed,
        memory=False,
        rounds=ROUNDS_ALONE,
        note=f"{sizes.model_text}, {sizes.batch_text}",
        says=report,
    )
