"""What the decoder sees: padding, the pool of masks, and the seeds they are drawn from."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from masks import OFFICIAL, VOCABULARY, official_text, passage, visibility
from torch import Tensor

from retrobench.model.masking import Packed, pack
from retrobench.model.sampling import decoder_rows


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


@pytest.mark.slow
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
