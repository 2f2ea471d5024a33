"""
The loops of exact search that no library has, compiled. None holds the interpreter's lock, so threads may share a call.

* examine    a block of vectors: the first that is no number, its largest norm, its sum
* halve      rows less a centre as bfloat16, and the most that the rounding took from a row
* scan       scores of a block against each query's bar; what passes is kept
* compact    bars from what is kept, and what is below them gone
* score      canonical scores of pairs
* sparse     products of sparse rows with queries
* merge      two rankings to one
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from functools import partial

import numpy as np

from retrobench.core import jit

__all__ = ["LANES", "LARGEST", "compact", "examine", "halve", "merge", "scan", "score", "sparse"]

LARGEST = 1e15  # in a vector; products of what is smaller stay far from infinity, in 32 bits too
LANES = 32  # partial sums of a canonical score; see `canonical`
CHUNK = 128  # scores looked at together

# Sums that only bound an error may be taken in any order. Scores may not.
_bounding = partial(jit, fastmath={"reassoc", "contract"})


@_bounding
def examine(vectors, sums):
    """Row of the first vector that is not finite and below LARGEST, else -1, and the largest squared norm."""
    largest = np.float64(0)
    for row in range(vectors.shape[0]):
        line = vectors[row]
        norm, unsound = np.float32(0), np.int32(0)
        for column in range(line.shape[0]):
            value = line[column]
            unsound += np.int32(not (abs(value) < np.float32(LARGEST)))
            norm += value * value
        if unsound:
            return row, largest
        for column in range(line.shape[0]):
            sums[column] += line[column]
        largest = max(largest, np.float64(norm))
    return -1, largest


@_bounding
def halve(vectors, centre, out):
    """Into `out` [n, d] uint16; the largest squared norms of what rounding took away, and of what it left."""
    width = vectors.shape[1]
    held, bits = np.empty(width, np.float32), np.empty(width, np.uint32)
    values, rounded = held.view(np.uint32), bits.view(np.float32)
    furthest, longest = np.float32(0), np.float32(0)
    for row in range(vectors.shape[0]):
        line, target = vectors[row], out[row]
        for column in range(width):
            held[column] = line[column] - centre[column]
        for column in range(width):
            value = values[column]
            odd = (value >> np.uint32(16)) & np.uint32(1)
            bits[column] = (value + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
        for column in range(width):
            target[column] = np.uint16(bits[column] >> np.uint32(16))
        lost, kept = np.float32(0), np.float32(0)
        for column in range(width):
            gone = held[column] - rounded[column]
            lost += gone * gone
            kept += rounded[column] * rounded[column]
        furthest, longest = max(furthest, lost), max(longest, kept)
    return furthest, longest


@jit
def _nearly(values, depth, bins):
    """A number that at least `depth` of the values reach, and hardly more than that: the edge of a narrow bin."""
    least, most = values[0], values[0]
    for value in values:
        least, most = min(least, value), max(most, value)
    base, width = np.float64(least), (np.float64(most) - np.float64(least)) / (len(bins) - 1)
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
    return base + (edge - 1e-3) * width  # a little less than the edge, whose rounding then does not matter


@jit
def _raised(bar, best, shift, slack, unit):
    """The bar where `best` is the value of the last document that counts: see `bounds`."""
    best -= shift
    lower = best - unit * abs(best) - 2 * slack
    lower = lower / (1 + unit) if lower > 0 else lower / (1 - unit)
    return max(bar, lower + shift)


@jit
def _compacted(rows, values, count, settled, bar):
    """What reaches the bar, moved together."""
    kept, still = 0, 0
    for at in range(count):
        if values[at] >= bar:
            rows[kept], values[kept] = rows[at], values[at]
            kept += 1
            still += at < settled
    return kept, still


@jit
def compact(rows, values, counts, settled, depth, bars, shifts, slacks, unit, begin, end):
    """Raise bars as far as what is kept allows, and let go of what is below them."""
    for query in range(begin, end):
        count, bar = counts[query], bars[query]
        if count >= depth:
            best = np.partition(values[query, :count], count - depth)[count - depth]
            bar = _raised(bar, np.float64(best), shifts[query], slacks[query], unit)
        counts[query], settled[query] = _compacted(rows[query], values[query], count, settled[query], bar)
        bars[query] = bar


@jit
def scan(scores, up, first, depth, at, rows, values, counts, settled, bars, shifts, slacks, unit, begin, end):
    """Keep what reaches its query's bar among scores [q, n]: the bits of float32 (int32, `up` 0) or bfloat16 (16).

    Goes on at `at` [q] and leaves there how far it came: less than n where more than three quarters of a query's room
    is taken by what the bar cannot tell apart.
    """
    documents, room = scores.shape[1], rows.shape[1]
    keys, edge = np.empty(CHUNK, scores.dtype), np.empty(1, scores.dtype)
    flags = np.zeros(CHUNK, np.uint8)
    words = flags.view(np.uint64)
    lowest = np.empty(1, np.float32)
    low_bits = lowest.view(np.int32)
    raw = np.empty(1, np.int32)
    real = raw.view(np.float32)
    bins = np.zeros(2048, np.int64)
    sign = 31 - up
    flip = 0x7FFFFFFF >> up
    for query in range(begin, end):
        line, here, count, stale = scores[query], at[query], counts[query], True
        while here < documents:
            if stale:
                lowest[0] = max(-3e38, bars[query] - shifts[query])
                lowest[0] = np.nextafter(lowest[0], np.float32(-np.inf))
                bits = np.int64(low_bits[0])
                edge[0] = (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> up  # whole numbers in the order of the floats
                stale = False
            part = line[here : here + CHUNK]
            if len(part) < CHUNK:
                flags[:] = 0
            for place in range(len(part)):
                value = part[place]
                keys[place] = value ^ ((value >> sign) & flip)
            for place in range(len(part)):
                flags[place] = keys[place] >= edge[0]
            some = np.uint64(0)
            for word in range(CHUNK // 8):
                some |= words[word]
            if some == 0:
                here += len(part)
                continue
            if count + CHUNK > room:
                best = _nearly(values[query, :count], depth, bins)
                bars[query] = _raised(bars[query], best, shifts[query], slacks[query], unit)
                count, settled[query] = _compacted(rows[query], values[query], count, settled[query], bars[query])
                stale = True
                if count > room - room // 4:
                    break
                continue
            for word in range(CHUNK // 8):
                if words[word] != 0:
                    for place in range(word * 8, word * 8 + 8):
                        if flags[place]:
                            raw[0] = np.int32(part[place]) << up
                            rows[query, count] = first + here + place
                            values[query, count] = real[0] + shifts[query]
                            count += 1
            here += len(part)
        counts[query], at[query] = count, here


@jit
def _folded(sums):
    """The partial sums, halves upon each other."""
    length = LANES // 2
    while length > 0:
        for lane in range(length):
            sums[lane] += sums[length + lane]
        length //= 2
    return sums[0] + 0.0  # -0.0 becomes 0.0


@jit
def score(queries, vectors, asked, found, out, begin, end):
    """The dense part of `canonical` of queries [Q, d] and vectors [n, d], float64."""
    width = vectors.shape[1]
    whole = width - width % LANES
    sums = np.zeros(LANES, np.float64)
    for pair in range(begin, end):
        query, document = queries[asked[pair]], vectors[found[pair]]
        sums[:] = 0.0
        for block in range(0, whole, LANES):
            for lane in range(LANES):
                sums[lane] += np.float64(query[block + lane]) * np.float64(document[block + lane])
        for lane in range(width - whole):
            sums[lane] += np.float64(query[whole + lane]) * np.float64(document[whole + lane])
        out[pair] = _folded(sums)


@jit
def score_terms(queries, indptr, indices, weights, asked, found, out, begin, end):
    """The sparse part of `canonical`, of queries [Q, V] and sparse rows, float64."""
    sums = np.zeros(LANES, np.float64)
    for pair in range(begin, end):
        query, start = queries[asked[pair]], indptr[found[pair]]
        sums[:] = 0.0
        for entry in range(indptr[found[pair] + 1] - start):
            weight = np.float64(weights[start + entry])
            sums[entry % LANES] += np.float64(query[indices[start + entry]]) * weight
        out[pair] = _folded(sums)


@_bounding
def sparse(indptr, indices, weights, queries, asked, scale, out, begin, end):
    """Add `scale` times the products of sparse rows with queries [V, q] to `out` [q, n]; not `asked` [V]: all zero."""
    sums = np.empty(queries.shape[1], np.float32)
    for row in range(begin, end):
        sums[:] = 0
        for entry in range(indptr[row], indptr[row + 1]):
            column = indices[entry]
            if asked[column]:
                weight, line = weights[entry], queries[column]
                for query in range(len(sums)):
                    sums[query] += weight * line[query]
        for query in range(len(sums)):
            out[query, row] += scale * sums[query]


@jit
def merge(rows, scores, more_rows, more_scores, places, out_rows, out_scores, begin, end):
    """Of two rankings [Q, a] and [Q, b] the best, as many as `out_rows` [Q, k] holds; -1 ends a list."""
    for query in range(begin, end):
        left, right = 0, 0
        for rank in range(out_rows.shape[1]):
            a = rows[query, left] if left < rows.shape[1] else -1
            b = more_rows[query, right] if right < more_rows.shape[1] else -1
            first = b < 0
            if a >= 0 and b >= 0:
                mine, other = scores[query, left], more_scores[query, right]
                first = mine > other or (mine == other and places[a] <= places[b])
            if first:
                out_rows[query, rank] = a
                out_scores[query, rank] = scores[query, left] if a >= 0 else -np.inf
                left += 1
            else:
                out_rows[query, rank] = b
                out_scores[query, rank] = more_scores[query, right]
                right += 1
