"""
Loops for the processor that no library has at the speed of its memory: compiled by numba, released from the GIL.

* winners      the maximum over tokens of logits, and whose it is
* scattered    the gradients of that maximum
* slopes       the cross-entropy of rows of logits, and its gradients in their place
* softmax      scores of attention to weights, in their place
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from retrobench.core import in_threads, jit

__all__ = ["scattered", "slopes", "softmax", "winners"]

ROWS = 32  # of logits that one thread takes at a time
WORDS = 512  # rows of the word matrix that a core's cache holds beside a text


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


def slopes(logits: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies of bf16 rows [n, V] plus bias, and its gradient by the bias [V]; by the logits, the
    gradient takes their place. What is not finite makes the sum so.

    A row goes through its steps in a core's cache, where torch goes through all rows for each of ten steps.
    """
    bits, chosen = logits.view(torch.int16).numpy(), targets.numpy()
    added = np.zeros(bits.shape[1], np.float32) if bias is None else bias.detach().float().numpy()
    losses = np.empty(len(bits), np.float32)
    d_bias = np.zeros((-(-len(bits) // ROWS), bits.shape[1]), np.float32)  # of so many rows each, whatever the threads

    def work(first: int, last: int) -> None:
        for part in range(first, last):
            rows = slice(part * ROWS, (part + 1) * ROWS)
            _slopes(bits[rows], added, chosen[rows], losses[rows], d_bias[part])

    in_threads(work, len(d_bias))
    return torch.from_numpy(losses).sum(), torch.from_numpy(d_bias.sum(0))


def softmax(scores: Tensor, scale: float, keys: Tensor | None) -> None:
    """Weights of the keys in place of the scores [B, H, L, L] bf16: the softmax of scale * scores over the last axis.

    `keys` [B, L] bool are the ones that take part, None for all. What is not finite makes a row so. On one thread.
    """
    bits = scores.view(torch.int16).numpy()
    texts, length = len(bits), bits.shape[-1]
    seen = np.ones((texts, length), np.bool_) if keys is None else keys.numpy()
    _softmax(bits.reshape(texts, -1, length), np.float32(scale), seen)


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


# Sums may be added up in another order, so that they go several at a time; numbers that are not finite stay so.
_regrouped = partial(jit, fastmath={"reassoc", "contract", "nsz"})


@_regrouped
def _slopes(bits, bias, targets, losses, d_bias):  # type: ignore[no-untyped-def]
    """Loops of one step each, which the compiler turns into instructions on 16 numbers."""
    words = bits.shape[1]
    x, scale = np.empty(words, np.float32), np.empty(words, np.int32)
    x_bits, scale_value = x.view(np.int32), scale.view(np.float32)
    for row in range(bits.shape[0]):
        for word in range(words):
            x_bits[word] = np.int32(bits[row, word]) << np.int32(16)
        for word in range(words):
            x[word] += bias[word]
        chosen, peak = x[targets[row]], _largest(x_bits, scale)
        for word in range(words):
            x[word] -= peak
        _exponentials(x, scale)
        mass = np.float32(0)
        for word in range(words):
            x[word] *= scale_value[word]
            mass += x[word]
        losses[row] = np.log(mass) + peak - chosen
        share = np.float32(1) / mass
        for word in range(words):
            x[word] *= share
        x[targets[row]] -= np.float32(1)
        for word in range(words):
            d_bias[word] += x[word]
        _rounded(x_bits, bits[row])


@_regrouped
def _softmax(bits, scale, keys):  # type: ignore[no-untyped-def]
    """Step by step as in `_slopes`."""
    length = bits.shape[2]
    x, powers = np.empty(length, np.float32), np.empty(length, np.int32)
    x_bits, power_values = x.view(np.int32), powers.view(np.float32)
    for text in range(bits.shape[0]):
        padded = not keys[text].all()
        for row in range(bits.shape[1]):
            for key in range(length):
                x_bits[key] = np.int32(bits[text, row, key]) << np.int32(16)
            if padded:
                for key in range(length):
                    x[key] = x[key] if keys[text, key] else np.float32(-3e38)
            peak = _largest(x_bits, powers)
            for key in range(length):
                x[key] = (x[key] - peak) * scale
            _exponentials(x, powers)
            mass = np.float32(0)
            for key in range(length):
                x[key] *= power_values[key]
                mass += x[key]
            share = np.float32(1) / mass
            for key in range(length):
                x[key] *= share
            _rounded(x_bits, bits[text, row])


@_regrouped
def _rounded(wide, bits):  # type: ignore[no-untyped-def]
    """Float32 numbers, by their bits, to bf16, halves to the even one."""
    for word in range(wide.shape[0]):
        half = np.int32(0x7FFF) + ((wide[word] >> np.int32(16)) & np.int32(1))
        bits[word] = np.int16((wide[word] + half) >> np.int32(16))


@jit
def _largest(bits, spare):  # type: ignore[no-untyped-def]
    """The largest of float32 numbers by their bits, compared as integers; one that is no number is larger than all."""
    top = np.int32(-(2**31))
    for word in range(bits.shape[0]):
        top = max(top, bits[word] ^ ((bits[word] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    spare[0] = top ^ ((top >> np.int32(31)) & np.int32(0x7FFFFFFF))
    return spare.view(np.float32)[0]


@_regrouped
def _exponentials(x, scale):  # type: ignore[no-untyped-def]
    """exp(x) of numbers up to 0, to 7 digits, as x * 2**scale: x by a polynomial, and the bits of the power."""
    for word in range(x.shape[0]):
        power = x[word] * np.float32(1.4426950408889634)  # exp(x) = 2**power
        power = np.float32(-127) if power < np.float32(-127) else power  # whose scale is 0
        whole = np.floor(power)
        rest = power - whole
        value = np.float32(1.8775767e-3)
        value = value * rest + np.float32(8.9893397e-3)
        value = value * rest + np.float32(5.5826318e-2)
        value = value * rest + np.float32(2.4015361e-1)
        value = value * rest + np.float32(6.9315308e-1)
        x[word] = value * rest + np.float32(9.9999994e-1)
        scale[word] = (np.int32(whole) + np.int32(127)) << np.int32(23)
