"""Whole-word masks, corruption and the decoder's view: exact rules, and the statistics of the official collators."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from retrobench import Passage, Vocabulary
from retrobench.model.masking import Packed, _fill, corrupt, decoder_visibility, masked_batch, pack, whole_word_mask
from retrobench.model.sampling import decoder_rows

FIXTURES = Path(__file__).parents[1] / "fixtures" / "parity"
OFFICIAL: dict[str, Any] = json.loads((FIXTURES / "masks.json").read_text())
STATISTICS: list[dict[str, Any]] = OFFICIAL["statistics"]

# That of the fixture: ids below 999 are special or unused, 100 is [UNK], those from 1400 continue a word.
VOCABULARY = Vocabulary(size=1600, pad=0, cls=101, sep=102, mask=103, special=frozenset(range(999)))
UNKNOWN, CONTINUES = 100, 1400

WORD_SIZES = [1, 1, 2, 3, 5, 9]  # in pieces; words of one piece are the most common

# The means compared are of independent draws. One falls further than 5 standard errors from another of the same
# distribution in 6 of 10 million cases; some 300 are compared below, so a failure means a fault.
STANDARD_ERRORS = 5.0


def passage(ids: list[int], title: int = 0) -> Passage:
    """Build a passage whose first `title` ids are its title."""
    tokens = np.array(ids, np.uint16)
    starts = tokens < CONTINUES
    return Passage(tokens[:title], starts[:title], tokens[title:], starts[title:])


def official_text(name: str, copies: int = 1) -> Packed:
    """Pack copies of a text of the fixture."""
    ids = OFFICIAL["texts"][name]
    return pack([passage(ids)] * copies, VOCABULARY, 512)


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


def mask_budget(length: int, ratio: float) -> int:
    """Return how many tokens of a text may be masked; Python rounds halves to even."""
    return min(512, max(1, round(length * ratio)))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled_positions(packed: Packed, batch: dict[str, Tensor]) -> Tensor:
    """Return which positions [B, L] of a batch are labelled."""
    labelled = torch.zeros(packed.input_ids.numel(), dtype=torch.bool)
    labelled[batch["masked_positions"]] = True
    return labelled.view_as(packed.input_ids)


def visibility(packed: Packed, ratio: float, pool: int = 256) -> Tensor:
    lengths = packed.attention_mask.sum(1)
    return decoder_visibility(packed.words, lengths, ratio, pool)


def agrees(drawn: Tensor, mean: float, draws: int = OFFICIAL["draws"]) -> bool:
    """Return whether the mean of draws [N] is within sampling error of `mean`, which `draws` other draws gave."""
    values = drawn.double()
    error = values.std().item() * (1 / len(values) + 1 / draws) ** 0.5
    difference = abs(values.mean().item() - mean)
    return bool(difference <= STANDARD_ERRORS * error + 1e-9)


def assert_share(count: int, draws: int, share: float) -> None:
    """Assert that `count` of `draws` is within the binomial's sampling error of a share."""
    error = (share * (1 - share) / draws) ** 0.5
    assert abs(count / draws - share) <= STANDARD_ERRORS * error


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_fills_as_a_cpu_does() -> None:
    """Draw words of up to 9 pieces, for which the fixed number of rounds on a GPU must be enough."""
    sizes = random.Random(2).choices(WORD_SIZES, k=40)
    words, lengths = words_of_sizes([sizes])
    gpu_words, gpu_lengths = words.cuda(), lengths.cuda()
    cpu = whole_word_mask(words, lengths, 0.3, copies=4000)[0].sum(1)
    gpu = whole_word_mask(gpu_words, gpu_lengths, 0.3, copies=4000)[0].sum(1)
    assert gpu.max() <= mask_budget(int(lengths), 0.3)
    gpu_mean = gpu.double().mean().item()
    assert agrees(cpu, gpu_mean, len(gpu))
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


# Statistics


