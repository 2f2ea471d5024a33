"""Whole-word masks and corruption, vectorised over the batch, for all objectives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrobench.objective import Passage, Vocabulary

__all__ = [
    "Packed",
    "corrupt",
    "decoder_visibility",
    "drawn_on_cpu",
    "exponential_noise",
    "fill_in",
    "hide",
    "masked_batch",
    "pack",
    "select_tokens",
    "select_words",
    "special_ids",
    "whole_word_mask",
]

_drawn_on_cpu: ContextVar[bool] = ContextVar("drawn_on_cpu", default=False)

MOST_MASKED = 512  # most masked tokens of a text, as in the released collators (transformers' max_predictions)


class Packed(NamedTuple):
    """A padded batch of texts between their special tokens."""

    input_ids: Tensor  # [B, L] int64
    attention_mask: Tensor  # [B, L] int64, 1 at real tokens
    words: Tensor  # [B, L] int64, the number of each token's word; -1 at special tokens and padding


def pack(
    passages: Sequence[Passage], vocabulary: Vocabulary, max_length: int, window: torch.Generator | None = None
) -> Packed:
    """Return [CLS] title text [SEP], right-padded to the longest of the batch and at most `max_length` tokens.

    A longer text is cut to its head (RetroMAE), or to a random window drawn from the generator `window` (bowdpr).
    """
    ids, starts = _cut(passages, max_length - 2, window)
    counts = np.array([len(row) for row in ids])  # [B]
    columns = np.arange(counts.max() + 2)  # [L]
    inside = (columns > 0) & (columns <= counts[:, None])  # [B, L]
    real = columns < counts[:, None] + 2

    input_ids = np.full(inside.shape, vocabulary.pad, dtype=np.int64)
    input_ids[:, 0] = vocabulary.cls
    input_ids[inside] = np.concatenate(ids)
    texts = np.arange(len(ids))
    input_ids[texts, counts + 1] = vocabulary.sep

    words = np.full(inside.shape, -1, dtype=np.int64)
    words[inside] = _word_numbers(np.concatenate(starts), counts)
    attention_mask = torch.from_numpy(real.astype(np.int64))
    return Packed(torch.from_numpy(input_ids), attention_mask, torch.from_numpy(words))


def _cut(
    passages: Sequence[Passage], room: int, window: torch.Generator | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the ids and the word starts of each passage, at most `room` of each."""
    ids, starts = [], []
    for title, title_starts, text, text_starts in passages:
        excess = len(title) + len(text) - room
        first = 0
        if window is not None and excess > 0:
            first = int(torch.randint(excess + 1, (), generator=window))
        cut = slice(first, first + room)
        passage_ids = np.concatenate([title, text])
        passage_starts = np.concatenate([title_starts, text_starts])
        ids.append(passage_ids[cut])
        starts.append(passage_starts[cut])
    return ids, starts


