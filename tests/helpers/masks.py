"""Texts, vocabulary and recorded masks of the official collators, for the tests of masking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrobench import Passage, Vocabulary
from retrobench.model.masking import Packed, decoder_visibility, pack

FIXTURES = Path(__file__).parents[1] / "fixtures" / "parity"
OFFICIAL: dict[str, Any] = json.loads((FIXTURES / "masks.json").read_text())

# That of the fixture: ids below 999 are special or unused, 100 is [UNK], those from 1400 continue a word.
VOCABULARY = Vocabulary(size=1600, pad=0, cls=101, sep=102, mask=103, special=frozenset(range(999)))
UNKNOWN, CONTINUES = 100, 1400

# The means compared are of independent draws. One falls further than 5 standard errors from another of the same
# distribution in 6 of 10 million cases; the tests compare some 300, so a failure means a fault.
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