for_each_text_and_ratio = pytest.mark.parametrize("row", STATISTICS, ids=lambda row: f"{row['text']}-{row['p']}")


@for_each_text_and_ratio
def test_labels_are_distributed_as_the_official_ones(row: dict[str, Any]) -> None:
    length, ratio, budget = row["length"], row["p"], row["budget"]
    packed = official_text(row["text"], copies=2000)
    batch = masked_batch(packed, VOCABULARY, ratio, seeded(1))
    labelled = labelled_positions(packed, batch)
    assert packed.input_ids.shape[1] == length

    counts = labelled.sum(1)
    assert budget == mask_budget(length, ratio)
    assert counts.max() <= budget
    for collator in ("masked", "masked_bowdpr"):
        official = row[collator]
        assert agrees(counts, official["mean"]), collator
        assert counts.min() <= official["min"]
        assert counts.max() >= official["max"]

    words = packed.words[0]
    same_word = words[:, None] == words
    pieces = torch.where(words >= 0, same_word.sum(1), 0)  # [L], of the word at each position
    official_shares = row["masked_fraction_by_word_pieces"]
    assert {0, *map(int, official_shares)} == {0, *pieces.tolist()}
    for size, official_share in official_shares.items():
        shares = labelled[:, pieces == int(size)].double().mean(1)
        assert agrees(shares, official_share), f"words of {size} pieces"


