"""Packing, whole-word masks within their budgets, and labels: the exact rules."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from masks import (
    CONTINUES,
    UNKNOWN,
    VOCABULARY,
    agrees,
    labelled_positions,
    mask_budget,
    official_text,
    passage,
    seeded,
)
from torch import Tensor

from retrobench import Passage
from retrobench.model.masking import (
    _fill,
    _most_rounds,
    _word_sizes,
    _word_sizes_by_search,
    decoder_visibility,
    fill_in,
    masked_batch,
    pack,
    select_tokens,
    whole_word_mask,
)

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
WORD_SIZES = [1, 1, 2, 3, 5, 9]  # in pieces; words of one piece are the most common


def text_of_sizes(sizes: list[int]) -> Passage:
    """Build a passage from the number of pieces of each of its words."""
    ids: list[int] = []
    for size in sizes:
        continuation = [1400] * (size - 1)
        ids.extend([1000, *continuation])
    return passage(ids)


def words_of_sizes(texts: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Return word numbers [B, L] and lengths [B] of texts given by the sizes of their words."""
    passages = [text_of_sizes(sizes) for sizes in texts]
    packed = pack(passages, VOCABULARY, 4096)
    return packed.words, packed.attention_mask.sum(1)


def random_sizes(seed: int, texts: int) -> list[list[int]]:
    """Draw the sizes of the words of texts, of 1 to 29 words each."""
    drawn = random.Random(seed)
    sizes = []
    for _ in range(texts):
        words = drawn.randrange(1, 30)
        sizes.append(drawn.choices(WORD_SIZES, k=words))
    return sizes


def assert_filled(mask: Tensor, words: Tensor, sizes: list[int], budget: int) -> None:
    """Assert that a mask [L] takes whole words within a budget, and that no word left over would fit."""
    room = budget
    smallest_skipped = 99
    for word, size in enumerate(sizes):
        masked_pieces = int(mask[words == word].sum())
        assert masked_pieces in (0, size)
        room -= masked_pieces
        if masked_pieces == 0:
            smallest_skipped = min(smallest_skipped, size)
    assert 0 <= room < smallest_skipped


# Packing


def test_packed_texts_stand_between_their_special_tokens() -> None:
    titled = passage([1000, 1400, 1001, 1002], title=3)
    empty = passage([])
    short = passage([1003])
    packed = pack([titled, empty, short], VOCABULARY, 16)
    assert packed.input_ids.tolist() == [
        [101, 1000, 1400, 1001, 1002, 102],
        [101, 102, 0, 0, 0, 0],
        [101, 1003, 102, 0, 0, 0],
    ]
    assert packed.attention_mask.tolist() == [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
    ]
    assert packed.words.tolist() == [
        [-1, 0, 0, 1, 2, -1],
        [-1, -1, -1, -1, -1, -1],
        [-1, 0, -1, -1, -1, -1],
    ]


def test_a_text_that_begins_inside_a_word_has_that_piece_for_a_word() -> None:
    packed = pack([passage([1400, 1401, 1000])], VOCABULARY, 16)
    assert packed.words.tolist() == [[-1, 0, 0, 1, -1]]


def test_a_long_text_keeps_its_head() -> None:
    ids = list(range(1000, 1030))
    packed = pack([passage(ids, title=4)], VOCABULARY, 10)
    assert packed.input_ids.tolist() == [[101, *range(1000, 1008), 102]]


def test_a_long_text_keeps_a_random_window() -> None:
    ids = [1000, 1400, 1401, 1001, 1402, 1002, 1003, 1403, 1004, 1005]
    windows = [ids[first : first + 7] for first in range(4)]
    long_text, short_text = passage(ids), passage(ids[:3])
    generator = seeded()
    firsts = []
    for _ in range(300):
        packed = pack([long_text, short_text], VOCABULARY, 9, generator)
        window = packed.input_ids[0, 1:-1].numpy()
        firsts.append(windows.index(window.tolist()))
        starts = window < CONTINUES
        starts[0] = True  # a word cut in front begins there
        words = np.cumsum(starts) - 1
        assert packed.words[0].tolist() == [-1, *words, -1]
        assert packed.input_ids[1].tolist() == [101, *ids[:3], 102, 0, 0, 0, 0]
    # 4 windows, each drawn 75 times with a standard deviation of 7.5
    for first in range(4):
        assert abs(firsts.count(first) - 75) < 5 * 7.5


def test_the_window_repeats_from_the_generators_seed() -> None:
    text = passage([1000, 1400, 1401, 1001, 1402, 1002, 1003, 1403, 1004, 1005])
    first = pack([text], VOCABULARY, 9, seeded(7))
    again = pack([text], VOCABULARY, 9, seeded(7))
    assert torch.equal(first.input_ids, again.input_ids)


# Budgets