def _word_numbers(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return each token's word number within its text, from 0, for texts of `counts` tokens one behind the other."""
    words_so_far = np.cumsum(starts, dtype=np.int64)
    filled = counts[counts > 0]
    first_tokens = np.cumsum(filled) - filled
    words_before = np.repeat(words_so_far[first_tokens], filled)
    return np.asarray(words_so_far - words_before)


@lru_cache(maxsize=8)
def special_ids(vocabulary: Vocabulary) -> Tensor:
    """Return a mask of the ids that are not words, [V] bool."""
    special = torch.zeros(vocabulary.size, dtype=torch.bool)
    special[sorted(vocabulary.special)] = True
    return special


def whole_word_mask(
    words: Tensor, lengths: Tensor, ratio: float, copies: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Draw independent masks of whole words, [B, copies, L] bool, True where masked.

    `words` are as in `Packed`, and `lengths` [B] count the real tokens. Without a generator, the default generator of
    the tensors' device is used.

    The distribution equals transformers' DataCollatorForWholeWordMask, which the released objectives use. Words in
    random order fill a budget of round(length * ratio) tokens, at least 1; the length counts special tokens. A word
    that would exceed the budget is skipped, not split.
    """
    texts = len(words)
    # Reading the largest word number would wait for a GPU; a text has no more words than tokens.
    most_words = words.shape[1]
    if words.is_cpu:
        most_words = max(1, int(words.max()) + 1)
    sizes = _word_sizes(words, most_words)
    budgets = _budgets(lengths, ratio).to(torch.int32)
    keys = torch.rand(texts, copies, most_words, generator=generator, device=words.device)
    order = keys.argsort(dim=-1)
    repeated_sizes = sizes[:, None].expand(-1, copies, -1)
    shuffled = repeated_sizes.gather(2, order)
    selected = _fill(shuffled, budgets[:, None, None])
    masked_words = _unshuffled(selected, order)
    word_of_token = words.clamp(min=0)[:, None].expand(-1, copies, -1)
    masked_tokens = masked_words.gather(2, word_of_token)
    return masked_tokens & (words >= 0)[:, None]


def _word_sizes(words: Tensor, most_words: int) -> Tensor:
    """Return the tokens of each word, [B, W] int32, from the word of each token, -1 for tokens outside words."""
    if not words.is_cpu:
        return _word_sizes_by_search(words, most_words)
    sizes = torch.zeros(len(words), most_words + 1, dtype=torch.int32)
    sizes.scatter_add_(1, words + 1, torch.ones_like(words, dtype=torch.int32))  # bin 0 counts tokens outside words
    return sizes[:, 1:]


def _unshuffled(selected: Tensor, order: Tensor) -> Tensor:
    """Return the words' selection [B, K, W] in the order of the text, from the shuffled `order`."""
    if not selected.is_cpu:
        return selected.gather(2, order.argsort(dim=-1))  # torch's deterministic scatter sorts on a GPU
    return torch.zeros_like(selected).scatter_(2, order, selected)


def _word_sizes_by_search(words: Tensor, most_words: int) -> Tensor:
    """Return `_word_sizes` without a scatter: the words of a text ascend, so a search for their ends counts them."""
    behind = torch.where(words < 0, most_words, words)
    behind[:, 0] = -1  # [CLS]
    numbers = torch.arange(most_words, device=words.device).expand(len(words), -1).contiguous()
    ends = torch.searchsorted(behind, numbers, right=True)
    return torch.diff(ends, dim=1, prepend=torch.ones_like(ends[:, :1])).to(torch.int32)


def _budgets(lengths: Tensor, ratio: float) -> Tensor:
    """Return how many tokens of each text a mask may hide, whole numbers in float64."""
    return (lengths.double() * ratio).round().clamp(1, MOST_MASKED)


def _fill(sizes: Tensor, room: Tensor) -> Tensor:
    """Take sizes [..., W] greedily in order while they fit into `room` [..., 1], and skip sizes that do not fit.

    Each round ends at a word that exceeds the room, so the room is then smaller than that word. The words that end
    rounds therefore have different sizes. A GPU runs as many rounds as any text could need, since a check for the end
    would stall it.
    """
    selected = torch.zeros_like(sizes, dtype=torch.bool)
    waiting = sizes > 0
    rounds = sizes.shape[-1] + 1
    if not sizes.is_cpu:
        rounds = _most_rounds(sizes.shape[-1])  # a device has one word for each token here, most of them empty
    for _ in range(rounds):
        waiting_sizes = sizes * waiting
        filled = waiting_sizes.cumsum(-1, dtype=torch.int32)
        fits = waiting & (filled <= room)
        selected |= fits
        used = (waiting_sizes * fits).sum(-1, keepdim=True, dtype=torch.int32)
        room = room - used
        waiting = waiting & ~fits & (sizes <= room)
        if sizes.is_cpu and not bool(waiting.any()):
            break
    return selected


def _most_rounds(tokens: int) -> int:
    """Return how many rounds of `_fill` a text of this many tokens can need.

    Each round takes a token at least, and n rounds end at words of n - 1 different sizes, which are 2 to n at best.
    """
    rounds = 1
    while (rounds + 1) * (rounds + 4) // 2 - 1 <= tokens:
        rounds += 1
    return rounds


def corrupt(
    input_ids: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: torch.Generator, style: str = "80/10/10"
) -> Tensor:
    """Return ids [B, L] whose `selected` tokens are [MASK], a random id of the vocabulary, or unchanged (BERT, 3.1).

    `style` "mask" replaces every selected token by [MASK], as the RetroMAE and DupMAE papers describe it.
    """
    draws = torch.rand(input_ids.shape, generator=generator)
    random_ids = torch.randint(vocabulary.size, input_ids.shape, generator=generator)
    mask_share = 0.8
    if style == "mask":
        mask_share = 1.0
    masked = selected & (draws < mask_share)
    randomised = selected & (draws >= 0.9) & ~masked
    corrupted = torch.where(randomised, random_ids, input_ids)
    return torch.where(masked, vocabulary.mask, corrupted)


def masked_batch(
    packed: Packed,
    vocabulary: Vocabulary,
    ratio: float,
    generator: torch.Generator,
    style: str = "80/10/10",
    *,
    budget: Literal["tokens", "content"] = "tokens",
    specials: Literal["spend", "skip"] = "spend",
) -> dict[str, Tensor]:
    """Return the batch of `hide`, with whole words hidden as `select_words` draws them."""
    selected = select_words(packed, vocabulary, ratio, generator, budget=budget, specials=specials)
    return hide(packed, selected, vocabulary, generator, style)


def select_words(
    packed: Packed,
    vocabulary: Vocabulary,
    ratio: float,
    generator: torch.Generator,
    *,
    budget: Literal["tokens", "content"] = "tokens",
    specials: Literal["spend", "skip"] = "spend",
) -> Tensor:
    """Draw whole words to hide, [B, L] bool.

    The share `ratio` is of all tokens, or of the "content" without [CLS] and [SEP] (Condenser, CoT-MAE). A special
    token inside a text, such as [UNK], is neither hidden nor predicted. As in RetroMAE it spends budget when drawn;
    with "skip" it is never drawn (Condenser).
    """
    lengths = packed.attention_mask.sum(1)
    if budget == "content":
        lengths = lengths - 2
    is_special = special_ids(vocabulary)[packed.input_ids]
    words = packed.words
    if specials == "skip":
        words = words.masked_fill(is_special, -1)
    selected = whole_word_mask(words, lengths, ratio, generator=generator)[:, 0]
    return selected & ~is_special


def select_tokens(packed: Packed, ratio: float, generator: torch.Generator) -> Tensor:
    """Draw tokens to hide, [B, L] bool: of n tokens between [CLS] and [SEP] exactly ceil(ratio * n) (LexMAE).

    Words may be split, and special tokens inside a text, such as [UNK], count like others.
    """
    content = packed.words >= 0
    budgets = (content.sum(1).double() * ratio).ceil()  # [B]
    keys = torch.rand(content.shape, generator=generator)
    ranks = keys.masked_fill(~content, 2.0).argsort(1).argsort(1)  # the content comes first
    return content & (ranks < budgets[:, None])


def hide(
    packed: Packed, selected: Tensor, vocabulary: Vocabulary, generator: torch.Generator, style: str = "80/10/10"
) -> dict[str, Tensor]:
    """Return a batch for masked language modelling: corrupted ids and attention mask, both [B, L], and the targets.

    `selected` [B, L] is True at the words to predict. `masked_positions` [M] index the flattened batch, and
    `masked_ids` [M] are the words there. They are computed here, on the CPU, since no step may wait for the device to
    count them.
    """
    positions = selected.flatten().nonzero().flatten()
    return {
        "input_ids": corrupt(packed.input_ids, selected, vocabulary, generator, style),
        "attention_mask": packed.attention_mask,
        "masked_positions": positions,
        "masked_ids": packed.input_ids.flatten()[positions],
    }


def fill_in(input_ids: Tensor, masked: Tensor, words: Tensor) -> Tensor:
    """Return ids [B, L] in which the words [M] stand at the `masked` tokens [B, L], in the order of the text."""
    numbers = masked.flatten().cumsum(0) - 1  # [B * L], of each masked token's word; -1 before the first
    words = torch.cat([words, words.new_zeros(1)])  # there may be none
    return torch.where(masked, words[numbers].view_as(input_ids), input_ids)


def exponential_noise(like: Tensor) -> Tensor:
    """Draw independent Exp(1) numbers in the shape of `like`, by the default generator of its device."""
    if _drawn_on_cpu.get():
        return torch.empty(like.shape).exponential_().to(like.device)
    return torch.empty_like(like, dtype=torch.float32).exponential_()


@contextmanager
def drawn_on_cpu() -> Iterator[None]:
    """Let a CPU draw the masks of every device within the context, so that devices can be compared."""
    token = _drawn_on_cpu.set(True)
    try:
        yield
    finally:
        _drawn_on_cpu.reset(token)


def decoder_visibility(words: Tensor, lengths: Tensor, ratio: float, pool: int) -> Tensor:
    """Draw which tokens each position of RetroMAE's enhanced decoder sees, [B, L, L] bool (section 3.3; data.py).

    A text draws min(length, pool) whole-word masks. Each row picks one mask with replacement and also hides its own
    position. Rows of padding see [CLS] alone, which keeps their softmax finite. The tensors' device draws, from its
    default generator.
    """
    if _drawn_on_cpu.get() and not words.is_cpu:
        return decoder_visibility(words.cpu(), lengths.cpu(), ratio, pool).to(words.device)
    picks = torch.rand(words.shape, device=words.device) * lengths.clamp(max=pool)[:, None]
    if words.is_cpu:
        return _decoder_visibility_cpu(words, lengths, ratio, picks.long())
    length = words.shape[1]
    masks = whole_word_mask(words, lengths, ratio, copies=min(length, pool))  # [B, K, L]
    mask_of_row = picks.long()[:, :, None].expand(-1, -1, length)
    hidden = masks.gather(1, mask_of_row)  # [B, L, L]
    columns = torch.arange(length, device=words.device)
    real = columns < lengths[:, None]  # [B, L]
    not_itself = columns[:, None] != columns
    visible = ~hidden & not_itself & real[:, None, :]
    return torch.where(real[:, :, None], visible, columns == 0)


def _decoder_visibility_cpu(words: Tensor, lengths: Tensor, ratio: float, picks: Tensor) -> Tensor:
    """Draw visibility by a loop: on a CPU, sorting a random key per word and mask takes ten times as long."""
    from retrobench.model.sampling import decoder_rows

    seeds = torch.randint(2**63 - 1, (len(words),))
    budgets = _budgets(lengths, ratio).long()
    rows = decoder_rows(
        words.contiguous().numpy(),
        lengths.contiguous().numpy(),
        budgets.numpy(),
        picks.numpy(),
        seeds.numpy().view(np.uint64),
    )
    return torch.from_numpy(rows.view(np.bool_))
