"""The random masks of RetroMAE's decoder on a CPU, by a loop that numba compiles. The import takes half a second."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrobench.core import jit

__all__ = ["decoder_rows"]

Integers = NDArray[np.int64]


def decoder_rows(
    words: Integers, lengths: Integers, budgets: Integers, picks: Integers, seeds: NDArray[np.uint64]
) -> NDArray[np.uint8]:
    """Return rows of visible tokens, [B, L, L] uint8: a row hides a mask of whole words and its own position.

    `words` [B, L] are as in `masking.Packed`, with numbers below L. A mask hides at most `budgets` [B] tokens. `picks`
    [B, L], below L, number each row's mask among its text's masks. `seeds` [B] determine the masks of each text.
    """
    visible = np.empty((*words.shape, words.shape[1]), np.uint8)
    _draw(words, lengths, budgets, picks, seeds, visible)
    return visible


@jit
def _draw(words: Any, lengths: Any, budgets: Any, picks: Any, seeds: Any, visible: Any) -> None:
    length = words.shape[1]
    starts = np.empty(length + 1, np.int64)
    tokens = np.empty(length, np.int64)
    order = np.empty(length, np.int64)
    first_row = np.empty(length, np.int64)  # the first row with each mask, or -1: only picked masks are drawn
    shows_row = np.empty(length, np.uint8)  # whether each mask shows the position of its first row
    for text in range(len(words)):
        count = _group(words[text], starts, tokens, order)
        real = lengths[text]
        state = seeds[text]
        first_row[:] = -1
        for row in range(length):
            row_visible = visible[text, row]
            mask = picks[text, row]
            if row >= real:
                row_visible[:] = 0
                row_visible[0] = 1
                continue
            if first_row[mask] >= 0:
                row_visible[:] = visible[text, first_row[mask]]
                row_visible[first_row[mask]] = shows_row[mask]
            else:
                row_visible[:real] = 1
                row_visible[real:] = 0
                state = _hide(row_visible, starts, tokens, order[:count], budgets[text], state)
                first_row[mask] = row
                shows_row[mask] = row_visible[row]
            row_visible[row] = 0


@jit
def _group(words: Any, starts: Any, tokens: Any, order: Any) -> Any:
    """Sort tokens by word, write the words' numbers into `order`, and return how many words there are.

    The tokens of word w are tokens[starts[w] : starts[w + 1]].
    """
    starts[:] = 0
    count = 0
    for word in words:
        if word >= 0:
            starts[word + 1] += 1
            count = max(count, word + 1)
    for word in range(count):
        starts[word + 1] += starts[word]
        order[word] = starts[word]
    for token in range(len(words)):
        if words[token] >= 0:
            tokens[order[words[token]]] = token
            order[words[token]] += 1
    for word in range(count):
        order[word] = word
    return count


@jit
def _hide(visible: Any, starts: Any, tokens: Any, order: Any, room: Any, state: Any) -> Any:
    """Hide words in random order while they fit, skip larger words, and return the generator's new state.

    The shuffle stops when the room is full. It may start from any order of the words.
    """
    for position in range(len(order)):
        if room == 0:
            break
        state += np.uint64(0x9E3779B97F4A7C15)  # splitmix64 (Steele, Lea and Flood, 2014)
        bits = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = (bits ^ (bits >> np.uint64(31))) >> np.uint64(32)
        drawn = position + np.int64((bits * np.uint64(len(order) - position)) >> np.uint64(32))
        word = order[drawn]
        order[drawn] = order[position]
        order[position] = word
        size = starts[word + 1] - starts[word]
        if size <= room:
            room -= size
            for index in range(starts[word], starts[word + 1]):
                visible[tokens[index]] = 0
    return state
