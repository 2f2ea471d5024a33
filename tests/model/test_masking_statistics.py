"""Labels, corruption and the decoder's view are distributed as those of the official collators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from masks import (
    OFFICIAL,
    STANDARD_ERRORS,
    VOCABULARY,
    agrees,
    labelled_positions,
    mask_budget,
    official_text,
    seeded,
    visibility,
)

from retrobench.model.masking import corrupt, masked_batch

STATISTICS: list[dict[str, Any]] = OFFICIAL["statistics"]


def assert_share(count: int, draws: int, share: float) -> None:
    """Assert that `count` of `draws` is within the binomial's sampling error of a share."""
    error = (share * (1 - share) / draws) ** 0.5
    assert abs(count / draws - share) <= STANDARD_ERRORS * error


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
