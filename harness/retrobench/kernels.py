"""
Loops for the processor that no library has at the speed of its memory: compiled by numba, released from the GIL.

* jit          numba's compiler, its results kept on disk where that can be written
* in_threads   a range of work shared among as many threads as torch uses; what a thread does depends on its rows alone
* winners      the maximum over tokens of logits, and whose it is
* scattered    the gradients of that maximum
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

__all__ = ["in_threads", "jit", "scattered", "winners"]

WORDS = 512  # rows of the word matrix that a core's cache holds beside a text


def jit(function: Callable[..., Any], fastmath: bool | set[str] = False) -> Callable[..., Any]:
    """The function compiled. Kept on disk for later processes, unless no place for it can be written."""
    try:
        return numba.njit(function, nogil=True, cache=True, fastmath=fastmath)  # type: ignore[no-any-return]
    except RuntimeError:  # numba's word for having no such place
        return numba.njit(function, nogil=True, fastmath=fastmath)  # type: ignore[no-any-return]


def in_threads(work: Callable[[int, int], object], count: int) -> None:
    """Call `work(first, last)` for parts of `range(count)`, at once."""
    threads = max(1, min(torch.get_num_threads(), count))
    edges = [count * part // threads for part in range(threads + 1)]
    if threads == 1:
        work(0, count)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))


def winners(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of each word and the token it is of, the first of several: [b, L, V] -> [b, V] fp32, int32.

    torch's max with indices takes several times as long as its max without, on a processor.
    """
    texts, _, words = logits.shape
    best, who = np.empty((texts, words), np.float32), np.empty((texts, words), np.int32)
    if logits.dtype == torch.bfloat16:
        bits = logits.view(torch.int16).numpy()
        in_threads(lambda first, last: _winners_bf16(bits[first:last], best[first:last], who[first:last]), texts)
    else:
        values = logits.float().numpy()
        in_threads(lambda first, last: _winners(values[first:last], best[first:last], who[first:last]), texts)
    return torch.from_numpy(best), torch.from_numpy(who)


def scattered(slope: Tensor, who: Tensor, rows: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of rows [B, L, D] and words [V, D] from that of the maxima, `slope` [B, V], whose tokens are `who`.

    Each maximum depends on one token, so nothing of the size [B, L, V] is needed; all is summed in float32.
    """
    slopes, tokens = slope.float().contiguous().numpy(), who.numpy()
    texts, matrix = rows.float().contiguous().numpy(), words.float().contiguous().numpy()
    d_rows, d_words = np.zeros(texts.shape, np.float32), np.zeros(matrix.shape, np.float32)
    in_threads(lambda first, last: _to_rows(slopes, tokens, matrix, d_rows, first, last), len(texts))
    in_threads(lambda first, last: _to_words(slopes, tokens, texts, d_words, first, last), len(matrix))
    return torch.from_numpy(d_rows), torch.from_numpy(d_words)


@jit
def _winners(logits, best, who):  # type: ignore[no-untyped-def]
    for text in range(logits.shape[0]):
        for word in range(logits.shape[2]):
            best[text, word] = logits[text, 0, word]
            who[text, word] = 0
        for token in range(1, logits.shape[1]):
            for word in range(logits.shape[2]):
                if logits[text, token, word] > best[text, word]:
                    best[text, word] = logits[text, token, word]
                    who[text, word] = token


@jit
def _winners_bf16(bits, best, who):  # type: ignore[no-untyped-def]
    """Compared as 16-bit integers: with the other bits of negative numbers turned around they have the same order."""
    words = bits.shape[2]
    order = np.empty(words, np.int16)
    place = np.empty(words, np.int16)
    for text in range(bits.shape[0]):
        for word in range(words):
            value = bits[text, 0, word]
            order[word] = value ^ ((value >> np.int16(15)) & np.int16(0x7FFF))
            place[word] = 0
        for token in range(1, bits.shape[1]):
            for word in range(words):
                value = bits[text, token, word]
                key = np.int16(value ^ ((value >> np.int16(15)) & np.int16(0x7FFF)))
                if key > order[word]:
                    order[word] = key
                    place[word] = token
        _widened(order, best[text].view(np.int32))
        for word in range(words):
            who[text, word] = place[word]


@jit
def _widened(order, out):  # type: ignore[no-untyped-def]
    """The bits of the bf16 numbers behind the integers, as those of float32."""
    for word in range(order.shape[0]):
        value = order[word] ^ ((order[word] >> np.int16(15)) & np.int16(0x7FFF))
        out[word] = np.int32(value) << np.int32(16)


@jit
def _to_rows(slopes, who, words, d_rows, first, last):  # type: ignore[no-untyped-def]
    for start in range(0, words.shape[0], WORDS):
        end = min(start + WORDS, words.shape[0])
        for text in range(first, last):
            for word in range(start, end):
                slope = slopes[text, word]
                token = who[text, word]
                for column in range(words.shape[1]):
                    d_rows[text, token, column] += slope * words[word, column]


@jit
def _to_words(slopes, who, rows, d_words, first, last):  # type: ignore[no-untyped-def]
    for start in range(first, last, WORDS):
        end = min(start + WORDS, last)
        for text in range(rows.shape[0]):
            for word in range(start, end):
                slope = slopes[text, word]
                token = who[text, word]
                for column in range(rows.shape[2]):
                    d_words[word, column] += slope * rows[text, token, column]