@pytest.mark.parametrize("ratio", [0.15, 0.3, 0.5])
def test_the_budget_rounds_half_to_even_and_counts_special_tokens(ratio: float) -> None:
    word_counts = [1, 2, 3, 5, 7, 8, 9, 11, 13, 17, 18, 28, 38, 48, 98, 298, 511, 1500]
    words, lengths = words_of_sizes([[1] * count for count in word_counts])
    masks = whole_word_mask(words, lengths, ratio, copies=3, generator=seeded())  # [B, 3, L]
    masked = masks.sum(2).tolist()
    for row, count in enumerate(word_counts):
        length = count + 2
        expected = min(count, mask_budget(length, ratio))
        assert lengths[row] == length
        assert masked[row] == [expected] * 3


def test_halves_go_to_the_even_budget() -> None:
    words, lengths = words_of_sizes([[1] * 3, [1] * 5, [1] * 7])  # 5, 7 and 9 tokens: 2.5, 3.5 and 4.5
    masks = whole_word_mask(words, lengths, 0.5)
    assert masks.sum((1, 2)).tolist() == [2, 4, 4]


@pytest.mark.parametrize("ratio", [0.15, 0.3, 0.5])
def test_words_are_taken_whole_and_skipped_if_they_overflow(ratio: float) -> None:
    """Assert that each mask could come from one pass over the words in some order, skipping those that do not fit."""
    texts = random_sizes(seed=0, texts=60)
    words, lengths = words_of_sizes(texts)
    masks = whole_word_mask(words, lengths, ratio, copies=20, generator=seeded())  # [B, 20, L]
    outside_words = words[:, None] < 0
    assert not (masks & outside_words).any()
    for row, sizes in enumerate(texts):
        budget = mask_budget(int(lengths[row]), ratio)
        for mask in masks[row]:
            assert_filled(mask, words[row], sizes, budget)


def sizes_of_most_rounds(longest: int) -> list[int]:
    """Return sizes of words of which each round takes one piece, up to the next word."""
    sizes = [1]
    for size in range(longest, 1, -1):
        sizes += [size, 1]
    return sizes


def test_a_text_of_most_rounds_has_no_spare_token() -> None:
    for longest in range(2, 24):
        tokens = sum(sizes_of_most_rounds(longest))
        assert _most_rounds(tokens) == longest
        assert _most_rounds(tokens - 1) == longest - 1


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_long_words_fill_the_budget(device: str) -> None:
    for longest in range(2, 24):
        sizes = torch.tensor([sizes_of_most_rounds(longest)], dtype=torch.int32, device=device)
        padded = torch.nn.functional.pad(sizes, (0, int(sizes.sum()) - sizes.shape[1]))
        room = torch.tensor([[longest]], dtype=torch.int32, device=device)
        filled = _fill(padded, room)
        assert int((padded * filled).sum()) == longest


def test_filling_goes_through_the_words_in_order() -> None:
    """Compare the vectorised filling with a loop over the words, also where it takes many rounds."""
    drawn = random.Random(1)
    texts = [drawn.choices([0, 1, 2, 3, 4, 7, 30, 60], k=40) for _ in range(200)]
    rooms = [drawn.randrange(1, 120) for _ in texts]
    sizes = torch.tensor(texts, dtype=torch.int32)
    chosen = _fill(sizes, torch.tensor(rooms, dtype=torch.int32)[:, None]).tolist()
    for row, room in enumerate(rooms):
        for word, size in enumerate(texts[row]):
            fits = 0 < size <= room
            assert chosen[row][word] == fits
            if fits:
                room -= size


@pytest.mark.parametrize("ratio", [0.15, 0.5])
def test_the_decoders_masks_fill_as_the_encoders_do(ratio: float) -> None:
    """Assert that each row hides its own position, and whole words up to the budget."""
    texts = random_sizes(seed=3, texts=40)
    words, lengths = words_of_sizes(texts)
    hidden = ~decoder_visibility(words, lengths, ratio, pool=256)  # [B, L, L]
    for row, sizes in enumerate(texts):
        length = int(lengths[row])
        budget = mask_budget(length, ratio)
        for special in (0, length - 1):  # the own position of [CLS] and [SEP] is no word's
            assert_filled(hidden[row, special], words[row], sizes, budget)
        of_words = hidden[row, 1 : length - 1, :length]
        assert of_words.sum(1).max() <= budget + 1
        assert of_words.diagonal(1).all()


