"""
The compiled loops of `NumbaBuffer`: compare first scores with thresholds, and arrange the candidates.

* scan       collect the candidates of a block of first scores
* promote    choose the candidates that get canonical scores first
* discard    raise thresholds by canonical scores, and drop the candidates below them

The records that these loops read stand in this file, because numba's cache on disk watches only the file of a loop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from retrobench.core import jit

__all__ = ["CandidateArrays", "ErrorBound", "FirstScores", "discard", "first_threshold", "promote", "scan"]

CHUNK = 1024  # scores compared together
WORD = 8  # flags read together
BINS = 2048  # of the histogram that estimates the k-th largest value
LOWEST = -3e38  # below every first score, and finite


class ErrorBound(NamedTuple):
    """How far the first scores of q queries may lie from the canonical scores: see `bounds`. Arrays or tensors.

    A first score plus its query's shift is off by at most the query's error, and by `unit` of the first score. The
    compiled loops are for first scores whose `unit` is 0.
    """

    shifts: Any  # [q] float64: product of the query with the centre of the documents
    errors: Any  # [q] float64
    unit: float  # relative

    def select(self, queries: Any) -> ErrorBound:
        """Return the bound of some of the queries."""
        return ErrorBound(self.shifts[queries], self.errors[queries], self.unit)


class CandidateArrays(NamedTuple):
    """The candidates of q queries, each with room for c of them. Arrays or tensors."""

    rows: Any  # [q, c] int32
    values: Any  # [q, c] float32: canonical scores of the settled candidates, shifted first scores of the others
    counts: Any  # [q] int64
    settled: Any  # [q] int64: the leading candidates that have canonical scores
    thresholds: Any  # [q] float64: documents whose value is lower are not among the best


class FirstScores(NamedTuple):
    """First scores of q queries and a block of n documents.

    The score of a pair is (numbers * unit of the document - penalty of the document * weight of the query) * unit of
    the query. `bounds` says why a document whose rounding lost less than another's gets a smaller penalty.
    """

    numbers: np.ndarray  # [q, n] float32, or int32: products of rounded vectors
    units: np.ndarray  # [n] float32
    penalties: np.ndarray  # [n] float32
    query_units: np.ndarray  # [q] float32
    weights: np.ndarray  # [q] float32

    @classmethod
    def plain(cls, scores: np.ndarray) -> FirstScores:
        """Return float32 scores [q, n] as they are."""
        queries, documents = scores.shape
        ones = np.ones(max(queries, documents), np.float32)
        zeros = np.zeros_like(ones)
        return cls(scores, ones[:documents], zeros[:documents], ones[:queries], zeros[:queries])


@jit
def scan(
    block: FirstScores,
    first_row: int,
    positions: np.ndarray,
    candidates: CandidateArrays,
    depth: int,
    bound: ErrorBound,
    begin: int,
    end: int,
) -> None:
    """Collect the documents that reach the thresholds of the queries from `begin` to `end`.

    `first_row` is the row of the block's first document. Start at `positions` [q] and store the position reached. It is
    less than n where the threshold of a query leaves more than three quarters of its room taken. The caller settles
    such a query and calls again.
    """
    documents = block.numbers.shape[1]
    scores = np.empty(CHUNK, np.float32)
    flags = np.zeros(CHUNK, np.uint8)
    bins = np.zeros(BINS, np.int64)
    for query in range(begin, end):
        numbers = block.numbers[query]
        position = positions[query]
        shift = bound.shifts[query]
        unit = np.float64(block.query_units[query])
        weight = block.weights[query]
        rows = candidates.rows[query]
        values = candidates.values[query]
        room = len(rows)
        edge = _edge(candidates.thresholds[query], shift, unit)
        while position < documents:
            stop = min(position + CHUNK, documents)
            units = block.units[position:stop]
            penalties = block.penalties[position:stop]
            _compare(numbers[position:stop], units, penalties, weight, edge, scores, flags)
            earlier = candidates.counts[query]
            count, columns = _append(scores, flags, first_row + position, rows, values, earlier)
            for candidate in range(earlier, count):
                values[candidate] = np.float64(values[candidate]) * unit + shift
            candidates.counts[query] = count
            position = min(position + columns, documents)
            if columns < CHUNK:
                kth = _nearly_kth(values[:count], depth, bins)
                raised = _raised(candidates, query, kth, bound)
                _drop_below(candidates, query, raised, raised)
                edge = _edge(candidates.thresholds[query], shift, unit)
                if candidates.counts[query] > room - room // 4:
                    break
        positions[query] = position


@jit
def _edge(threshold: float, shift: float, unit: float) -> np.float32:
    """Return a number just below a threshold, in units of the query and without its shift."""
    lowest = np.float32(max(LOWEST, (threshold - shift) / unit))
    edge: np.float32 = np.nextafter(lowest, np.float32(-np.inf))
    return edge


@jit
def _compare(
    numbers: np.ndarray,
    units: np.ndarray,
    penalties: np.ndarray,
    weight: np.float32,
    edge: np.float32,
    scores: np.ndarray,
    flags: np.ndarray,
) -> None:
    """Write the scores of at most CHUNK documents, and flag those that reach the edge."""
    if len(numbers) < CHUNK:
        flags[:] = 0
    for column in range(len(numbers)):
        scores[column] = np.float32(numbers[column]) * units[column] - weight * penalties[column]
    for column in range(len(numbers)):
        flags[column] = scores[column] >= edge


@jit
def _append(
    scores: np.ndarray, flags: np.ndarray, first_row: int, rows: np.ndarray, values: np.ndarray, count: int
) -> tuple[int, int]:
    """Append the flagged documents of a chunk to `count` candidates. Return the new count and the columns done.

    They are fewer than CHUNK where no room is left.
    """
    words = flags.view(np.uint64)  # WORD flags each
    for word in range(CHUNK // WORD):
        if words[word] == 0:
            continue
        if count + WORD > len(rows):
            return count, word * WORD
        # No branch, which the processor could not predict: a candidate without a flag is written over.
        for column in range(word * WORD, (word + 1) * WORD):
            rows[count] = first_row + column
            values[count] = scores[column]
            count += flags[column]
    return count, CHUNK


@jit
def promote(candidates: CandidateArrays, depth: int, slack: np.ndarray, queries: np.ndarray, ends: np.ndarray) -> None:
    """Move the candidates whose value is at most `slack` [q] below the k-th largest one behind the settled ones.

    Candidates of query `queries[i]` before `ends[i]` are settled or among these.
    """
    bins = np.zeros(BINS, np.int64)
    columns = np.empty(candidates.rows.shape[1], np.int64)
    for index, query in enumerate(queries):
        count = candidates.counts[query]
        ends[index] = count
        if count <= depth:
            continue
        rows = candidates.rows[query]
        values = candidates.values[query]
        least = _nearly_kth(values[:count], depth, bins) - slack[query]
        settled = candidates.settled[query]
        chosen = 0
        for candidate in range(settled, count):
            columns[chosen] = candidate
            chosen += values[candidate] >= least
        for index_of_chosen in range(chosen):
            front, candidate = settled + index_of_chosen, columns[index_of_chosen]
            rows[front], rows[candidate] = rows[candidate], rows[front]
            values[front], values[candidate] = values[candidate], values[front]
        ends[index] = settled + chosen


@jit
def discard(candidates: CandidateArrays, depth: int, bound: ErrorBound, queries: np.ndarray) -> None:
    """Raise the thresholds of `queries` by the canonical scores so far, and drop the candidates below them."""
    bins = np.zeros(BINS, np.int64)
    for query in queries:
        settled = candidates.settled[query]
        if settled < depth:
            continue
        kth = _nearly_kth(candidates.values[query, :settled], depth, bins)
        threshold = max(candidates.thresholds[query], kth - bound.errors[query])
        _drop_below(candidates, query, threshold, kth)


@jit
def first_threshold(kth: float, shift: float, error: float) -> float:
    """Return `bounds.first_threshold` of one query, whose first scores are not rounded."""
    return kth - shift - 2 * error + shift


@jit
def _raised(candidates: CandidateArrays, query: int, kth: float, bound: ErrorBound) -> float:
    """Return the threshold of a query whose k-th largest value is at least `kth`."""
    threshold = first_threshold(kth, bound.shifts[query], bound.errors[query])
    return float(max(candidates.thresholds[query], threshold))


@jit
def _drop_below(candidates: CandidateArrays, query: int, threshold: float, settled_threshold: float) -> None:
    """Set the threshold of a query, and move the candidates that reach theirs together."""
    rows = candidates.rows[query]
    values = candidates.values[query]
    settled = candidates.settled[query]
    remaining = 0
    for candidate in range(settled):
        value = values[candidate]
        rows[remaining] = rows[candidate]
        values[remaining] = value
        remaining += value >= settled_threshold
    candidates.settled[query] = remaining
    for candidate in range(settled, candidates.counts[query]):
        value = values[candidate]
        rows[remaining] = rows[candidate]
        values[remaining] = value
        remaining += value >= threshold
    candidates.counts[query] = remaining
    candidates.thresholds[query] = threshold


@jit
def _range(values: np.ndarray) -> tuple[float, float]:
    """Return the least and the largest value."""
    ends = np.empty(2, np.float32)
    keys = ends.view(np.int32)
    keys[0], keys[1] = 0x7FFFFFFF, -0x80000000
    # Whole numbers in the order of the values: several are compared at once.
    least, most = keys[0], keys[1]
    for bits in values.view(np.int32):
        key = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
        least = min(least, key)
        most = max(most, key)
    keys[0] = least ^ ((least >> np.int32(31)) & np.int32(0x7FFFFFFF))
    keys[1] = most ^ ((most >> np.int32(31)) & np.int32(0x7FFFFFFF))
    return ends[0], ends[1]


@jit
def _nearly_kth(values: np.ndarray, depth: int, bins: np.ndarray) -> float:
    """Return a number that at least `depth` values reach and few more: the edge of a narrow histogram bin."""
    least, most = _range(values)
    base = np.float64(least)
    width = (np.float64(most) - base) / (len(bins) - 1)
    if not width > 0:
        return base
    bins[:] = 0
    steps = 1 / width
    for value in values:
        bins[int((value - base) * steps)] += 1
    above, edge = 0, len(bins)
    while above < depth:
        edge -= 1
        above += bins[edge]
    return base + (edge - 1e-3) * width  # a little less than the edge, so that rounding it does not matter
