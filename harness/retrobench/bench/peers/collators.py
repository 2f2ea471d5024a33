"""
The released collators as their projects describe them: Python lists, a text at a time.

* retromae           RetroMAE's, with a matrix of visible tokens for each text
* bow                bowdpr's for BoW prediction, with dense weights over the vocabulary
* mlm, ae, ar        bowdpr's for masked language modelling, auto-encoding and auto-regression

Each takes passages and a `random.Random`, and returns the batch for a step of `steps`. bowdpr's collator tokenises too,
which is left out here. Tensors are int64 as released, labels -100 where nothing is predicted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrobench.objective import Passage, Vocabulary

__all__ = [
    "AE_RATIO",
    "DECODER_RATIO",
    "POOL",
    "RATIO",
    "UNLABELLED",
    "Batch",
    "Collator",
    "ae",
    "ar",
    "bow",
    "mlm",
    "retromae",
    "whole_word_mask",
]

Batch = dict[str, Tensor]
Collator = Callable[[Sequence[Passage], Vocabulary, int, random.Random], Batch]

MOST_MASKED = 512
POOL = 256
RATIO = 0.3
DECODER_RATIO = 0.5
AE_RATIO = 0.45  # auto-encoding hides more from its decoder than from its encoder
UNLABELLED = -100
LAST_UNUSED = 998  # bowdpr's bags leave out ids up to 998
CLS = "[CLS]"
SEP = "[SEP]"


class _Window(NamedTuple):
    """Ids and pieces of a text, special tokens among them."""

    ids: list[int]
    pieces: list[str]


def whole_word_mask(tokens: Sequence[str], ratio: float, draw: random.Random) -> list[int]:
    """Return 1 at each token that is masked, as transformers' DataCollatorForWholeWordMask drew it until version 4."""
    words = _words(tokens)
    draw.shuffle(words)
    share = max(1, round(len(tokens) * ratio))
    budget = min(MOST_MASKED, share)
    masked: set[int] = set()
    for positions in words:
        if len(masked) >= budget:
            break
        if len(masked) + len(positions) <= budget:
            masked.update(positions)
    return [int(position in masked) for position in range(len(tokens))]


def _words(tokens: Sequence[str]) -> list[list[int]]:
    """Return the positions of each word's pieces."""
    words: list[list[int]] = []
    for position, token in enumerate(tokens):
        if token in (CLS, SEP):
            continue
        if words and token.startswith("##"):
            words[-1].append(position)
        else:
            words.append([position])
    return words


def retromae(passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, draw: random.Random) -> Batch:
    """Draw pools of up to 256 masks a text, and copy a row of the pool for each token, [B, L, L] int64."""
    rows = []
    masks = []
    matrices = []
    labels = []
    for passage in passages:
        window = _window(passage, vocabulary, max_length)
        rows.append(torch.tensor(window.ids))
        masks.append(torch.tensor(whole_word_mask(window.pieces, RATIO, draw)))
        matrices.append(_draw_visible(window.pieces, draw))
        word_ids = window.ids[1:-1]
        labels.append(torch.tensor([UNLABELLED, *word_ids, UNLABELLED]))
    clean = _pad(rows, vocabulary.pad)
    length = clean.shape[1]
    visible = clean.new_zeros(len(rows), length, length)
    for text, matrix in enumerate(matrices):
        visible[text, : len(matrix), : len(matrix)] = matrix
    batch = _encoder_side(rows, masks, vocabulary, draw)
    batch["decoder_input_ids"] = clean
    batch["decoder_attention_mask"] = visible
    batch["decoder_labels"] = _pad(labels, UNLABELLED)
    return batch


def _draw_visible(tokens: Sequence[str], draw: random.Random) -> Tensor:
    """Return 1 where a row's token sees a column's token, [L, L] int64; no token sees itself."""
    pool_size = min(len(tokens), POOL)
    pool = [whole_word_mask(tokens, DECODER_RATIO, draw) for _ in range(pool_size)]
    hidden = []
    for position in range(len(tokens)):
        row = deepcopy(pool[draw.randint(0, pool_size - 1)])
        row[position] = 1
        hidden.append(row)
    return 1 - torch.tensor(hidden)


def bow(passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, draw: random.Random) -> Batch:
    """Give the words of each text equal weights whose sum is 1, [B, V] float32."""
    rows, masks = _mask(passages, vocabulary, max_length, draw)
    weights = torch.zeros(len(rows), vocabulary.size)
    for text, row in enumerate(rows):
        bag = {word for word in row.tolist() if word > LAST_UNUSED}
        for word in bag:
            weights[text, word] = 1 / len(bag)
    batch = _encoder_side(rows, masks, vocabulary, draw)
    batch["bow_weights"] = weights
    return batch