@NEEDS_GPU
def test_a_gpu_fills_as_a_cpu_does() -> None:
    """Draw words of up to 9 pieces; a GPU draws another sample of the same distribution."""
    sizes = random.Random(2).choices(WORD_SIZES, k=40)
    words, lengths = words_of_sizes([sizes])
    gpu_words, gpu_lengths = words.cuda(), lengths.cuda()
    cpu = whole_word_mask(words, lengths, 0.3, copies=4000)[0]  # [4000, L]
    gpu = whole_word_mask(gpu_words, gpu_lengths, 0.3, copies=4000)[0].cpu()
    assert gpu.sum(1).max() <= mask_budget(int(lengths), 0.3)
    begins_word = words[0].diff(prepend=torch.tensor([-1])) > 0
    cpu_words = (cpu & begins_word).sum(1)
    gpu_words_mean = (gpu & begins_word).sum(1).double().mean().item()
    assert agrees(cpu_words, gpu_words_mean, len(gpu))
    visible = decoder_visibility(gpu_words, gpu_lengths, 0.5, 256)[0]
    assert not visible.diagonal().any()
    assert visible[1:, 0].all()


# Labels


@pytest.mark.parametrize("unknown_words", [0, 1, 5])
def test_a_text_of_only_special_tokens_is_never_labelled(unknown_words: int) -> None:
    text = passage([UNKNOWN] * unknown_words)
    packed = pack([text] * 50, VOCABULARY, 16)
    batch = masked_batch(packed, VOCABULARY, 0.5, seeded())
    assert batch["masked_positions"].shape == (0,)
    assert batch["masked_ids"].shape == (0,)
    assert torch.equal(batch["input_ids"], packed.input_ids)


def test_one_token_is_always_labelled() -> None:
    packed = pack([passage([1000])] * 50, VOCABULARY, 16)
    batch = masked_batch(packed, VOCABULARY, 0.15, seeded())
    assert batch["masked_positions"].tolist() == list(range(1, 150, 3))
    assert batch["masked_ids"].tolist() == [1000] * 50


def test_labels_are_the_clean_ids_and_nothing_else_changes() -> None:
    texts = [passage([1000, 1400, UNKNOWN, 1001, 1002]), passage([1003, 1004])] * 200
    packed = pack(texts, VOCABULARY, 16)
    batch = masked_batch(packed, VOCABULARY, 0.5, seeded())
    labelled = labelled_positions(packed, batch)
    special = packed.input_ids < 999
    assert torch.equal(batch["masked_ids"], packed.input_ids[labelled])
    assert torch.equal(batch["input_ids"][~labelled], packed.input_ids[~labelled])
    assert not labelled[special].any()
    assert torch.equal(batch["attention_mask"], packed.attention_mask)


def test_masks_repeat_from_the_generators_seed_alone() -> None:
    packed = official_text("length_128", copies=4)
    torch.manual_seed(1)
    first = masked_batch(packed, VOCABULARY, 0.3, seeded(5))
    torch.manual_seed(2)
    again = masked_batch(packed, VOCABULARY, 0.3, seeded(5))
    different = masked_batch(packed, VOCABULARY, 0.3, seeded(6))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
    assert not torch.equal(first["input_ids"], different["input_ids"])


def test_word_sizes_count_the_tokens_of_each_word() -> None:
    """[CLS], [SEP] and padding belong to no word; the second text has no word at all."""
    words = torch.tensor([[-1, 0, 1, 1, 1, 2, -1], [-1, -1, -1, -1, -1, -1, -1], [-1, 0, 0, 0, 0, 0, -1]])
    for count in (_word_sizes, _word_sizes_by_search):
        sizes = count(words, 4)
        assert sizes.tolist() == [[1, 3, 1, 0], [0, 0, 0, 0], [5, 0, 0, 0]]
        assert sizes.dtype == torch.int32
    assert words[0].tolist() == [-1, 0, 1, 1, 1, 2, -1]


# Single tokens


def test_an_exact_share_of_the_tokens_is_drawn_from_every_token() -> None:
    sizes = [0, 1, 3, 10, 11, 40]
    texts = [passage([1000, *[1400] * (size - 1)][:size]) for size in sizes]
    packed = pack(texts * 200, VOCABULARY, 64)
    selected = select_tokens(packed, 0.3, seeded())
    counts = selected.sum(1).view(200, -1)
    assert torch.equal(counts, torch.tensor([0, 1, 1, 3, 4, 12]).expand(200, -1))
    assert not selected[packed.words < 0].any()
    rates = selected.view(200, len(sizes), -1)[:, -1, 1:41].double().mean(0)  # of each of the 40 tokens
    assert (rates - 0.3).abs().max() < 5 * (0.3 * 0.7 / 200) ** 0.5


def test_words_are_filled_in_at_masked_tokens_in_order() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    masked = torch.tensor([[False, True, True], [False, False, True]])
    assert fill_in(ids, masked, torch.tensor([7, 8, 9])).tolist() == [[1, 7, 8], [4, 5, 9]]
    assert torch.equal(fill_in(ids, torch.zeros_like(masked), torch.tensor([], dtype=torch.int64)), ids)
