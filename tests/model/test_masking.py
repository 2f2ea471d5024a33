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

OFFICIAL: dict[str, Any] = json.loads((Path(__file__).parents[1] / "fixtures" / "parity" / "masks.json").read_text())
STATISTICS: list[dict[str, Any]] = OFFICIAL["statistics"]

# That of the fixture: ids below 999 are special or unused, 100 is [UNK], those from 1400 continue a word.
VOCABULARY = Vocabulary(size=1600, pad=0, cls=101, sep=102, mask=103, special=frozenset(range(999)))
UNKNOWN, CONTINUES = 100, 1400

# The means compared are of independent draws. One falls further than 5 standard errors from another of the same
# distribution in 6 of 10 million cases; some 300 are compared below, so a fault is what a failure means.
STANDARD_ERRORS = 5.0


def passage(ids: list[int], title: int = 0) -> Passage:
    """The first `title` ids are the title."""
    tokens, starts = np.array(ids, np.uint16), np.array([i < CONTINUES for i in ids], np.bool_)
    return Passage(tokens[:title], starts[:title], tokens[title:], starts[title:])


def rows_of(sizes: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Word numbers [B, L] and lengths [B] of texts given by the sizes of their words."""
    packed = pack(
        [passage([n for size in row for n in (1000, *[1400] * (size - 1))]) for row in sizes], VOCABULARY, 4096
    )
    return packed.words, packed.attention_mask.sum(1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def official_rows(packed: Packed, batch: dict[str, Tensor]) -> Tensor:
    """The labelled positions [B, L] of a batch of equally long texts."""
    labelled = torch.zeros(packed.input_ids.numel(), dtype=torch.bool)
    labelled[batch["masked_positions"]] = True
    return labelled.view_as(packed.input_ids)


def agrees(drawn: Tensor, mean: float, draws: int) -> bool:
    """Whether the mean of independent draws [N] is within sampling error of `mean`, taken over `draws` others."""
    values = drawn.double()
    error = values.std().item() * (1 / len(values) + 1 / draws) ** 0.5
    return bool(abs(values.mean().item() - mean) <= STANDARD_ERRORS * error + 1e-9)


# Packing


def test_packed_texts_stand_between_their_special_tokens() -> None:
    texts = [passage([1000, 1400, 1001, 1002], title=3), passage([]), passage([1003])]
    packed = pack(texts, VOCABULARY, 16)
    assert packed.input_ids.tolist() == [
        [101, 1000, 1400, 1001, 1002, 102],
        [101, 102, 0, 0, 0, 0],
        [101, 1003, 102, 0, 0, 0],
    ]
    assert packed.attention_mask.tolist() == [[1] * 6, [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    assert packed.words.tolist() == [[-1, 0, 0, 1, 2, -1], [-1] * 6, [-1, 0, -1, -1, -1, -1]]


def test_a_text_that_begins_inside_a_word_has_that_piece_for_a_word() -> None:
    assert pack([passage([1400, 1401, 1000])], VOCABULARY, 16).words.tolist() == [[-1, 0, 0, 1, -1]]


def test_a_long_text_keeps_its_head() -> None:
    packed = pack([passage(list(range(1000, 1030)), title=4)], VOCABULARY, 10)
    assert packed.input_ids.tolist() == [[101, *range(1000, 1008), 102]]


def test_a_long_text_keeps_a_random_window() -> None:
    ids = [1000, 1400, 1401, 1001, 1402, 1002, 1003, 1403, 1004, 1005]
    window = seeded()
    firsts = []
    for _ in range(300):
        packed = pack([passage(ids), passage(ids[:3])], VOCABULARY, 9, window)
        cut = packed.input_ids[0, 1:-1].tolist()
        first = next(index for index in range(4) if cut == ids[index : index + 7])
        firsts.append(first)
        starts = [index == 0 or i < CONTINUES for index, i in enumerate(cut)]  # a word cut in front begins there
        assert packed.words[0].tolist() == [-1, *(np.cumsum(starts) - 1).tolist(), -1]
        assert packed.input_ids[1].tolist() == [101, *ids[:3], 102, 0, 0, 0, 0]
    # 4 windows, each drawn 75 times with a standard deviation of 7.5
    assert all(abs(firsts.count(first) - 75) < 5 * 7.5 for first in range(4))
    assert pack([passage(ids)], VOCABULARY, 9, seeded(7)).input_ids.equal(
        pack([passage(ids)], VOCABULARY, 9, seeded(7)).input_ids
    )


# Budgets


@pytest.mark.parametrize("ratio", [0.15, 0.3, 0.5])
def test_the_budget_rounds_half_to_even_and_counts_special_tokens(ratio: float) -> None:
    counts = [1, 2, 3, 5, 7, 8, 9, 11, 13, 17, 18, 28, 38, 48, 98, 298, 511, 1500]
    words, lengths = rows_of([[1] * count for count in counts])
    assert lengths.tolist() == [count + 2 for count in counts]
    masked = whole_word_mask(words, lengths, ratio, copies=3, generator=seeded()).sum(2)
    for row, count in zip(masked.tolist(), counts, strict=True):
        budget = min(512, max(1, round((count + 2) * ratio)))
        assert row == [min(budget, count)] * 3


def test_halves_go_to_the_even_budget() -> None:
    words, lengths = rows_of([[1] * 3, [1] * 5, [1] * 7])  # 5, 7 and 9 tokens: 2.5, 3.5 and 4.5
    assert whole_word_mask(words, lengths, 0.5).sum((1, 2)).tolist() == [2, 4, 4]


def test_words_are_taken_whole_and_skipped_if_they_overflow() -> None:
    """Each mask is what going through some order of the words and skipping gives: no word left over would fit."""
    drawn = random.Random(0)
    sizes = [[drawn.choice([1, 1, 2, 3, 5, 9]) for _ in range(drawn.randrange(1, 30))] for _ in range(60)]
    words, lengths = rows_of(sizes)
    for ratio in (0.15, 0.3, 0.5):
        masks = whole_word_mask(words, lengths, ratio, copies=20, generator=seeded())
        for row, (text, length) in enumerate(zip(sizes, lengths.tolist(), strict=True)):
            budget = max(1, round(length * ratio))
            for mask in masks[row]:
                pieces = [int(mask[words[row] == word].sum()) for word in range(len(text))]
                assert all(chosen in (0, size) for chosen, size in zip(pieces, text, strict=True))
                room = budget - sum(pieces)
                assert 0 <= room < min((s for chosen, s in zip(pieces, text, strict=True) if not chosen), default=99)
                assert not mask[words[row] < 0].any()


def test_filling_goes_through_the_words_in_order() -> None:
    """The vectorised filling equals a loop over the words, also where it takes many rounds."""
    drawn = random.Random(1)
    sizes = [[drawn.choice([0, 1, 2, 3, 4, 7, 30, 60]) for _ in range(40)] for _ in range(200)]
    room = [drawn.randrange(1, 120) for _ in sizes]
    chosen = _fill(torch.tensor(sizes, dtype=torch.int32), torch.tensor(room, dtype=torch.int32)[:, None])
    for row, room_left, chosen_words in zip(sizes, room, chosen.tolist(), strict=True):
        expected = []
        for size in row:
            expected.append(0 < size <= room_left)
            room_left -= size * expected[-1]
        assert chosen_words == expected


def test_the_decoders_masks_fill_as_the_encoders_do() -> None:
    """Each row hides whole words of some order of going through them, and its own position."""
    drawn = random.Random(3)
    sizes = [[drawn.choice([1, 1, 2, 3, 5, 9]) for _ in range(drawn.randrange(1, 30))] for _ in range(40)]
    words, lengths = rows_of(sizes)
    for ratio in (0.15, 0.5):
        seen = decoder_visibility(words, lengths, ratio, pool=256)
        for row, (text, length) in enumerate(zip(sizes, lengths.tolist(), strict=True)):
            budget = max(1, round(length * ratio))
            for index in (0, length - 1):  # their own position is no word's
                pieces = [int((~seen[row, index][words[row] == word]).sum()) for word in range(len(text))]
                assert all(hidden in (0, size) for hidden, size in zip(pieces, text, strict=True))
                room_left = min((s for hidden, s in zip(pieces, text, strict=True) if not hidden), default=99)
                assert 0 <= budget - sum(pieces) < room_left
            own = torch.arange(1, length - 1)
            hidden = (~seen[row, 1 : length - 1, :length]).sum(1)
            assert (hidden <= budget + 1).all() and not seen[row, own, own].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_fills_as_a_cpu_does() -> None:
    """It runs a fixed number of rounds, which must be enough for words of up to 9 pieces."""
    drawn = random.Random(2)
    words, lengths = rows_of([[drawn.choice([1, 1, 2, 3, 5, 9]) for _ in range(40)]])
    cpu = whole_word_mask(words, lengths, 0.3, copies=4000)[0].sum(1)
    gpu = whole_word_mask(words.cuda(), lengths.cuda(), 0.3, copies=4000)[0].sum(1)
    assert int(gpu.max()) <= round(int(lengths) * 0.3)
    assert agrees(cpu, gpu.double().mean().item(), len(gpu))
    visible = decoder_visibility(words.cuda(), lengths.cuda(), 0.5, 256)[0]
    assert not visible.diagonal().any() and visible[1:, 0].all()


# Labels


@pytest.mark.parametrize("ids", [[], [UNKNOWN], [UNKNOWN] * 5])
def test_a_text_of_only_special_tokens_is_never_labelled(ids: list[int]) -> None:
    packed = pack([passage(ids)] * 50, VOCABULARY, 16)
    batch = masked_batch(packed, VOCABULARY, 0.5, seeded())
    assert batch["masked_positions"].shape == batch["masked_ids"].shape == (0,)
    assert torch.equal(batch["input_ids"], packed.input_ids)


def test_one_token_is_always_labelled() -> None:
    packed = pack([passage([1000])] * 50, VOCABULARY, 16)
    batch = masked_batch(packed, VOCABULARY, 0.15, seeded())
    assert batch["masked_positions"].tolist() == list(range(1, 150, 3))
    assert set(batch["masked_ids"].tolist()) == {1000}


def test_labels_are_the_clean_ids_and_nothing_else_changes() -> None:
    packed = pack([passage([1000, 1400, UNKNOWN, 1001, 1002]), passage([1003, 1004])] * 200, VOCABULARY, 16)
    batch = masked_batch(packed, VOCABULARY, 0.5, seeded())
    labelled = official_rows(packed, batch)
    assert torch.equal(batch["masked_ids"], packed.input_ids[labelled])
    assert torch.equal(batch["input_ids"][~labelled], packed.input_ids[~labelled])
    assert not labelled[packed.input_ids < 999].any()
    assert torch.equal(batch["attention_mask"], packed.attention_mask)


def test_masks_repeat_from_the_generators_seed_alone() -> None:
    packed = pack([passage(OFFICIAL["texts"]["length_128"])] * 4, VOCABULARY, 128)
    torch.manual_seed(1)
    first = masked_batch(packed, VOCABULARY, 0.3, seeded(5))
    torch.manual_seed(2)
    again, different = (masked_batch(packed, VOCABULARY, 0.3, seeded(seed)) for seed in (5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["input_ids"], different["input_ids"])


# Statistics


@pytest.mark.parametrize("row", STATISTICS, ids=lambda row: f"{row['text']}-{row['p']}")
def test_labels_are_distributed_as_the_official_ones(row: dict[str, Any]) -> None:
    ids = OFFICIAL["texts"][row["text"]]
    packed = pack([passage(ids)] * 2000, VOCABULARY, 512)
    labelled = official_rows(packed, masked_batch(packed, VOCABULARY, row["p"], seeded(1)))
    counts = labelled.sum(1)
    assert packed.input_ids.shape[1] == row["length"]
    assert counts.max() <= row["budget"] == min(512, max(1, round(row["length"] * row["p"])))
    for collator in ("masked", "masked_bowdpr"):
        assert agrees(counts, row[collator]["mean"], OFFICIAL["draws"]), collator
        assert counts.min() <= row[collator]["min"] and counts.max() >= row[collator]["max"]
    words = packed.words[0]
    pieces = torch.where(words >= 0, (words[:, None] == words).sum(1), 0)
    recorded = row["masked_fraction_by_word_pieces"]
    assert {int(size) for size in recorded} == set(pieces.tolist()) - {0}
    for size, mean in recorded.items():
        share = labelled[:, pieces == int(size)].double().mean(1)
        assert agrees(share, mean, OFFICIAL["draws"]), f"words of {size} pieces"


@pytest.mark.parametrize("row", STATISTICS, ids=lambda row: f"{row['text']}-{row['p']}")
def test_the_decoder_sees_what_the_official_one_sees(row: dict[str, Any]) -> None:
    length, draws = row["length"], min(400, max(24, 6000 // row["length"]))
    packed = pack([passage(OFFICIAL["texts"][row["text"]])] * draws, VOCABULARY, 512)
    torch.manual_seed(2)
    visible = decoder_visibility(packed.words, packed.attention_mask.sum(1), row["p"], pool=256)
    assert visible.shape == (draws, length, length)
    assert row["visible_diagonal"] == visible.diagonal(0, 1, 2).sum() == 0
    assert row["visible_cls_column"] == visible[:, 1:, 0].double().mean() == 1
    assert row["visible_sep_column"] == visible[:, :-1, -1].double().mean() == 1
    assert agrees(visible.double().mean((1, 2)), row["visible_fraction"], OFFICIAL["draws"])
    words = packed.words[0]
    siblings = (words[:, None] == words) & (words >= 0) & ~torch.eye(length, dtype=torch.bool)
    assert bool(siblings.any()) == ("visible_sibling_pieces" in row)
    if siblings.any():
        share = visible[:, siblings].double().mean(1)
        assert agrees(share, row["visible_sibling_pieces"], OFFICIAL["draws"])


def test_corruption_shows_mask_random_and_own_word_8_1_1() -> None:
    """Shares against 0.8, 0.1 and 0.1, and random ids spread over the whole vocabulary, by the binomial's deviation."""
    count = 200_000
    ids = torch.full((1, count), 1000)
    shown = corrupt(ids, torch.ones_like(ids, dtype=torch.bool), VOCABULARY, seeded())
    swapped = shown[(shown != 103) & (shown != 1000)]
    for number, share in (
        (int((shown == 103).sum()), 0.8 + 0.1 / 1600),
        (int((shown == 1000).sum()), 0.1 + 0.1 / 1600),
        (len(swapped), 0.1 * 1598 / 1600),
    ):
        assert abs(number / count - share) <= STANDARD_ERRORS * (share * (1 - share) / count) ** 0.5
    low = (swapped < 999).double()  # special ids are among the replacements, as released
    assert abs(low.mean().item() - 998 / 1598) <= STANDARD_ERRORS * low.std().item() / len(low) ** 0.5
    assert shown.min() >= 0 and shown.max() < 1600
    recorded = OFFICIAL["corruption"]["retromae"]
    for key, share in (("mask_token", 0.8), ("unchanged", 0.1), ("other_id", 0.1)):
        deviation = (share * (1 - share) / recorded["selected"]) ** 0.5
        assert abs(recorded[key] / recorded["selected"] - share) <= STANDARD_ERRORS * deviation


def test_the_papers_corruption_shows_only_the_mask() -> None:
    ids = torch.arange(1000, 1600)[None]
    selected = torch.arange(600)[None] % 2 == 0
    shown = corrupt(ids, selected, VOCABULARY, seeded(), style="mask")
    assert torch.equal(shown, torch.where(selected, 103, ids))


# The decoder's view


def test_padding_sees_cls_alone_and_is_never_seen() -> None:
    packed = pack([passage(OFFICIAL["texts"]["length_33"]), passage([1000]), passage([])], VOCABULARY, 64)
    lengths = packed.attention_mask.sum(1)
    visible = decoder_visibility(packed.words, lengths, 0.5, pool=256)
    for seen, length in zip(visible, lengths.tolist(), strict=True):
        assert not seen[:, length:].any()
        assert seen[length:, 0].all() and not seen[length:, 1:].any()
        assert seen[1:length, 0].all() and not seen[0, 0]
        assert seen[: length - 1, length - 1].all()
        assert seen.any(1).all()  # a row that sees nothing would have no softmax
    assert visible[1, :3, :3].tolist() == [[False, False, True], [True, False, True], [True, False, False]]


def test_rows_share_a_pool_of_masks() -> None:
    """Of 16 masks a text of 300 shows at most 16 but for each row's own position; of 256 nearly as many as it picks."""
    packed = pack([passage(OFFICIAL["texts"]["length_300"])], VOCABULARY, 300)
    off = ~torch.eye(300, dtype=torch.bool)

    def distinct(pool: int) -> int:
        torch.manual_seed(0)
        visible = decoder_visibility(packed.words, packed.attention_mask.sum(1), 0.5, pool)[0]
        masks: list[tuple[Tensor, Tensor]] = []  # what is known of a mask: its columns, and where they are known
        for seen, known_columns in zip(visible, off, strict=True):
            if not any(torch.equal(seen[known_columns & k], s[known_columns & k]) for s, k in masks):
                masks.append((seen, known_columns))
        return len(masks)

    assert distinct(16) == 16
    # 300 picks out of 256 leave (255 / 256) ** 300 = 31 % unpicked: 177 are expected, deviation under 8
    assert abs(distinct(256) - 177) < 5 * 8


def test_the_view_is_drawn_from_the_default_generator() -> None:
    packed = pack([passage(OFFICIAL["texts"]["length_33"])] * 2, VOCABULARY, 64)
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(decoder_visibility(packed.words, packed.attention_mask.sum(1), 0.5, 256))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_the_view_depends_on_no_text_beside_it() -> None:
    """So that it may be drawn in any order, or by several threads."""
    packed = pack([passage(OFFICIAL["texts"]["length_33"]), passage([1000, 1400, 1001] * 8)], VOCABULARY, 64)
    words, lengths = packed.words.numpy(), packed.attention_mask.sum(1).numpy()
    budgets, picks = lengths // 2, np.random.default_rng(0).integers(0, 26, words.shape)
    seeds = np.array([5, 6], np.uint64)
    both = decoder_rows(words, lengths, budgets, picks, seeds)
    for row in range(2):
        alone = slice(row, row + 1)
        chosen_words = decoder_rows(words[alone], lengths[alone], budgets[alone], picks[alone], seeds[alone])
        assert np.array_equal(both[alone], chosen_words)
    assert not np.array_equal(both, decoder_rows(words, lengths, budgets, picks, seeds + np.uint64(1)))


def test_masks_are_drawn_where_no_machine_code_can_be_kept() -> None:
    """As in a read-only installation without a home."""
    code = (
        "import numpy, numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from retrobench.model.sampling import decoder_rows\n"
        "one = numpy.ones(1, numpy.int64)\n"
        "words, picks = numpy.array([[-1, 0, -1]]), numpy.zeros((1, 3), numpy.int64)\n"
        "rows = decoder_rows(words, one * 3, one, picks, one.astype(numpy.uint64))\n"
        "assert rows.tolist() == [[[0, 0, 1], [1, 0, 1], [1, 0, 0]]]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
