"""
The compiled loops of `NumbaBuffer`: compare first scores with thresholds, and compact the candidates.

* scan       collect the candidates of a block of first scores
* compact    raise thresholds, and drop the candidates below them

The records that these loops read stand in this file, because numba's cache on disk watches only the file of a loop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from retrobench.core import jit

__all__ = ["CandidateArrays", "ErrorBound", "ScoreBlock", "compact", "first_threshold", "scan"]

CHUNK = 128  # scores compared together
BINS = 2048  # of the histogram that estimates the k-th largest value
LOWEST = -3e38  # below every first score, and finite


class ErrorBound(NamedTuple):
    """How far the first scores of q queries may lie from the canonical scores: see `bounds`. Arrays or tensors.

    A first score plus its query's shift is off by at most the query's error, and by `unit` of the first score.
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


class ScoreBlock(NamedTuple):
    """First scores of a block of documents, as the bits of float32 or of bfloat16 numbers."""

    bits: np.ndarray  # [q, n] int32, or int16 for bfloat16: the upper half of a float32
    first_row: int  # row of the block's first document
    positions: np.ndarray  # [q] int64: the scores of each query that `scan` is done with


@jit
def scan(block: ScoreBlock, candidates: CandidateArrays, depth: int, bound: ErrorBound, begin: int, end: int) -> None:
    """Collect the documents that reach the thresholds of the queries from `begin` to `end`.

    Start at `block.positions` and store the position reached. It is less than n where the threshold of a query leaves
    more than three quarters of its room taken. The caller settles such a query and calls again.
    """
    documents = block.bits.shape[1]
    room = candidates.rows.shape[1]
    keys = np.empty(CHUNK, block.bits.dtype)
    edge = np.empty(1, block.bits.dtype)
    flags = np.zeros(CHUNK, np.uint8)
    words = flags.view(np.uint64)  # eight flags each
    bins = np.zeros(BINS, np.int64)
    score_bits = np.empty(1, np.int32)
    score = score_bits.view(np.float32)
    missing = 32 - 8 * block.bits.itemsize
    for query in range(begin, end):
        scores = block.bits[query]
        position = block.positions[query]
        shift = bound.shifts[query]
        rows = candidates.rows[query]
        values = candidates.values[query]
        _set_edge(edge, candidates.thresholds[query] - shift, missing)
        while position < documents:
            chunk = scores[position : position + CHUNK]
            if not _flag(chunk, edge, keys, flags, words):
                position += len(chunk)
                continue
            count = candidates.counts[query]
            if count + CHUNK > room:
                kth = _nearly_kth(values[:count], depth, bins)
                raised = _raised(candidates, query, kth, bound)
                _drop_below(candidates, query, raised)
                _set_edge(edge, candidates.thresholds[query] - shift, missing)
                if candidates.counts[query] > room - room // 4:
                    break
                continue
            # Inline: numba counts references to every record at such a call, which doubles the time of a scan.
            for word in range(CHUNK // 8):
                if words[word] != 0:
                    for column in range(word * 8, word * 8 + 8):
                        if flags[column]:
                            score_bits[0] = np.int32(chunk[column]) << missing
                            rows[count] = block.first_row + position + column
                            values[count] = score[0] + shift
                            count += 1
            candidates.counts[query] = count
            position += len(chunk)
        block.positions[query] = position


@jit
def _flag(chunk: np.ndarray, edge: np.ndarray, keys: np.ndarray, flags: np.ndarray, words: np.ndarray) -> bool:
    """Set the flag of each score that reaches the edge, and no other flag. Return whether any score does.

    The keys are whole numbers in the order of the scores.
    """
    sign = 8 * chunk.itemsize - 1
    magnitude = (1 << sign) - 1
    if len(chunk) < CHUNK:
        flags[:] = 0
    for column in range(len(chunk)):
        bits = chunk[column]
        keys[column] = bits ^ ((bits >> sign) & magnitude)
    for column in range(len(chunk)):
        flags[column] = keys[column] >= edge[0]
    flagged = np.uint64(0)
    for word in range(CHUNK // 8):
        flagged |= words[word]
    return bool(flagged != 0)


@jit
def compact(candidates: CandidateArrays, depth: int, bound: ErrorBound, begin: int, end: int) -> None:
    """Raise the thresholds of queries as far as their candidates allow, and drop the candidates below them."""
    for query in range(begin, end):
        count = candidates.counts[query]
        threshold = candidates.thresholds[query]
        if count >= depth:
            rank = count - depth  # of the k-th largest value among the rising values
            partitioned = np.partition(candidates.values[query, :count], rank)
            kth = np.float64(partitioned[rank])
            threshold = _raised(candidates, query, kth, bound)
        _drop_below(candidates, query, threshold)


@jit
def first_threshold(kth: float, shift: float, error: float, unit: float) -> float:
    """Return `bounds.first_threshold` of one query."""
    score = kth - shift
    lower = score - unit * abs(score) - 2 * error
    if lower > 0:
        return lower / (1 + unit) + shift
    return lower / (1 - unit) + shift


@jit
def _raised(candidates: CandidateArrays, query: int, kth: float, bound: ErrorBound) -> float:
    """Return the threshold of a query whose k-th largest value is at least `kth`."""
    threshold = first_threshold(kth, bound.shifts[query], bound.errors[query], bound.unit)
    return float(max(candidates.thresholds[query], threshold))


@jit
def _drop_below(candidates: CandidateArrays, query: int, threshold: float) -> None:
    """Set the threshold of a query, and move the candidates that reach it together."""
    rows = candidates.rows[query]
    values = candidates.values[query]
    settled = candidates.settled[query]
    remaining, still_settled = 0, 0
    for candidate in range(candidates.counts[query]):
        if values[candidate] >= threshold:
            rows[remaining] = rows[candidate]
            values[remaining] = values[candidate]
            remaining += 1
            still_settled += candidate < settled
    candidates.counts[query] = remaining
    candidates.settled[query] = still_settled
    candidates.thresholds[query] = threshold


@jit
def _nearly_kth(values: np.ndarray, depth: int, bins: np.ndarray) -> float:
    """Return a number that at least `depth` values reach and few more: the edge of a narrow histogram bin."""
    least, most = values[0], values[0]
    for value in values:
        least = min(least, value)
        most = max(most, value)
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


@jit
def _set_edge(edge: np.ndarray, threshold: float, missing: int) -> None:
    """Set `edge` [1] to the key of the largest number below a threshold: see `_flag`."""
    lowest = np.empty(1, np.float32)
    lowest[0] = max(LOWEST, threshold)
    lowest[0] = np.nextafter(lowest[0], np.float32(-np.inf))
    bits = np.int64(lowest.view(np.int32)[0])
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    edge[0] = key >> missing
