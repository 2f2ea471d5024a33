"""The random masks of RetroMAE's decoder on a CPU, a loop compiled by numba. Importing this takes half a second."""

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
    """Rows of visible tokens, [B, L, L] uint8: each takes a mask of whole words, and hides its own position too.

    `words` [B, L] is as in `masking.Packed`, with numbers below L; a mask hides at most `budgets` [B] tokens; `picks`
    [B, L], below L, says which mask of its text a row takes. The masks of a text depend on its one of `seeds` [B].
    """
    visible = np.empty((*words.shape, words.shape[1]), np.uint8)
    _draw(words, lengths, budgets, picks, seeds, visible)
    return visible


@jit
def _draw(words: Any, lengths: Any, budgets: Any, picks: Any, seeds: Any, visible: Any) -> None:
    length = words.shape[1]
    starts, tokens, order = np.empty(length + 1, np.int64), np.empty(length, np.int64), np.empty(length, np.int64)
    drawn = np.empty(length, np.int64)  # mask -> the first row that took it, or -1: masks that none takes are not drawn
    own = np.empty(length, np.uint8)  # mask -> whether it shows that row's own position
    for text in range(len(words)):
        many, real, state = _group(words[text], starts, tokens, order), lengths[text], seeds[text]
        drawn[:] = -1
        for row in range(length):
            seen, mask = visible[text, row], picks[text, row]
            if row >= real:
                seen[:] = 0
                seen[0] = 1
                continue
            if drawn[mask] >= 0:
                seen[:] = visible[text, drawn[mask]]
                seen[drawn[mask]] = own[mask]
            else:
                seen[:real] = 1
                seen[real:] = 0
                state = _hide(seen, starts, tokens, order[:many], budgets[text], state)
                drawn[mask] = row
                own[mask] = seen[row]
            seen[row] = 0


@jit
def _group(words: Any, starts: Any, tokens: Any, order: Any) -> Any:
    """Sort tokens by word: tokens[starts[w] : starts[w + 1]] are those of word w. `order` names the words, counted."""
    starts[:] = 0
    many = 0
    for word in words:
        if word >= 0:
            starts[word + 1] += 1
            many = max(many, word + 1)
    for word in range(many):
        starts[word + 1] += starts[word]
        order[word] = starts[word]
    for at in range(len(words)):
        if words[at] >= 0:
            tokens[order[words[at]]] = at
            order[words[at]] += 1
    for word in range(many):
        order[word] = word
    return many


@jit
def _hide(seen: Any, starts: Any, tokens: Any, order: Any, room: Any, state: Any) -> Any:
    """Hide words in random order while they fit, skipping those that do not; gives the state of the generator.

    Words are shuffled as far as they are needed, and any order is as good as another to begin with.
    """
    for place in range(len(order)):
        if room == 0:
            break
        state += np.uint64(0x9E3779B97F4A7C15)  # splitmix64 (Steele, Lea and Flood, 2014)
        bits = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = (bits ^ (bits >> np.uint64(31))) >> np.uint64(32)
        other = place + np.int64((bits * np.uint64(len(order) - place)) >> np.uint64(32))
        word = order[other]
        order[other] = order[place]
        order[place] = word
        size = starts[word + 1] - starts[word]
        if size <= room:
            room -= size
            for at in range(starts[word], starts[word + 1]):
                seen[tokens[at]] = 0
    return state
