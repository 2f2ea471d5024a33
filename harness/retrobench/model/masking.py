"""Whole-word masks and corruption, vectorised over the batch and shared by all objectives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrobench.objective import Passage, Vocabulary

__all__ = ["Packed", "corrupt", "decoder_visibility", "masked_batch", "pack", "special_ids", "whole_word_mask"]

MOST_MASKED = 512  # the released collators never mask more tokens of one text (transformers' max_predictions)


class Packed(NamedTuple):
    """A padded batch of texts between their special tokens."""

    input_ids: Tensor  # [B, L] int64
    attention_mask: Tensor  # [B, L] int64, 1 at real tokens
    words: Tensor  # [B, L] int64, number of the word a token belongs to; -1 at special tokens and padding


def pack(
    passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, window: torch.Generator | None = None
) -> Packed:
    """[CLS] title text [SEP], right-padded to the longest of the batch and at most `max_length` tokens.

    A longer text keeps its head (RetroMAE), or, given a generator, a random window (bowdpr).
    """
    room = max_length - 2
    ids, starts = [], []
    for title, title_starts, text, text_starts in passages:
        spare = len(title) + len(text) - room
        first = int(torch.randint(spare + 1, (), generator=window)) if window is not None and spare > 0 else 0
        ids.append(np.concatenate([title, text])[first : first + room])
        starts.append(np.concatenate([title_starts, text_starts])[first : first + room])
    counts = np.array([len(row) for row in ids])
    column = np.arange(counts.max() + 2)
    inside = (column > 0) & (column <= counts[:, None])
    input_ids = np.full(inside.shape, vocabulary.pad, dtype=np.int64)
    words = np.full(inside.shape, -1, dtype=np.int64)
    input_ids[:, 0] = vocabulary.cls
    input_ids[inside] = np.concatenate(ids)
    input_ids[np.arange(len(ids)), counts + 1] = vocabulary.sep
    begun = np.cumsum(np.concatenate(starts), dtype=np.int64)
    words[inside] = begun - np.repeat(begun[np.cumsum(counts)[counts > 0] - counts[counts > 0]], counts[counts > 0])
    attention = (column < counts[:, None] + 2).astype(np.int64)
    return Packed(torch.from_numpy(input_ids), torch.from_numpy(attention), torch.from_numpy(words))


@lru_cache(maxsize=8)
def special_ids(vocabulary: Vocabulary) -> Tensor:
    """Whether an id is no word, [V] bool."""
    found = torch.zeros(vocabulary.size, dtype=torch.bool)
    found[sorted(vocabulary.special)] = True
    return found


def whole_word_mask(
    words: Tensor, lengths: Tensor, ratio: float, copies: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Independent masks of whole words, [B, copies, L] bool, True where masked.

    The distribution is that of transformers' DataCollatorForWholeWordMask, which the released objectives use: words in
    random order fill a budget of round(length * ratio) tokens, at least 1, where length counts the special tokens; a
    word that would overflow the budget is skipped, not split. `words` is as in `Packed`, `lengths` [B] counts real
    tokens. Without a generator the default one of the tensors' device is drawn from.
    """
    batch = len(words)
    # Asking a device for the largest word number would wait for it; there can be no more words than tokens.
    length = max(1, int(words.max()) + 1) if words.is_cpu else words.shape[1]
    sizes = torch.zeros(batch, length + 1, dtype=torch.int32, device=words.device)
    sizes.scatter_add_(1, words + 1, torch.ones_like(words, dtype=torch.int32))  # bin 0 collects what is no word
    budget = _budgets(lengths, ratio).to(torch.int32)
    keys = torch.rand(batch, copies, length, generator=generator, device=words.device)
    order = keys.argsort(dim=-1)
    shuffled = sizes[:, None, 1:].expand(-1, copies, -1).gather(2, order)
    taken = torch.zeros_like(shuffled, dtype=torch.bool)
    taken.scatter_(2, order, _fill(shuffled, budget[:, None, None]))
    by_token = taken.gather(2, words.clamp(min=0)[:, None].expand(-1, copies, -1))
    return by_token & (words >= 0)[:, None]


def _budgets(lengths: Tensor, ratio: float) -> Tensor:
    """How many tokens of each text a mask may hide, whole numbers in float64."""
    return (lengths.double() * ratio).round().clamp(1, MOST_MASKED)


