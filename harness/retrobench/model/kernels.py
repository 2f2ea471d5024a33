"""
Loops for the processor, compiled by numba and released from the GIL. No library runs them at memory speed.

* token_maxima            the maximum over tokens of logits, and its token
* token_maxima_gradients  the gradients of that maximum
* cross_entropy           the cross-entropy of rows of logits, and its gradients in place of the logits
* softmax                 attention weights in place of scores

`tests/model/test_kernels.py` compares each with torch's plain computation.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from retrobench.core import in_threads, jit

__all__ = ["cross_entropy", "softmax", "token_maxima", "token_maxima_gradients"]

ROWS = 32  # rows of logits per unit of a thread's work
WORDS = 512  # rows of the word matrix that fit into a core's cache beside a text


def token_maxima(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return each word's largest logit and its token, the first of equals: [b, L, V] -> [b, V] float32, int32.

    On a processor torch's max with indices takes several times as long as its max without them.
    """
    texts, _, words = logits.shape
    largest = np.empty((texts, words), np.float32)
    tokens = np.empty((texts, words), np.int32)
    if logits.dtype == torch.bfloat16:
        values = logits.view(torch.int16).numpy()
        maxima = _maxima_bfloat16
    else:
        values = logits.float().numpy()
        maxima = _maxima

    def work(first: int, last: int) -> None:
        maxima(values[first:last], largest[first:last], tokens[first:last])

    in_threads(work, texts)
    return torch.from_numpy(largest), torch.from_numpy(tokens)