@for_each_text_and_ratio
def test_the_decoder_sees_what_the_official_one_sees(row: dict[str, Any]) -> None:
    length = row["length"]
    draws = min(400, max(24, 6000 // length))
    packed = official_text(row["text"], copies=draws)
    torch.manual_seed(2)
    visible = visibility(packed, row["p"])
    assert visible.shape == (draws, length, length)

    assert row["visible_diagonal"] == 0
    assert not visible.diagonal(0, 1, 2).any()
    assert row["visible_cls_column"] == 1
    assert visible[:, 1:, 0].all()
    assert row["visible_sep_column"] == 1
    assert visible[:, :-1, -1].all()
    shares = visible.double().mean((1, 2))
    assert agrees(shares, row["visible_fraction"])

    words = packed.words[0]
    same_word = (words[:, None] == words) & (words >= 0)
    siblings = same_word.fill_diagonal_(False)
    assert bool(siblings.any()) == ("visible_sibling_pieces" in row)
    if siblings.any():
        sibling_shares = visible[:, siblings].double().mean(1)
        assert agrees(sibling_shares, row["visible_sibling_pieces"])


def test_corruption_shows_mask_random_and_own_word_8_1_1() -> None:
    """Expect random ids of the whole vocabulary, a few of which are [MASK] or the word itself."""
    count = 200_000
    ids = torch.full((1, count), 1000)
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    shown = corrupt(ids, everywhere, VOCABULARY, seeded())
    masked = shown == 103
    unchanged = shown == 1000
    swapped = shown[~masked & ~unchanged]
    assert_share(int(masked.sum()), count, 0.8 + 0.1 / 1600)
    assert_share(int(unchanged.sum()), count, 0.1 + 0.1 / 1600)
    assert_share(len(swapped), count, 0.1 * 1598 / 1600)
    special = swapped < 999  # among the replacements, as released
    assert_share(int(special.sum()), len(swapped), 998 / 1598)
    assert shown.min() >= 0
    assert shown.max() < 1600


@pytest.mark.parametrize(("outcome", "share"), [("mask_token", 0.8), ("unchanged", 0.1), ("other_id", 0.1)])
def test_the_official_corruption_has_the_shares_8_1_1(outcome: str, share: float) -> None:
    recorded = OFFICIAL["corruption"]["retromae"]
    assert_share(recorded[outcome], recorded["selected"], share)


def test_the_papers_corruption_shows_only_the_mask() -> None:
    ids = torch.arange(1000, 1600)[None]
    selected = torch.arange(600)[None] % 2 == 0
    shown = corrupt(ids, selected, VOCABULARY, seeded(), style="mask")
    assert torch.equal(shown, torch.where(selected, 103, ids))


# The decoder's view


def test_padding_sees_cls_alone_and_is_never_seen() -> None:
    long_text = passage(OFFICIAL["texts"]["length_33"])
    packed = pack([long_text, passage([1000]), passage([])], VOCABULARY, 64)
    visible = visibility(packed, 0.5)
    assert visible.any(2).all()  # a row that sees nothing would have no softmax
    for row, length in enumerate(packed.attention_mask.sum(1).tolist()):
        seen = visible[row]
        of_padding = seen[length:]
        assert not seen[:, length:].any()
        assert of_padding[:, 0].all()
        assert not of_padding[:, 1:].any()
        assert not seen[0, 0]
        assert seen[1:length, 0].all()
        assert seen[: length - 1, length - 1].all()
    assert visible[1, :3, :3].int().tolist() == [
        [0, 0, 1],
        [1, 0, 1],
        [1, 0, 0],
    ]


def distinct_masks(packed: Packed, pool: int) -> int:
    """Count the distinct masks of one text, leaving out each row's own position, which it always hides."""
    torch.manual_seed(0)
    visible = visibility(packed, 0.5, pool)[0]
    not_own = ~torch.eye(len(visible), dtype=torch.bool)
    masks: list[tuple[Tensor, Tensor]] = []  # a row of each mask, and the positions at which it shows the mask
    for row, positions in zip(visible, not_own, strict=True):
        for mask, mask_positions in masks:
            both = positions & mask_positions
            if torch.equal(row[both], mask[both]):
                break
        else:
            masks.append((row, positions))
    return len(masks)


def test_rows_share_a_pool_of_masks() -> None:
    packed = official_text("length_300")
    assert distinct_masks(packed, pool=16) == 16
    # 300 picks out of 256 leave (255 / 256) ** 300 = 31 % unpicked: 177 are expected, deviation under 8
    assert abs(distinct_masks(packed, pool=256) - 177) < 5 * 8


def test_the_view_is_drawn_from_the_default_generator() -> None:
    packed = official_text("length_33", copies=2)
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(visibility(packed, 0.5))
    first, again, different = drawn
    assert torch.equal(first, again)
    assert not torch.equal(first, different)


def test_the_view_depends_on_no_text_beside_it() -> None:
    """Draw a text alone and in company: views may be drawn in any order, or by several threads."""
    texts = [passage(OFFICIAL["texts"]["length_33"]), passage([1000, 1400, 1001] * 8)]
    packed = pack(texts, VOCABULARY, 64)
    words = packed.words.numpy()
    lengths = packed.attention_mask.sum(1).numpy()
    budgets = lengths // 2
    picks = np.random.default_rng(0).integers(0, 26, words.shape)
    seeds = np.array([5, 6], np.uint64)
    both = decoder_rows(words, lengths, budgets, picks, seeds)
    for text in range(2):
        alone = slice(text, text + 1)
        view = decoder_rows(words[alone], lengths[alone], budgets[alone], picks[alone], seeds[alone])
        assert np.array_equal(view, both[alone])
    reseeded = decoder_rows(words, lengths, budgets, picks, seeds + np.uint64(1))
    assert not np.array_equal(both, reseeded)


def test_masks_are_drawn_where_no_machine_code_can_be_kept() -> None:
    """Forbid every cache folder, as in a read-only installation without a home."""
    code = (
        "import numpy, numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from retrobench.model.sampling import decoder_rows\n"
        "one = numpy.ones(1, numpy.int64)\n"
        "words, picks = numpy.array([[-1, 0, -1]]), numpy.zeros((1, 3), numpy.int64)\n"
        "rows = decoder_rows(words, one * 3, one, picks, one.astype(numpy.uint64))\n"
        "assert rows.tolist() == [[[0, 0, 1], [1, 0, 1], [1, 0, 0]]]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
