"""
How far a first, fast score may lie from the canonical one, proved; exact search rests on nothing else.

Let |a - c| <= s for the first score a and the canonical score c of every document of a query, and let t be the k-th
largest a so far. At least k documents have c >= t - s, so a document among the best k, ties at the cut included, has
c >= t - s and hence a >= t - 2s. What lies below this bar can be forgotten; the rest is scored again, canonically.

s may be that of the worst document so far. Where a worse one comes, with s' > s, it may be among the best with
a >= t - s - s' already: a bar that stands is lowered by s' - s before it is looked at (`lowered`).

s for scores of rounded vectors: with d' = d - m + e rounded from the document less a centre m (which moves all scores
of a query alike), and q' = q + f, the product q'.d' differs from q.d - q.m by at most |q||e| + |f||d'|, and the sum
computed from it by at most g|q'||d'| (Higham, Accuracy and Stability, section 3.1). The norms of e and f are measured,
not assumed. Rounding the sum to bfloat16 is monotone, so its share ("unit", 2^-8 of the score) is taken at the bar.
"""

from __future__ import annotations

from typing import Any

__all__ = ["UNIT", "Asked", "dense_slack", "lowered", "sparse_slack"]

UNIT = 2.0**-8  # bfloat16's rounding, relative
_TINY = 2.0**-126  # what is smaller may count as zero
# Norms are summed in 32 bits: a sum of a million squares is off by less than this share.
ROOM = 1 + 2.0**-9


class Asked:
    """What the bounds need of queries [q, d], the same `rounded`, and the `centre` [d]: float64 arrays or tensors."""

    def __init__(self, dense: Any, rounded: Any = None, centre: Any = None) -> None:
        self.norms = _norm(dense)
        self.lost: Any = 0.0 if rounded is None else _norm(dense - rounded)
        self.shifts: Any = 0.0 if centre is None else (dense * centre).sum(1)
        self.centre: Any = 0.0 if centre is None else _norm(centre[None])[0]


def _norm(rows: Any) -> Any:
    return (rows * rows).sum(1) ** 0.5


def lowered(bars: Any, before: Any, slacks: Any, unit: float) -> Any:
    """Bars [q] that were raised under the slacks `before`, for documents of these."""
    more = slacks - before
    return bars - more * (more > 0) / (1 - unit)


def dense_slack(asked: Asked, width: int, lost: Any, longest: Any, accuracy: int = 2) -> Any:
    """s of each query, [q], for documents of which the rounded ones are at most `longest` and their loss `lost`.

    `accuracy` is how many units of 2^-24 an addition may be off: 2 covers fused and plain rounding, 4 truncation.
    """
    norms, longest, lost = asked.norms * ROOM, longest * ROOM, lost * ROOM
    rounded = norms * (lost + longest * 2.0**-24) + asked.lost * longest
    summed = accuracy * (width + 16) * 2.0**-24 * (norms + asked.lost) * longest
    whole = 2.0**-21 * norms * (longest + lost + asked.centre)  # the canonical score as float32, shifted and not
    return rounded + summed + whole + width * _TINY * (1 + norms + longest + asked.centre)


def sparse_slack(norms: Any, longest: float, entries: int, scale: float) -> Any:
    """What sparse parts add to s: queries' norms [q], the longest row and the most entries of one, in 32 bits."""
    size = abs(scale) * norms * longest * ROOM
    return 2 * (entries + 32) * 2.0**-24 * size + entries * _TINY * (1 + abs(scale)) * (1 + norms + longest)
