"""What measured speeds say of the BoW paper's 67 %, beside its own numbers, which stand among the claims."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from retrobench.bench.feeds import WORKERS
from retrobench.bench.peers.collators import RATIO
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import claims
from retrobench.plan import arithmetic

__all__ = ["Degenerations", "published", "verdict"]

TABLE = "bow/speed"
BATCH, LENGTH = 64, 512  # of the published table
LOADS = 0.9  # a training that runs at this share of what its loader can make waits for the loader


class Degenerations(NamedTuple):
    """How much slower than pure MLM, as shares of its rate."""

    enhanced: float
    bow: float

    @property
    def points(self) -> float:
        return 100 * (self.enhanced - self.bow)


@cache
def published() -> dict[str, dict[str, float | None]]:
    """The paper's table: model -> measure -> number, None where it prints none. RetrobenchError without the claims."""
    found = next((table for table in claims.claims() if table.id == TABLE), None)
    if found is None:
        raise RetrobenchError(
            f"No claims hold the table {TABLE}. Run this where leaderboards/other/claims.toml is found."
        )
    rows = [row for part in found.parts for row in part.systems]
    return {row.model: {cell.column.measure: cell.published for cell in row.cells} for row in rows}


def verdict(
    released: Degenerations, waitless: Degenerations, ours: Degenerations, bounds: Degenerations, sizes: str
) -> str:
    """One sentence: what bounds the published rate, and what was measured here on batches of `sizes`.

    Measured are the slow-downs collating as released, the same with the wait for data taken out, and collating as here;
    `bounds` are those that arithmetic allows.
    """
    printed = Degenerations(*(_number(name, "degeneration") for name in ("Enhanced Decoding", "BoW")))
    rate = _number("Enhanced Decoding", "samples/s")
    ceiling = WORKERS * BATCH / _number("Enhanced Decoding", "data-s")
    costs = [
        arithmetic.pretraining(arithmetic.BERT_BASE, LENGTH, name, RATIO) for name in ("mlm", "retromae", "bow-mae")
    ]
    base = Degenerations(*(1 - costs[0] / cost for cost in costs[1:]))
    loads = rate >= LOADS * ceiling
    means = "measures a data loader, not an objective" if loads else "is not explained by the data loader"
    published_says = (
        f"The published 67 % is the difference of two slow-downs, {100 * printed.enhanced:.1f} % - "
        f"{100 * printed.bow:.1f} % = {printed.points:.0f} points; its enhanced decoding ran at {rate:.1f} samples/s, "
        f"{100 * rate / ceiling:.0f} % of the {ceiling:.1f} that {WORKERS} workers can make at the published time a "
        f"batch, while arithmetic accounts for {base.points:.0f} points (BERT-base, {LENGTH} tokens), so it {means}"
    )
    return (
        f"{published_says}; here, at {sizes}, the difference is {released.points:.0f} points collating as released, "
        f"{waitless.points:.0f} with the wait for data taken out, {ours.points:.0f} collating as retrobench does, and "
        f"{bounds.points:.0f} by arithmetic."
    )


def _number(model: str, measure: str) -> float:
    found = published()[model][measure]
    if found is None:
        raise RetrobenchError(f"The claims of {TABLE} print no {measure} of {model}. Restore the cell.")
    return found