def mlm(passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, draw: random.Random) -> Batch:
    """Mask for masked language modelling alone."""
    rows, masks = _mask(passages, vocabulary, max_length, draw)
    return _encoder_side(rows, masks, vocabulary, draw)


def ae(passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, draw: random.Random) -> Batch:
    """Mask the text a second time, more heavily, for the decoder."""
    windows = [_window(passage, vocabulary, max_length, draw) for passage in passages]
    rows = [torch.tensor(window.ids) for window in windows]
    encoder_masks = [torch.tensor(whole_word_mask(window.pieces, RATIO, draw)) for window in windows]
    decoder_masks = [torch.tensor(whole_word_mask(window.pieces, AE_RATIO, draw)) for window in windows]
    decoder = _encoder_side(rows, decoder_masks, vocabulary, draw)
    batch = _encoder_side(rows, encoder_masks, vocabulary, draw)
    batch["decoder_input_ids"] = decoder["encoder_input_ids"]
    batch["decoder_labels"] = decoder["encoder_labels"]
    return batch


def ar(passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, draw: random.Random) -> Batch:
    """Add the clean text for a decoder that goes from left to right."""
    rows, masks = _mask(passages, vocabulary, max_length, draw)
    clean = _pad(rows, vocabulary.pad)
    batch = _encoder_side(rows, masks, vocabulary, draw)
    batch["decoder_input_ids"] = clean
    batch["decoder_labels"] = clean.masked_fill(clean == vocabulary.pad, UNLABELLED)
    return batch


def _window(passage: Passage, vocabulary: Vocabulary, max_length: int, draw: random.Random | None = None) -> _Window:
    """Return a window between special tokens: a long text's beginning, or drawn at random if `draw` is given.

    Pieces are spelt as by a WordPiece tokenizer; only their beginning matters here.
    """
    ids = np.concatenate([passage.title, passage.text]).tolist()
    starts = np.concatenate([passage.title_starts, passage.text_starts]).tolist()
    length = max_length - 2
    first = 0
    if draw is not None and len(ids) > length:
        first = draw.randint(0, len(ids) - length)
    window = slice(first, first + length)
    pieces = ["word" if start else "##piece" for start in starts[window]]
    return _Window([vocabulary.cls, *ids[window], vocabulary.sep], [CLS, *pieces, SEP])


def _mask(
    passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, draw: random.Random
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the ids and the mask of each text's window."""
    rows = []
    masks = []
    for passage in passages:
        window = _window(passage, vocabulary, max_length, draw)
        rows.append(torch.tensor(window.ids))
        masks.append(torch.tensor(whole_word_mask(window.pieces, RATIO, draw)))
    return rows, masks


def _encoder_side(
    rows: Sequence[Tensor], masks: Sequence[Tensor], vocabulary: Vocabulary, draw: random.Random
) -> Batch:
    """Return ids corrupted 80/10/10, the mask of real tokens, and labels, padded to the batch's longest text."""
    ids = _pad(rows, vocabulary.pad)
    is_word = ~_special(ids, vocabulary)
    selected = _pad(masks, 0).bool() & is_word
    generator = torch.Generator().manual_seed(draw.getrandbits(63))
    mask_draws = torch.bernoulli(torch.full(ids.shape, 0.8), generator=generator)
    masked = mask_draws.bool() & selected
    swap_draws = torch.bernoulli(torch.full(ids.shape, 0.5), generator=generator)
    swapped = swap_draws.bool() & selected & ~masked
    random_ids = torch.randint(vocabulary.size, ids.shape, generator=generator)
    corrupted = ids.masked_fill(masked, vocabulary.mask)
    corrupted = torch.where(swapped, random_ids, corrupted)
    return {
        "encoder_input_ids": corrupted,
        "encoder_attention_mask": _pad([torch.ones_like(row) for row in rows], 0),
        "encoder_labels": torch.where(selected, ids, UNLABELLED),
    }


def _special(ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Return True at ids that are no words, [B, L]."""
    rows = []
    for row in ids.tolist():
        rows.append([word in vocabulary.special for word in row])
    return torch.tensor(rows)


def _pad(rows: Sequence[Tensor], value: int) -> Tensor:
    padded: Tensor = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
    return padded