def _fill(sizes: Tensor, room: Tensor) -> Tensor:
    """Greedily take sizes [..., W] in order while they fit into `room` [..., 1], skipping those that do not."""
    taken = torch.zeros_like(sizes, dtype=torch.bool)
    waiting = sizes > 0
    # Each round ends at a word that overflows, so what is left is smaller than that word: the rounds needed are fewer
    # than the pieces of the longest word. A GPU runs a fixed number, since asking whether to stop would stall it.
    for _ in range(sizes.shape[-1] + 1 if sizes.is_cpu else 8):
        offered = sizes * waiting
        fits = waiting & (offered.cumsum(-1, dtype=torch.int32) <= room)
        taken |= fits
        room = room - (offered * fits).sum(-1, keepdim=True, dtype=torch.int32)
        waiting = waiting & ~fits & (sizes <= room)
        if sizes.is_cpu and not bool(waiting.any()):
            break
    return taken


def corrupt(
    input_ids: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: torch.Generator, style: str = "80/10/10"
) -> Tensor:
    """Ids [B, L] whose `selected` tokens became [MASK], a random id of the whole vocabulary, or stayed (BERT, 3.1).

    `style` "mask" replaces every selected token by [MASK], as the RetroMAE and DupMAE papers describe it.
    """
    kind = torch.rand(input_ids.shape, generator=generator)
    random_ids = torch.randint(vocabulary.size, input_ids.shape, generator=generator)
    masked = selected & (kind < (1.0 if style == "mask" else 0.8))
    swapped = selected & (kind >= 0.9) & ~masked
    return torch.where(masked, vocabulary.mask, torch.where(swapped, random_ids, input_ids))


def masked_batch(
    packed: Packed, vocabulary: Vocabulary, ratio: float, generator: torch.Generator, style: str = "80/10/10"
) -> dict[str, Tensor]:
    """A batch for masked language modelling: corrupted ids and mask, both [B, L], and what to predict where.

    `masked_positions` [M] index the flattened batch and `masked_ids` [M] are the words there. They are found here, on
    the CPU, so that no step waits for the device to count them.
    """
    lengths = packed.attention_mask.sum(1)
    selected = whole_word_mask(packed.words, lengths, ratio, generator=generator)[:, 0]
    # A special token inside a text, such as [UNK], uses budget but is neither hidden nor predicted, as released.
    selected &= ~special_ids(vocabulary)[packed.input_ids]
    positions = selected.flatten().nonzero().flatten()
    return {
        "input_ids": corrupt(packed.input_ids, selected, vocabulary, generator, style),
        "attention_mask": packed.attention_mask,
        "masked_positions": positions,
        "masked_ids": packed.input_ids.flatten()[positions],
    }


def decoder_visibility(words: Tensor, lengths: Tensor, ratio: float, pool: int) -> Tensor:
    """What each position of RetroMAE's enhanced decoder sees, [B, L, L] bool (section 3.3; released data.py).

    A text draws min(length, pool) whole-word masks; every row picks one of them with replacement and hides its own
    position too. Rows of padding see [CLS] alone, which keeps their softmax finite. Drawn on the tensors' own device,
    from its default generator.
    """
    pick = torch.rand(words.shape, device=words.device) * lengths.clamp(max=pool)[:, None]
    if words.is_cpu:
        return _decoder_visibility_cpu(words, lengths, ratio, pick.long())
    length = words.shape[1]
    masks = whole_word_mask(words, lengths, ratio, copies=min(length, pool))  # [B, K, L]
    hidden = masks.gather(1, pick.long()[:, :, None].expand(-1, -1, length))  # [B, L, L]
    column = torch.arange(length, device=words.device)
    real = column < lengths[:, None]  # [B, L]
    visible = ~hidden & (column[:, None] != column) & real[:, None, :]
    return torch.where(real[:, :, None], visible, column == 0)


def _decoder_visibility_cpu(words: Tensor, lengths: Tensor, ratio: float, pick: Tensor) -> Tensor:
    """The same by a loop: sorting a random key for each word of each mask takes ten times as long on a CPU."""
    from retrobench.model.sampling import decoder_rows

    seeds = torch.randint(2**63 - 1, (len(words),)).numpy().view(np.uint64)
    budgets = _budgets(lengths, ratio).long().numpy()
    rows = decoder_rows(words.contiguous().numpy(), lengths.contiguous().numpy(), budgets, pick.numpy(), seeds)
    return torch.from_numpy(rows.view(np.bool_))
