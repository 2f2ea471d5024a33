"""
The compiled loops over vectors that no library has. None holds the interpreter's lock, so threads may share a call.

* examine             the first unsound vector of a block, its largest norm, its sum
* round_to_int8       vectors less a centre as int8, and the norms that the error bound needs
* add_sparse_scores   products of sparse documents with queries, in 32 bits
* score_dense         the dense part of the canonical scores of pairs
* score_terms         the sparse part of these scores
* merge               two rankings into one

The records that these loops read stand in this file, because numba's cache on disk watches only the file of a loop.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from retrobench.core import jit
from retrobench.retrieval.vectors import Terms

__all__ = [
    "LANES",
    "LARGEST",
    "Pairs",
    "Rounded",
    "SparseQueries",
    "TopK",
    "add_sparse_scores",
    "examine",
    "merge",
    "round_to_int8",
    "score_dense",
    "score_terms",
]

LARGEST = 1e15  # in a vector; products of smaller numbers stay far from infinity, in 32 bits too
LANES = 32  # partial sums of a canonical score; see `canonical`
MOST = np.float32(127)  # the largest int8, and the least less one
FAINTEST = np.float32(1e-30)  # a vector of smaller numbers is rounded to zeros: its unit has no reciprocal

# A sum that only bounds an error may be taken in any order. A canonical score may not.
_reordering = partial(jit, fastmath={"reassoc", "contract"})


class TopK(NamedTuple):
    """The best k documents of each query, in the total order of `ranking`."""

    rows: np.ndarray  # [q, k] int32, -1 after the end of a list
    scores: np.ndarray  # [q, k] float32, -inf after the end of a list


class Pairs(NamedTuple):
    """m pairs of a query and a document, by their rows."""

    queries: np.ndarray  # [m] int64
    documents: np.ndarray  # [m] int64


class Rounded(NamedTuple):
    """n vectors rounded to int8. Row i stands for `numbers[i] * units[i]`."""

    numbers: np.ndarray  # [n, d] int8, at least -127
    units: np.ndarray  # [n] float32
    lost: np.ndarray  # [n] float32: norms of the rounding errors
    lengths: np.ndarray  # [n] float32: norms of the rounded vectors

    @classmethod
    def empty(cls, count: int, width: int) -> Rounded:
        """Return room for vectors."""
        numbers = np.empty((count, width), np.int8)
        units, lost, lengths = np.empty((3, count), np.float32)
        return cls(numbers, units, lost, lengths)

    def head(self, count: int) -> Rounded:
        """Return the first `count` rows."""
        return Rounded(*(array[:count] for array in self))


class SparseQueries(NamedTuple):
    """Terms of q queries, laid out so that one word of all queries is read at once."""

    weights: np.ndarray  # [V, q] float32
    used: np.ndarray  # [V] bool: a query has this word
    scale: np.float32  # weight of the products


@_reordering
def examine(vectors: np.ndarray, sums: np.ndarray) -> tuple[int, float]:
    """Add all vectors [n, d] to `sums` [d]. Return the first unsound row, else -1, and the largest squared norm.

    An unsound vector is not finite or holds a number from LARGEST on.
    """
    largest = np.float64(0)
    for row in range(vectors.shape[0]):
        vector = vectors[row]
        norm, unsound = np.float32(0), np.int32(0)
        for column in range(vector.shape[0]):
            value = vector[column]
            unsound += np.int32(not (abs(value) < np.float32(LARGEST)))
            norm += value * value
        if unsound:
            return row, largest
        for column in range(vector.shape[0]):
            sums[column] += vector[column]
        largest = max(largest, np.float64(norm))
    return -1, largest


@_reordering
def round_to_int8(vectors: np.ndarray, centre: np.ndarray, out: Rounded, first: int) -> None:
    """Round vectors [n, d] less their centre [d] into `out`, from its row `first` on. Each has a unit of its own."""
    width = vectors.shape[1]
    centred = np.empty(width, np.float32)
    bits = centred.view(np.int32)
    largest_bits = np.empty(1, np.int32)
    largest = largest_bits.view(np.float32)
    for row in range(vectors.shape[0]):
        vector = vectors[row]
        target = out.numbers[first + row]
        for column in range(width):
            centred[column] = vector[column] - centre[column]
        most = np.int32(0)  # whole numbers, whose maximum is taken several at a time
        for column in range(width):
            most = max(most, bits[column] & np.int32(0x7FFFFFFF))
        largest_bits[0] = most
        unit, steps = np.float32(0), np.float32(0)
        if largest[0] > FAINTEST:
            unit = largest[0] / MOST
            steps = MOST / largest[0]
        lost, norm = np.float32(0), np.float32(0)
        for column in range(width):
            whole = np.rint(centred[column] * steps)
            target[column] = np.int8(np.int32(whole))
            error = centred[column] - whole * unit
            lost += error * error
            norm += whole * whole
        out.units[first + row] = unit
        out.lost[first + row] = np.sqrt(lost)
        out.lengths[first + row] = np.sqrt(norm) * unit


@_reordering
def add_sparse_scores(terms: Terms, queries: SparseQueries, scores: np.ndarray, begin: int, end: int) -> None:
    """Add the scaled products of sparse documents with queries to `scores` [q, n]."""
    sums = np.empty(queries.weights.shape[1], np.float32)
    if len(sums) == 1:
        _add_to_one(terms, queries.weights.ravel(), queries.scale, scores[0], begin, end)
        return
    longest = 0
    for row in range(begin, end):
        longest = max(longest, terms.indptr[row + 1] - terms.indptr[row])
    words = np.empty(longest + 1, np.int64)
    values = np.empty(longest + 1, np.float32)
    for row in range(begin, end):
        count = 0
        # No branch, which the processor could not predict: a word that no query has is written over.
        for entry in range(terms.indptr[row], terms.indptr[row + 1]):
            word = terms.indices[entry]
            words[count] = word
            values[count] = terms.values[entry]
            count += queries.used[word]
        sums[:] = 0
        for index in range(count):
            value = values[index]
            weights = queries.weights[words[index]]
            for query in range(len(sums)):
                sums[query] += value * weights[query]
        for query in range(len(sums)):
            scores[query, row] += queries.scale * sums[query]


@_reordering
def _add_to_one(terms: Terms, weights: np.ndarray, scale: np.float32, scores: np.ndarray, begin: int, end: int) -> None:
    """Add the scaled products with the weights [V] of one query to `scores` [n]."""
    for row in range(begin, end):
        total = np.float32(0)
        for entry in range(terms.indptr[row], terms.indptr[row + 1]):
            total += terms.values[entry] * weights[terms.indices[entry]]
        scores[row] += scale * total


@jit
def _folded(sums: np.ndarray) -> float:
    """Return the sum of LANES partial sums: add the second half to the first until one is left."""
    length = LANES // 2
    while length > 0:
        for lane in range(length):
            sums[lane] += sums[length + lane]
        length //= 2
    return float(sums[0] + 0.0)  # -0.0 becomes 0.0


@jit
def score_dense(queries: np.ndarray, vectors: np.ndarray, pairs: Pairs, out: np.ndarray) -> None:
    """Write the dense part of the canonical scores of pairs of queries [Q, d] and vectors [n, d] to `out` float64."""
    width = vectors.shape[1]
    whole = width - width % LANES
    fours = width - width % (4 * LANES)
    sums = np.zeros(LANES, np.float64)
    for pair in range(len(out)):
        query = queries[pairs.queries[pair]]
        document = vectors[pairs.documents[pair]]
        sums[:] = 0.0
        for block in range(0, fours, 4 * LANES):  # the same additions in the same order, with fewer reads of `sums`
            for lane in range(LANES):
                first = block + lane
                second, third, fourth = first + LANES, first + 2 * LANES, first + 3 * LANES
                total = sums[lane]
                total += np.float64(query[first]) * np.float64(document[first])
                total += np.float64(query[second]) * np.float64(document[second])
                total += np.float64(query[third]) * np.float64(document[third])
                total += np.float64(query[fourth]) * np.float64(document[fourth])
                sums[lane] = total
        for block in range(fours, whole, LANES):
            for lane in range(LANES):
                column = block + lane
                sums[lane] += np.float64(query[column]) * np.float64(document[column])
        for lane in range(width - whole):
            column = whole + lane
            sums[lane] += np.float64(query[column]) * np.float64(document[column])
        out[pair] = _folded(sums)


@jit
def score_terms(queries: np.ndarray, terms: Terms, pairs: Pairs, out: np.ndarray) -> None:
    """Write the sparse part of the canonical scores of pairs of queries [Q, V] and sparse rows to `out` float64."""
    sums = np.zeros(LANES, np.float64)
    for pair in range(len(out)):
        query = queries[pairs.queries[pair]]
        document = pairs.documents[pair]
        start = terms.indptr[document]
        end_of_document = terms.indptr[document + 1]
        sums[:] = 0.0
        for entry in range(end_of_document - start):
            word = terms.indices[start + entry]
            value = np.float64(terms.values[start + entry])
            sums[entry % LANES] += np.float64(query[word]) * value
        out[pair] = _folded(sums)


@jit
def merge(first: TopK, second: TopK, tie_ranks: np.ndarray, out: TopK, begin: int, end: int) -> None:
    """Write the best hits of two rankings to `out`, as many as it has room for."""
    first_width = first.rows.shape[1]
    second_width = second.rows.shape[1]
    no_score = np.float32(-np.inf)
    for query in range(begin, end):
        first_column, second_column = 0, 0
        for position in range(out.rows.shape[1]):
            first_row, second_row = -1, -1
            first_score, second_score = no_score, no_score
            if first_column < first_width:
                first_row = first.rows[query, first_column]
                first_score = first.scores[query, first_column]
            if second_column < second_width:
                second_row = second.rows[query, second_column]
                second_score = second.scores[query, second_column]
            if first_row < 0 and second_row < 0:  # both lists have ended
                out.rows[query, position] = -1
                out.scores[query, position] = no_score
                continue
            if first_row >= 0 and second_row >= 0:
                ranks_first = tie_ranks[first_row] <= tie_ranks[second_row]
                take_first = first_score > second_score or (first_score == second_score and ranks_first)
            else:
                take_first = second_row < 0
            if take_first:
                out.rows[query, position] = first_row
                out.scores[query, position] = first_score
                first_column += 1
            else:
                out.rows[query, position] = second_row
                out.scores[query, position] = second_score
                second_column += 1
