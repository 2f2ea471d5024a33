"""The BoW paper's 67 %: the speeds measured here, and the paper's own numbers, which stand among the claims."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from retrobench.bench.feeds import WORKERS
from retrobench.bench.methods import BOW, ENHANCED, MLM, Method
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import claims
from retrobench.plan import Shape, arithmetic

__all__ = ["Degenerations", "by_arithmetic", "published", "verdict"]

TABLE = "bow/speed"
BATCH = 64  # texts of a batch in the published table
LENGTH = 512  # tokens of each
LOADER_BOUND = 0.9  # a training that runs at this share of its loader's rate waits for the loader


class Degenerations(NamedTuple):
    """Slow-downs beside pure MLM, as shares of its rate."""

    enhanced: float
    bow: float

    @property
    def points(self) -> float:
        """Their difference in percentage points."""
        return 100 * (self.enhanced - self.bow)


def by_arithmetic(shape: Shape, length: int) -> Degenerations:
    """Return the slow-downs that FLOPs alone account for, on texts of `length` tokens."""
    mlm = MLM.flops(shape, length)
    enhanced = ENHANCED.flops(shape, length)
    bow = BOW.flops(shape, length)
    return Degenerations(1 - mlm / enhanced, 1 - mlm / bow)


@cache
def published() -> dict[str, dict[str, float | None]]:
    """Return the paper's table: model -> measure -> number, None where it prints none.

    RetrobenchError without the claims.
    """
    for table in claims.read_tables():
        if table.id == TABLE:
            return _read_table(table)
    raise RetrobenchError(f"No claims hold the table {TABLE}. Run this where leaderboards/other/claims.toml is found.")


def _read_table(table: claims.ClaimedTable) -> dict[str, dict[str, float | None]]:
    numbers: dict[str, dict[str, float | None]] = {}
    for excerpt in table.excerpts:
        for system in excerpt.systems:
            numbers[system.model] = {cell.column.measure: cell.published for cell in system.cells}
    return numbers


def verdict(
    released: Degenerations, waitless: Degenerations, ours: Degenerations, bounds: Degenerations, sizes: str
) -> str:
    """Return a sentence about the bound of the published rate, and the slow-downs measured here on batches of `sizes`.

    `released` is measured collating as released, `waitless` without its wait for data, `ours` collating as retrobench
    does; `bounds` is computed by arithmetic.
    """
    printed = Degenerations(_number(ENHANCED, "degeneration"), _number(BOW, "degeneration"))
    rate = _number(ENHANCED, "samples/s")
    ceiling = WORKERS * BATCH / _number(ENHANCED, "data-s")
    bert_base = by_arithmetic(arithmetic.BERT_BASE, LENGTH)
    conclusion = "is not explained by the data loader"
    if rate >= LOADER_BOUND * ceiling:
        conclusion = "measures a data loader, not an objective"
    return (
        f"The published 67 % is the difference of two slow-downs, {100 * printed.enhanced:.1f} % - "
        f"{100 * printed.bow:.1f} % = {printed.points:.0f} points; its enhanced decoding ran at {rate:.1f} samples/s, "
        f"{100 * rate / ceiling:.0f} % of the {ceiling:.1f} that {WORKERS} workers can make at the published time a "
        f"batch, while arithmetic accounts for {bert_base.points:.0f} points (BERT-base, {LENGTH} tokens), "
        f"so it {conclusion}; "
        f"here, at {sizes}, the difference is {released.points:.0f} points collating as released, "
        f"{waitless.points:.0f} with the wait for data taken out, {ours.points:.0f} collating as retrobench does, and "
        f"{bounds.points:.0f} by arithmetic."
    )


def _number(method: Method, measure: str) -> float:
    """Return a number of the paper's table."""
    number = published()[method.name][measure]
    if number is None:
        raise RetrobenchError(f"The claims of {TABLE} print no {measure} of {method.name}. Restore the cell.")
    return number
