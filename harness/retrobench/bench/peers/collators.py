"""
The released collators as their projects describe them: Python lists, a text at a time.

* retromae           RetroMAE's, with a matrix of visible tokens for each text
* bow                bowdpr's for BoW prediction, with dense weights over the vocabulary
* mlm, ae, ar        bowdpr's for masked language modelling, and for its auto-encoding and auto-regressive decoders

All take passages and a generator of Python's, and give what a step of `steps` takes. Tokenising, which bowdpr does here
too, is left out. Tensors are int64 as released, labels -100 where nothing is predicted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from retrobench.objective import Passage, Vocabulary

__all__ = [
    "AE_RATIO",
    "DECODER_RATIO",
    "POOL",
    "RATIO",
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

MOST_MASKED, POOL = 512, 256
RATIO, DECODER_RATIO, AE_RATIO = 0.3, 0.5, 0.45  # auto-encoding hides more from its decoder than from its encoder
LAST_UNUSED = 998  # bowdpr leaves out of its bags the ids up to here
CLS, SEP = "[CLS]", "[SEP]"


def whole_word_mask(tokens: Sequence[str], ratio: float, drawn: random.Random) -> list[int]:
    """Return 1 at each token that is masked, as transformers' DataCollatorForWholeWordMask drew it until version 4."""
    words: list[list[int]] = []
    for place, token in enumerate(tokens):
        if token in (CLS, SEP):
            continue
        if words and token.startswith("##"):
            words[-1].append(place)
        else:
            words.append([place])
    drawn.shuffle(words)
    budget = min(MOST_MASKED, max(1, round(len(tokens) * ratio)))
    masked: set[int] = set()
    for word in words:
        if len(masked) >= budget:
            break
        if len(masked) + len(word) <= budget:
            masked.update(word)
    return [int(place in masked) for place in range(len(tokens))]


def retromae(passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, drawn: random.Random) -> Batch:
    """Draw pools of up to 256 masks a text, and copy a row of the pool for each token, [B, L, L] int64."""
    rows, masks, matrices, labels = [], [], [], []
    for passage in passages:
        ids, tokens = _window(passage, vocabulary, max_length)
        rows.append(torch.tensor(ids))
        masks.append(torch.tensor(whole_word_mask(tokens, RATIO, drawn)))
        pool = [whole_word_mask(tokens, DECODER_RATIO, drawn) for _ in range(min(len(tokens), POOL))]
        matrix = []
        for place in range(len(tokens)):
            row = deepcopy(pool[drawn.randint(0, len(pool) - 1)])
            row[place] = 1
            matrix.append(row)
        matrices.append(1 - torch.tensor(matrix))
        labels.append(torch.tensor([-100, *ids[1:-1], -100]))
    clean = _padded(rows, vocabulary.pad)
    length = clean.shape[1]
    visible = clean.new_zeros(len(rows), length, length)
    for text, shown in enumerate(matrices):
        visible[text, : len(shown), : len(shown)] = shown
    return {
        **_encoder_side(rows, masks, vocabulary, drawn),
        "decoder_input_ids": clean,
        "decoder_attention_mask": visible,
        "decoder_labels": _padded(labels, -100),
    }


def bow(passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, drawn: random.Random) -> Batch:
    """Give the words of each text equal weights whose sum is 1, [B, V] float32."""
    rows, masks = _masked(passages, vocabulary, max_length, drawn)
    weights = torch.zeros(len(rows), vocabulary.size)
    for text, row in enumerate(rows):
        bag = {word for word in row.tolist() if word > LAST_UNUSED}
        for word in bag:
            weights[text, word] = 1 / len(bag)
    return {**_encoder_side(rows, masks, vocabulary, drawn), "bow_weights": weights}


def mlm(passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, drawn: random.Random) -> Batch:
    """Mask for masked language modelling alone."""
    return _encoder_side(*_masked(passages, vocabulary, max_length, drawn), vocabulary, drawn)


def ae(passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, drawn: random.Random) -> Batch:
    """Mask the text a second time, more heavily, for the decoder."""
    texts = [_window(passage, vocabulary, max_length, drawn) for passage in passages]
    rows = [torch.tensor(ids) for ids, _ in texts]
    once = [torch.tensor(whole_word_mask(tokens, RATIO, drawn)) for _, tokens in texts]
    twice = [torch.tensor(whole_word_mask(tokens, AE_RATIO, drawn)) for _, tokens in texts]
    decoder = _encoder_side(rows, twice, vocabulary, drawn)
    return {
        **_encoder_side(rows, once, vocabulary, drawn),
        "decoder_input_ids": decoder["encoder_input_ids"],
        "decoder_labels": decoder["encoder_labels"],
    }


def ar(passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, drawn: random.Random) -> Batch:
    """Add the clean text for a decoder that goes from left to right."""
    rows, masks = _masked(passages, vocabulary, max_length, drawn)
    clean = _padded(rows, vocabulary.pad)
    labels = clean.masked_fill(clean == vocabulary.pad, -100)
    return {
        **_encoder_side(rows, masks, vocabulary, drawn),
        "decoder_input_ids": clean,
        "decoder_labels": labels,
    }


def _window(
    passage: Passage, vocabulary: Vocabulary, max_length: int, drawn: random.Random | None = None
) -> tuple[list[int], list[str]]:
    """Return ids and pieces between special tokens: a long text's beginning, or a random part if `drawn` is given.

    Pieces are spelt as by a WordPiece tokenizer; only their beginning matters here.
    """
    ids = np.concatenate([passage.title, passage.text]).tolist()
    starts = np.concatenate([passage.title_starts, passage.text_starts]).tolist()
    room, first = max_length - 2, 0
    if drawn is not None and len(ids) > room:
        first = drawn.randint(0, len(ids) - room)
    window = slice(first, first + room)
    pieces = ["word" if start else "##piece" for start in starts[window]]
    return [vocabulary.cls, *ids[window], vocabulary.sep], [CLS, *pieces, SEP]


def _masked(
    passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, drawn: random.Random
) -> tuple[list[Tensor], list[Tensor]]:
    rows, masks = [], []
    for passage in passages:
        ids, tokens = _window(passage, vocabulary, max_length, drawn)
        rows.append(torch.tensor(ids))
        masks.append(torch.tensor(whole_word_mask(tokens, RATIO, drawn)))
    return rows, masks


def _encoder_side(
    rows: Sequence[Tensor], masks: Sequence[Tensor], vocabulary: Vocabulary, drawn: random.Random
) -> Batch:
    """Return ids corrupted 80/10/10, the mask of real tokens, and labels, padded to the batch's longest text."""
    ids = _padded(rows, vocabulary.pad)
    specials = torch.tensor([[word in vocabulary.special for word in row] for row in ids.tolist()])
    selected = _padded(masks, 0).bool() & ~specials
    generator = torch.Generator().manual_seed(drawn.getrandbits(63))
    labels = torch.where(selected, ids, -100)
    masked = torch.bernoulli(torch.full(ids.shape, 0.8), generator=generator).bool() & selected
    swapped = torch.bernoulli(torch.full(ids.shape, 0.5), generator=generator).bool() & selected & ~masked
    others = torch.randint(vocabulary.size, ids.shape, generator=generator)
    shown = torch.where(swapped, others, ids.masked_fill(masked, vocabulary.mask))
    attention = _padded([torch.ones_like(row) for row in rows], 0)
    return {"encoder_input_ids": shown, "encoder_attention_mask": attention, "encoder_labels": labels}


def _padded(rows: Sequence[Tensor], filled: int) -> Tensor:
    padded: Tensor = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=filled)
    return padded