def token_maxima_gradients(d_maxima: Tensor, tokens: Tensor, rows: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of rows [B, L, D] and words [V, D], in float32.

    `d_maxima` [B, V] is the gradient of the maxima, and `tokens` [B, V] are their tokens. Each maximum depends on one
    token, so nothing of size [B, L, V] is needed.
    """
    slopes = d_maxima.float().contiguous().numpy()
    columns = tokens.numpy()
    texts = rows.float().contiguous().numpy()
    matrix = words.float().contiguous().numpy()
    d_rows = np.zeros(texts.shape, np.float32)
    d_words = np.zeros(matrix.shape, np.float32)

    def work_on_rows(first: int, last: int) -> None:
        _add_to_rows(slopes, columns, matrix, d_rows, first, last)

    def work_on_words(first: int, last: int) -> None:
        _add_to_words(slopes, columns, texts, d_words, first, last)

    in_threads(work_on_rows, len(texts))
    in_threads(work_on_words, len(matrix))
    return torch.from_numpy(d_rows), torch.from_numpy(d_words)


def cross_entropy(logits: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropies' sum over bfloat16 rows [n, V] plus bias, and its gradient by the bias [V].

    The gradient by the logits overwrites the logits. A non-finite logit makes the sum non-finite. A row passes through
    all its steps in a core's cache, where torch would pass all rows through each of ten steps.
    """
    bits = logits.view(torch.int16).numpy()
    count, words = bits.shape
    target_words = targets.numpy()
    bias_values = np.zeros(words, np.float32)
    if bias is not None:
        bias_values = bias.detach().float().numpy()
    losses = np.empty(count, np.float32)
    blocks = -(-count // ROWS)
    d_bias = np.zeros((blocks, words), np.float32)  # one sum per block, so the number of threads changes no result

    def work(first: int, last: int) -> None:
        for block in range(first, last):
            rows = slice(block * ROWS, (block + 1) * ROWS)
            _cross_entropy(bits[rows], bias_values, target_words[rows], losses[rows], d_bias[block])

    in_threads(work, blocks)
    return torch.from_numpy(losses).sum(), torch.from_numpy(d_bias.sum(0))


def softmax(scores: Tensor, scale: float, keys: Tensor | None) -> None:
    """Overwrite scores [B, H, L, L] bfloat16 by the softmax of scale * scores over the last axis, on one thread.

    `keys` [B, L] bool are the keys to attend to, None for all. A non-finite score makes its row non-finite.
    """
    bits = scores.view(torch.int16).numpy()
    texts, length = len(bits), bits.shape[-1]
    visible = np.ones((texts, length), np.bool_)
    if keys is not None:
        visible = keys.numpy()
    _softmax(bits.reshape(texts, -1, length), np.float32(scale), visible)


@jit
def _maxima(logits, largest, tokens):  # type: ignore[no-untyped-def]
    for text in range(logits.shape[0]):
        for word in range(logits.shape[2]):
            largest[text, word] = logits[text, 0, word]
            tokens[text, word] = 0
        for token in range(1, logits.shape[1]):
            for word in range(logits.shape[2]):
                if logits[text, token, word] > largest[text, word]:
                    largest[text, word] = logits[text, token, word]
                    tokens[text, word] = token


@jit
def _maxima_bfloat16(bits, largest, tokens):  # type: ignore[no-untyped-def]
    """Compare as 16-bit integers, which have the floats' order once a negative number's lower bits are flipped."""
    words = bits.shape[2]
    largest_key = np.empty(words, np.int16)
    largest_token = np.empty(words, np.int16)
    for text in range(bits.shape[0]):
        for word in range(words):
            value = bits[text, 0, word]
            largest_key[word] = value ^ ((value >> np.int16(15)) & np.int16(0x7FFF))
            largest_token[word] = 0
        for token in range(1, bits.shape[1]):
            for word in range(words):
                value = bits[text, token, word]
                key = np.int16(value ^ ((value >> np.int16(15)) & np.int16(0x7FFF)))
                if key > largest_key[word]:
                    largest_key[word] = key
                    largest_token[word] = token
        _widen(largest_key, largest[text].view(np.int32))
        for word in range(words):
            tokens[text, word] = largest_token[word]


@jit
def _widen(keys, float32_bits):  # type: ignore[no-untyped-def]
    """Write the float32 bits of the bfloat16 numbers that `keys` stand for."""
    for word in range(keys.shape[0]):
        value = keys[word] ^ ((keys[word] >> np.int16(15)) & np.int16(0x7FFF))
        float32_bits[word] = np.int32(value) << np.int32(16)


@jit
def _add_to_rows(slopes, tokens, words, d_rows, first, last):  # type: ignore[no-untyped-def]
    for start in range(0, words.shape[0], WORDS):
        end = min(start + WORDS, words.shape[0])
        for text in range(first, last):
            for word in range(start, end):
                slope = slopes[text, word]
                token = tokens[text, word]
                for column in range(words.shape[1]):
                    d_rows[text, token, column] += slope * words[word, column]


@jit
def _add_to_words(slopes, tokens, rows, d_words, first, last):  # type: ignore[no-untyped-def]
    for start in range(first, last, WORDS):
        end = min(start + WORDS, last)
        for text in range(rows.shape[0]):
            for word in range(start, end):
                slope = slopes[text, word]
                token = tokens[text, word]
                for column in range(rows.shape[2]):
                    d_words[word, column] += slope * rows[text, token, column]


# The compiler may reorder sums, to add several numbers at once. Non-finite numbers stay non-finite.
_jit_reordered = partial(jit, fastmath={"reassoc", "contract", "nsz"})


@_jit_reordered
def _cross_entropy(bits, bias, targets, losses, d_bias):  # type: ignore[no-untyped-def]
    """Run one loop per step, so that the compiler can use instructions on 16 numbers."""
    words = bits.shape[1]
    values = np.empty(words, np.float32)
    scale_bits = np.empty(words, np.int32)
    value_bits = values.view(np.int32)
    scales = scale_bits.view(np.float32)
    for row in range(bits.shape[0]):
        for word in range(words):
            value_bits[word] = np.int32(bits[row, word]) << np.int32(16)
        for word in range(words):
            values[word] += bias[word]
        target_logit = values[targets[row]]
        peak = _largest(value_bits, scale_bits)
        for word in range(words):
            values[word] -= peak
        _exponentials(values, scale_bits)
        mass = np.float32(0)
        for word in range(words):
            values[word] *= scales[word]
            mass += values[word]
        losses[row] = np.log(mass) + peak - target_logit
        share = np.float32(1) / mass
        for word in range(words):
            values[word] *= share
        values[targets[row]] -= np.float32(1)
        for word in range(words):
            d_bias[word] += values[word]
        _round(value_bits, bits[row])


@_jit_reordered
def _softmax(bits, scale, keys):  # type: ignore[no-untyped-def]
    """Run one loop per step, as `_cross_entropy` does."""
    length = bits.shape[2]
    values = np.empty(length, np.float32)
    power_bits = np.empty(length, np.int32)
    value_bits = values.view(np.int32)
    powers = power_bits.view(np.float32)
    for text in range(bits.shape[0]):
        padded = not keys[text].all()
        for row in range(bits.shape[1]):
            for key in range(length):
                value_bits[key] = np.int32(bits[text, row, key]) << np.int32(16)
            if padded:
                for key in range(length):
                    values[key] = values[key] if keys[text, key] else np.float32(-3e38)
            peak = _largest(value_bits, power_bits)
            for key in range(length):
                values[key] = (values[key] - peak) * scale
            _exponentials(values, power_bits)
            mass = np.float32(0)
            for key in range(length):
                values[key] *= powers[key]
                mass += values[key]
            share = np.float32(1) / mass
            for key in range(length):
                values[key] *= share
            _round(value_bits, bits[text, row])


@_jit_reordered
def _round(float32_bits, bfloat16_bits):  # type: ignore[no-untyped-def]
    """Round float32 numbers to bfloat16, by their bits, with ties to even."""
    for word in range(float32_bits.shape[0]):
        bits = float32_bits[word]
        odd = (bits >> np.int32(16)) & np.int32(1)
        half = np.int32(0x7FFF) + odd
        bfloat16_bits[word] = np.int16((bits + half) >> np.int32(16))


@jit
def _largest(bits, spare):  # type: ignore[no-untyped-def]
    """Return the largest float32 number, by its bits compared as integers; NaN is larger than any number."""
    top = np.int32(-(2**31))
    for word in range(bits.shape[0]):
        key = bits[word] ^ ((bits[word] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        top = max(top, key)
    spare[0] = top ^ ((top >> np.int32(31)) & np.int32(0x7FFFFFFF))
    return spare.view(np.float32)[0]


@_jit_reordered
def _exponentials(values, scale_bits):  # type: ignore[no-untyped-def]
    """Compute exp(x) of numbers x up to 0, to 7 digits, as m * 2**s.

    m overwrites x, by a polynomial; `scale_bits` become the float32 bits of 2**s.
    """
    for word in range(values.shape[0]):
        power = values[word] * np.float32(1.4426950408889634)  # exp(x) = 2**power
        power = np.float32(-127) if power < np.float32(-127) else power  # 2**-127 has the bits of 0
        whole = np.floor(power)
        fraction = power - whole
        value = np.float32(1.8775767e-3)
        value = value * fraction + np.float32(8.9893397e-3)
        value = value * fraction + np.float32(5.5826318e-2)
        value = value * fraction + np.float32(2.4015361e-1)
        value = value * fraction + np.float32(6.9315308e-1)
        values[word] = value * fraction + np.float32(9.9999994e-1)
        scale_bits[word] = (np.int32(whole) + np.int32(127)) << np.int32(23)
