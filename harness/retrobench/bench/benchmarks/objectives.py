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
from itertools import count

import numpy as np
import torch

from retrobench.bench.benchmarks.collation import collator_case, require_equal_batches
from retrobench.bench.benchmarks.pretraining import compare_steps
from retrobench.bench.feeds import WORKERS, convert_batch
from retrobench.bench.frame import Case, Timed
from retrobench.bench.loops import FedSteps, Feeding
from retrobench.bench.methods import BOW, ENHANCED, METHODS, MLM, Method
from retrobench.bench.models import Scale, Workload, default_scale
from retrobench.bench.setting import Setting
from retrobench.bench.texts import VOCABULARY
from retrobench.bench.verdict import Degenerations, by_arithmetic, published, verdict

__all__ = ["SpeedTable", "cases"]

ROUNDS_ALONE = 5
WARMUPS_ALONE = 1
FEEDINGS: tuple[Feeding, Feeding] = ("as released", "ours")


def cases(setting: Setting) -> Iterator[Case]:
    """Yield the table's rows, the collators alone, and the slow-downs without a wait; the last case has the verdict."""
    smoke = default_scale(setting)
    cpu = replace(smoke, batch=4, length=128)
    cuda = replace(smoke, batch=64, length=512)
    table = SpeedTable(setting.choose(smoke=smoke, cpu=cpu, cuda=cuda), setting)
    if setting.released_feed:
        yield from _released_cases(table)
    alone = setting.choose(smoke=smoke, cpu=replace(cpu, batch=16), cuda=cuda)
    yield _StepsAlone(ENHANCED, alone, table).case()
    steps = _StepsAlone(BOW, alone, table)
    case = steps.case()
    if setting.released_feed:
        case = replace(case, interpret=steps.report_with_verdict)
    yield case


def _released_cases(table: SpeedTable) -> Iterator[Case]:
    """Yield the table's rows, and the collators alone."""
    for method in METHODS:
        yield table.case(method)
    texts, length = 64, 512
    if table.setting.smoke:
        texts, length = 8, 64
    for method in METHODS:
        case = collator_case(method, texts, length)
        name = f"collating for {method.name}, 64 x 512"
        yield replace(case, name=name, unit="s a batch", kind="seconds", rounds=3)


