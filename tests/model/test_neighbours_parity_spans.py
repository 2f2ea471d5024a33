"""Condenser, coCondenser and CoT-MAE against their official code (fixtures/neighbours/README.md says how)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from masks import agrees
from parity import FIXTURE
from spans_parity import PARITIES, read, table
from torch import Tensor
from transformers import BertTokenizer

from retrobench import Passage, Vocabulary
from retrobench.data.tokens import vocabulary
from retrobench_condenser import Condenser
from retrobench_cot_mae import CoTMAE

TEXTS: dict[str, dict[str, Any]] = json.loads((FIXTURE / "texts.json").read_text())
DRAWS = 200  # of the official statistics, and of ours


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return vocabulary(BertTokenizer(vocab=str(FIXTURE / "vocab.txt")), 1600)


@pytest.fixture(scope="module")
def pieces() -> list[str]:
    return (FIXTURE / "vocab.txt").read_text().split("\n")


@pytest.mark.parametrize("label", PARITIES)
def test_terms_and_gradients(label: str) -> None:
    parity = PARITIES[label]()
    assert parity.terms.keys() == parity.official_terms.keys()
    for name, term in parity.terms.items():
        assert term == pytest.approx(parity.official_terms[name], rel=0, abs=1e-5), name
    assert parity.norms.keys() == parity.official_norms.keys()
    for name, norm in parity.norms.items():  # the keys' biases have a gradient of zero up to rounding
        assert norm == pytest.approx(parity.official_norms[name], rel=1e-5, abs=1e-6), name
    assert len(parity.norms) > 60


def test_the_table_names_every_term() -> None:
    rows = list(table())
    assert [row[0] for row in rows if row[1] == "total"] == list(PARITIES)
    assert len([row for row in rows if row[1].startswith("gradient of ")]) == len(PARITIES)
    assert all(abs(row[-1]) < 1e-5 for row in rows)


# Masks


def passage(name: str, pieces: list[str]) -> Passage:
    ids = np.array(TEXTS[name]["token_ids"], np.uint16)
    starts = np.array([not pieces[token].startswith("##") for token in ids])
    return Passage(ids[:0], starts[:0], ids, starts)


def counts(batch: dict[str, Tensor], key: str = "masked_positions") -> Tensor:
    """Return the labelled positions of each row of a batch."""
    shape = batch["input_ids"].shape
    flags = torch.zeros(shape.numel(), dtype=torch.int64)
    flags[batch[key]] = 1
    return flags.view(shape).sum(1)


def assert_spread(drawn: Tensor, official: list[float]) -> None:
    least, mean, most = official
    assert len(drawn) == DRAWS
    assert (drawn.min().item(), drawn.max().item()) == (least, most)
    assert agrees(drawn, mean, DRAWS)


def statistics(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    texts = read(name)["masks"]["texts"]
    assert set(texts) == set(TEXTS)
    yield from texts.items()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_condenser_masks_as_officially(words: Vocabulary, pieces: list[str], generator: torch.Generator) -> None:
    assert read("condenser")["masks"]["rate"] == Condenser().mask_ratio
    for name, official in statistics("condenser"):
        batch = Condenser().collate([passage(name, pieces)] * DRAWS, words, 64, generator)
        assert_spread(counts(batch), official["masked"])


def test_cot_mae_masks_as_officially(words: Vocabulary, pieces: list[str], generator: torch.Generator) -> None:
    masks = read("cotmae")["masks"]
    assert masks["encoder_rate"] == CoTMAE().mask_ratio
    assert masks["decoder_rate"] == CoTMAE().decoder_mask_ratio
    for name, official in statistics("cotmae"):
        batch = CoTMAE().pair_batch([passage(name, pieces)] * DRAWS, words, 64, generator)
        assert_spread(counts(batch), official["encoder"])
        assert_spread(counts(batch, "decoder_masked_positions"), official["decoder"])


def test_an_unknown_word_spends_budget_in_cot_mae_alone(
    words: Vocabulary, pieces: list[str], generator: torch.Generator
) -> None:
    """Mask half of `unknown`, whose 12 tokens hold one [UNK]: six others at most, or seldom five and [UNK]."""
    text = [passage("unknown", pieces)] * DRAWS
    skipped = counts(Condenser(mask_ratio=0.5).collate(text, words, 64, generator))
    spent = counts(CoTMAE(mask_ratio=0.5).pair_batch(text, words, 64, generator))
    assert skipped.double().mean() > spent.double().mean() + 0.1


def test_the_decoder_reads_the_sibling(words: Vocabulary, pieces: list[str], generator: torch.Generator) -> None:
    texts = [passage(name, pieces) for name in ("plain", "repeats", "one_piece", "unknown")]
    batch = CoTMAE().pair_batch(texts, words, 64, generator)
    swapped = [1, 0, 3, 2]
    assert torch.equal(batch["decoder_mask"], batch["attention_mask"][swapped])
    assert batch["attention_mask"].sum(1).tolist() == [27, 20, 3, 14]
    for key in ("", "decoder_"):
        clean = batch[f"{key}input_ids"].flatten().clone()
        clean[batch[f"{key}masked_positions"]] = batch[f"{key}masked_ids"]
        clean = clean.view_as(batch["input_ids"])
        for row, text in enumerate(texts):
            shown = clean[swapped[row] if key else row]
            assert shown[1 : len(text.text) + 1].tolist() == text.text.tolist()
    assert not torch.equal(batch["masked_positions"], batch["decoder_masked_positions"])
