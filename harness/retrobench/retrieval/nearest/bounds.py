"""
The bound on the distance between a first, fast score and the canonical score, with its proof. Exact search rests on it.

Let c be the canonical score and a the first score of a query and a document, with |a - c| <= s for all documents of the
query. Let t be the k-th largest a so far. Then at least k documents have c >= t - s. So a document among the best k,
ties at the cut included, has c >= t - s, and hence a >= t - 2s. This is the threshold (`first_threshold`): candidates
below it are dropped, the others are scored again, canonically. Where t is a k-th largest canonical score, the same
argument gives a >= t - s (`canonical_threshold`).

s may be the error of the worst document so far. When a worse document comes, with s' > s, it may be among the best k
from a >= t - s - s' on. So a threshold is loosened by s' - s before documents are compared with it (`loosened`).

s for scores of rounded vectors: let m be the centre of the documents, d' = d - m + e the rounded document, and
q' = q + f the rounded query. Subtracting m moves all scores of a query by the same q.m, its shift. The product q'.d'
differs from q.d - q.m by at most |q||e| + |f||d'|. The computed sum differs from q'.d' by at most g|q'||d'| (Higham,
Accuracy and Stability of Numerical Algorithms, section 3.1). The norms of e and f are measured, not assumed. Rounding
the sum to bfloat16 is monotone, so its share (`UNIT`, 2^-8 of the score) is taken from the threshold.

Numbers in int8 have a unit for each vector, so |e| differs much between documents. Let s' <= s be the error of one
document. Its first score may be lowered by a penalty p <= s - s': a - p is still off by at most s, because
c <= a + s' <= (a - p) + s. So a document with a small error needs a higher score than the worst one to be a candidate.
p is |q|(L - |e|) + r|q|(M - |d'|), where L and M are the largest |e| and |d'|, and r is at most |f|/|q|. It is no more
than the difference of the terms |q||e| + |f||d'|.

All functions take NumPy arrays or tensors of float64.
"""

from __future__ import annotations

from typing import Any

from retrobench.retrieval.nearest.scanning import ErrorBound

__all__ = [
    "UNIT",
    "ErrorBound",
    "QueryBounds",
    "canonical_threshold",
    "dense_error",
    "first_threshold",
    "loosened",
    "sparse_error",
]

UNIT = 2.0**-8  # bfloat16's rounding, relative
_TINY = 2.0**-126  # a smaller number may count as zero
_FAINT = 2.0**-63  # so may the square of a smaller number
# Norms are summed in 32 bits: a sum of a million squares is off by less than this share.
_NORM_ROOM = 1 + 2.0**-9


class QueryBounds:
    """The terms of the bound that depend on queries [q, d], their rounded copy [q, d] and the centre [d] alone."""

    def __init__(self, dense: Any, rounded: Any = None, centre: Any = None) -> None:
        self.norms = _norms(dense)
        self.lost: Any = 0.0
        self.shifts: Any = 0.0
        self.centre: Any = 0.0
        if rounded is not None:
            self.lost = _norms(dense - rounded)
        if centre is not None:
            self.shifts = (dense * centre).sum(1)
            self.centre = _norms(centre[None])[0]


def _norms(rows: Any) -> Any:
    return (rows * rows).sum(1) ** 0.5


def first_threshold(kth: Any, bound: ErrorBound) -> Any:
    """Return the thresholds [q] of queries whose k-th largest first scores, shifted, are `kth` [q]."""
    scores = kth - bound.shifts
    lower = scores - bound.unit * abs(scores) - 2 * bound.errors
    return _before_rounding(lower, bound.unit) + bound.shifts


def canonical_threshold(kth: Any, bound: ErrorBound) -> Any:
    """Return the thresholds [q] of queries whose k-th largest canonical scores are `kth` [q]."""
    return _before_rounding(kth - bound.shifts - bound.errors, bound.unit) + bound.shifts


def loosened(thresholds: Any, earlier: ErrorBound, bound: ErrorBound) -> Any:
    """Return thresholds [q] that were raised under the bound `earlier`, for documents of the bound `bound`."""
    increase = bound.errors - earlier.errors
    return thresholds - increase * (increase > 0) / (1 - bound.unit)


def _before_rounding(lower: Any, unit: float) -> Any:
    """Return the least first scores that rounding may have moved from `lower`."""
    sign = (lower > 0) * 2.0 - 1.0
    return lower / (1 + unit * sign)


def dense_error(queries: QueryBounds, width: int, lost: Any, longest: Any, accuracy: int = 2) -> Any:
    """Return s [q] for documents whose rounded norm is at most `longest` and whose rounding error at most `lost`.

    `accuracy` is the error of one addition in units of 2^-24: 2 covers fused and plain rounding, 4 truncation.
    """
    norms = queries.norms * _NORM_ROOM
    longest = longest * _NORM_ROOM + width * _FAINT
    lost = lost * _NORM_ROOM + width * _FAINT
    rounded = norms * (lost + longest * 2.0**-23) + queries.lost * longest  # e itself is measured in 32 bits
    summed = accuracy * (width + 16) * 2.0**-24 * (norms + queries.lost) * longest
    shifted = 2.0**-21 * norms * (longest + lost + queries.centre)  # canonical and shifted scores are float32
    underflow = width * _TINY * (1 + norms + longest + queries.centre)
    return rounded + summed + shifted + underflow


def sparse_error(norms: Any, longest: float, entries: int, scale: float) -> Any:
    """Return the share of the sparse parts in s [q], in 32 bits, from the norms [q] of the queries.

    `longest` is the largest norm of a document and `entries` the most entries of one.
    """
    size = abs(scale) * norms * longest * _NORM_ROOM
    summed = 2 * (entries + 32) * 2.0**-24 * size
    underflow = entries * _TINY * (1 + abs(scale)) * (1 + norms + longest)
    return summed + underflow