class SpeedTable:
    """All methods, each collated in both ways. A round runs all ten sides in turn; a ratio compares a single round."""

    def __init__(self, sizes: Scale, setting: Setting) -> None:
        self.sizes = sizes
        self.setting = setting
        self.rounds = setting.count_rounds(5 if setting.cuda else 3)
        self.work = Workload.of_full_texts(setting, sizes, batches=16)
        self.compare = cache(self._compare)

    @cached_property
    def sides(self) -> dict[tuple[str, Feeding], FedSteps]:
        """All sides, measured when first needed."""
        steps = self.setting.choose(smoke=2, cpu=2, cuda=8)
        sides = {}
        for method in METHODS:
            for feeding in FEEDINGS:
                sides[method.name, feeding] = FedSteps(method, feeding, self.work, steps)
        if not self.setting.smoke:  # a warm-up
            for side in sides.values():
                side()
                side.forget()
        for number in range(self.rounds):
            if number and self.setting.is_over():
                self.rounds = number
                break
            for side in sides.values():
                side()
        return sides

    def case(self, method: Method) -> Case:
        """Return samples a second, ours beside the collator as released."""
        return Case(
            name=method.name,
            unit="samples/s",
            ours=self._replay(method, "ours"),
            peer=self._replay(method, "as released"),
            peer_name="the same steps, collated as released",
            check=partial(self.compare, method),
            memory=False,
            rounds=self.rounds,
            warmups=0,
            note=f"{self.sizes.model_text}, {self.sizes.batch_text}",
            interpret=partial(self._report, method),
        )

    def verdict(self, alone: Scale) -> str:
        """Return the verdict; arithmetic is that of batches of `alone`."""
        return verdict(
            released=self._degenerations("as released"),
            waitless=self._degenerations("as released", waiting=False),
            ours=self._degenerations("ours"),
            bounds=by_arithmetic(alone.shape, alone.length),
            sizes=self.sizes.batch_text,
        )

    def _replay(self, method: Method, feeding: Feeding) -> Callable[[], Timed]:
        """Return a side that repeats the rates already measured, a round each."""
        rounds = count()

        def replay() -> Timed:
            rates = self.sides[method.name, feeding].rates
            return Timed(rates[next(rounds) % len(rates)], 1.0)  # a deadline may have cut the rounds short

        return replay

    def _degenerations(self, feeding: Feeding, waiting: bool = True) -> Degenerations:
        """Return the slow-downs; unless `waiting`, of steps alone, without their wait for data."""
        enhanced = self._degeneration(ENHANCED, feeding, waiting)
        bow = self._degeneration(BOW, feeding, waiting)
        return Degenerations(enhanced, bow)

    def _degeneration(self, method: Method, feeding: Feeding, waiting: bool = True) -> float:
        mlm_seconds = self._seconds(MLM, feeding, waiting)
        seconds = self._seconds(method, feeding, waiting)
        return _slow_down(mlm_seconds / seconds)

    def _seconds(self, method: Method, feeding: Feeding, waiting: bool) -> np.ndarray:
        """Return the seconds of a batch in each round."""
        side = self.sides[method.name, feeding]
        seconds: np.ndarray = self.sizes.batch / np.array(side.rates)
        if not waiting:
            seconds -= np.array(side.waits)
        return seconds

    def _report(self, method: Method) -> str:
        numbers = published()[method.name]
        degeneration = 100 * (numbers["degeneration"] or 0.0)  # pure MLM's is 0 by definition
        return (
            f"collated as released {self._describe(method, 'as released')}; "
            f"collated by retrobench {self._describe(method, 'ours')}; "
            f"published {degeneration:.1f} % and {numbers['data-s']:g} s, by {WORKERS} workers at 64 x 512"
        )

    def _describe(self, method: Method, feeding: Feeding) -> str:
        side = self.sides[method.name, feeding]
        degeneration = 100 * self._degeneration(method, feeding)
        wait = statistics.median(side.waits)
        return f"it degenerates by {degeneration:.1f} % and waits {wait:.2g} s a batch"

    def _compare(self, method: Method) -> str:
        """Compare with the released step; a baseline has none, so its batches are compared."""
        if method.loss:
            return compare_steps(method, self.work)
        texts = self.work.texts[: self.sizes.batch]
        length = self.sizes.length
        generator = torch.Generator().manual_seed(0)
        ours = method.objective().collate(texts, VOCABULARY, length, generator)
        released = method.collator(texts, VOCABULARY, length, random.Random(0))
        return require_equal_batches(ours, convert_batch(released))


class _StepsAlone:
    """Steps on a batch collated beforehand, beside the steps of pure MLM."""

    def __init__(self, method: Method, sizes: Scale, table: SpeedTable) -> None:
        self.method = method
        self.sizes = sizes
        self.table = table
        setting = table.setting
        work = Workload.of_full_texts(setting, sizes, batches=1)
        steps = setting.choose(smoke=1, cpu=1, cuda=8)
        self.ours = FedSteps(method, "no wait", work, steps)
        self.mlm = FedSteps(MLM, "no wait", work, steps)
        mlm_flops = MLM.flops(sizes.shape, sizes.length)
        self.allowed = mlm_flops / method.flops(sizes.shape, sizes.length)

    def case(self) -> Case:
        return Case(
            name=f"{self.method.name}, data wait removed",
            unit="samples/s",
            ours=self.ours,
            peer=self.mlm,
            peer_name="pure MLM",
            check=self.compare,
            allowed=self.allowed,
            memory=False,
            rounds=ROUNDS_ALONE,
            warmups=WARMUPS_ALONE,
            note=f"{self.sizes.model_text}, {self.sizes.batch_text}",
            interpret=self.report,
        )

    def compare(self) -> str:
        mlm_report = self.table.compare(MLM)
        report = self.table.compare(self.method)
        return f"pure MLM {mlm_report}; {self.method.name} {report}"

    def report(self) -> str:
        """Return the slow-down of the timed rounds, warm-ups left out, and that by arithmetic."""
        warmups = 0 if self.table.setting.smoke else WARMUPS_ALONE
        our_rates = np.array(self.ours.rates[warmups:])
        mlm_rates = np.array(self.mlm.rates[warmups:])
        measured = 100 * _slow_down(our_rates / mlm_rates)
        expected = 100 * (1 - self.allowed)
        return f"{measured:.1f} % slower than pure MLM, {expected:.1f} % by arithmetic"

    def report_with_verdict(self) -> str:
        return f"{self.report()}. {self.table.verdict(self.sizes)}"


def _slow_down(ratios: np.ndarray) -> float:
    """Return the median slow-down of the rounds' ratios to pure MLM's rate."""
    return 1 - float(np.median(ratios))
