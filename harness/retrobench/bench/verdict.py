"""What measured speeds say of the BoW paper's 67 %, beside its own numbers, which stand among the claims."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from retrobench import arithmetic
from retrobench.bench.feeds import WORKERS
from retrobench.claims import claims
from retrobench.errors import RetrobenchError

__all__ = ["Degenerations", "published", "verdict"]

TABLE = "bow/speed"
BATCH, LENGTH, MASK_RATIO = 64, 512, 0.3  # of the published table, and of the released recipe


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
    found = next((table for table in claims() if table.id == TABLE), None)
    if found is None:
        raise RetrobenchError(
            f"No claims hold the table {TABLE}. Run this where leaderboards/other/claims.toml is found."
        )
    rows = [row for part in found.parts for row in part.systems]
    return {row.model: {cell.column.measure: cell.published for cell in row.cells} for row in rows}


def verdict(released: Degenerations, ours: Degenerations, bare: Degenerations, bounds: Degenerations) -> str:
    """One sentence, of what is measured: collating as released, as here, without a wait; and what arithmetic allows."""
    table = published()
    printed = Degenerations(*(table[name]["degeneration"] or 0.0 for name in ("Enhanced Decoding", "BoW")))
    ceiling = WORKERS * BATCH / (table["Enhanced Decoding"]["data-s"] or float("nan"))
    costs = [
        arithmetic.pretraining(arithmetic.BERT_BASE, LENGTH, name, MASK_RATIO)
        for name in ("mlm", "retromae", "bow-mae")
    ]
    base = Degenerations(*(1 - costs[0] / cost for cost in costs[1:]))
    shares = ", ".join(
        f"{of.points:.0f} {where}"
        for where, of in (
            ("collating as released", released),
            ("collating as retrobench does", ours),
            ("with the wait for data removed", bare),
            ("by arithmetic", bounds),
        )
    )
    return (
        f"The published 67 % is the difference of two slow-downs, {100 * printed.enhanced:.1f} % - "
        f"{100 * printed.bow:.1f} % = {printed.points:.0f} points, under a collator with which {WORKERS} workers make "
        f"at most {ceiling:.1f} samples/s, while the arithmetic of BERT-base at {LENGTH} tokens accounts for "
        f"{base.points:.0f} points; here the difference is {shares}: so the 67 % measures a data loader, and of the "
        "objective itself no more than what is left without its wait."
    )
