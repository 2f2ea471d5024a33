"""The released algorithms written anew do what the released ones did: their losses, gradients and mask statistics."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from parity import FIXTURE, LOSSES, decoder_name
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from retrobench import Passage, Vocabulary
from retrobench.bench.peers import collators
from retrobench.bench.peers.steps import Released, Trainer

MASKS: dict[str, Any] = json.loads((FIXTURE / "masks.json").read_text())
VOCABULARY = Vocabulary(size=1600, pad=0, cls=101, sep=102, mask=103, special=frozenset(range(999)))
CONTINUES = 1400


def passage(ids: list[int]) -> Passage:
    none = np.zeros(0, np.uint16), np.zeros(0, np.bool_)
    return Passage(*none, np.array(ids, np.uint16), np.array([i < CONTINUES for i in ids], np.bool_))


def model(loss: str) -> Released:
    lm = BertForMaskedLM.from_pretrained(FIXTURE, attn_implementation="eager")
    made = Released(lm, loss)
    if made.decoder is not None:
        official = load_file(FIXTURE / "decoder.safetensors")
        made.decoder.load_state_dict({decoder_name(name): value for name, value in official.items()})
    return made.eval()


# Steps


@pytest.mark.parametrize("loss", ["retromae", "bow"])
def test_the_released_losses_and_gradients_come_out(loss: str) -> None:
    official, expected = load_file(FIXTURE / f"{loss}.safetensors"), LOSSES[loss]
    known = {"encoder_", "decoder_", "bow_weights"}
    batch = {name: value for name, value in official.items() if any(name.startswith(part) for part in known)}
    released = model(loss)
    terms = released(**batch)
    for name, value in terms.items():
        assert value.item() == pytest.approx(expected[name], abs=1e-5), name
    total = torch.stack(list(terms.values())).sum()
    assert total.item() == pytest.approx(expected["total"], abs=1e-5)
    total.backward()  # type: ignore[no-untyped-call]
    norms = {name: p.grad.double().norm().item() for name, p in released.named_parameters() if p.grad is not None}
    official_names = {
        name if name.startswith("lm.") else f"decoder.{decoder_name(name)}": norm
        for name, norm in expected["grad_norms"].items()
    }
    assert norms.keys() == official_names.keys()
    for name, norm in norms.items():
        assert norm == pytest.approx(official_names[name], rel=1e-4, abs=1e-6), name


def test_a_step_trains_and_reads_its_losses_where_released() -> None:
    torch.manual_seed(0)
    texts = [passage([1000 + i, 1401, 1100 + i, 1200]) for i in range(4)]
    batch = collators.bow(texts, VOCABULARY, 32, random.Random(0))
    for reads in (False, True):
        trainer = Trainer(model("bow"), halved=False, reads=reads)
        losses = [trainer.step(batch).item() for _ in range(5)]
        assert losses[-1] < losses[0]
        assert sorted(trainer.logged) == (["bow", "loss", "mlm"] if reads else [])


# Collators


def masked(ids: list[int], p: float, draws: int) -> Tensor:
    tokens, drawn = ["[CLS]", *("##" if i >= CONTINUES else "w" for i in ids), "[SEP]"], random.Random(0)
    return torch.tensor([collators.whole_word_mask(tokens, p, drawn) for _ in range(draws)]).bool()


@pytest.mark.parametrize("row", MASKS["statistics"], ids=lambda row: f"{row['text']}-{row['p']}")
def test_masks_are_distributed_as_the_released_ones(row: dict[str, Any]) -> None:
    ids = [101, *MASKS["texts"][row["text"]], 102]
    masks = masked(ids[1:-1], row["p"], 500)
    counts = masks[:, [i >= 999 or i in (101, 102) for i in ids]].sum(1).double()  # [UNK] is no label
    assert masks.shape[1] == row["length"] and counts.max() <= row["budget"]
    error = counts.std().item() * (1 / 500 + 1 / MASKS["draws"]) ** 0.5
    assert abs(counts.mean().item() - row["masked"]["mean"]) <= 5 * error + 1e-9
    for at in range(1, len(ids) - 1):
        if ids[at] >= CONTINUES and at > 1:
            assert bool((masks[:, at] == masks[:, at - 1]).all()), "words are masked whole"


@pytest.mark.parametrize("text", ["length_33", "length_128"])
def test_the_matrix_shows_what_the_released_one_shows(text: str) -> None:
    row = next(row for row in MASKS["statistics"] if row["text"] == text and row["p"] == 0.5)
    ids, length = MASKS["texts"][text], row["length"]
    batch = collators.retromae([passage(ids)] * 12, VOCABULARY, 512, random.Random(1))
    seen = batch["decoder_attention_mask"]
    assert seen.shape == (12, length, length) and seen.dtype == torch.int64
    assert seen.diagonal(0, 1, 2).sum() == 0
    assert seen[:, 1:, 0].all() and seen[:, :-1, -1].all()
    assert seen.double().mean().item() == pytest.approx(row["visible_fraction"], abs=0.02)


def test_retromaes_batch_is_laid_out_as_released() -> None:
    texts = [passage([1000, 1400, 1001, 1002]), passage([1003])]
    batch = collators.retromae(texts, VOCABULARY, 5, random.Random(0))
    official = load_file(FIXTURE / "retromae.safetensors")
    assert batch.keys() == {name for name in official if name.startswith(("encoder_", "decoder_"))}
    assert batch["decoder_input_ids"].tolist() == [[101, 1000, 1400, 1001, 102], [101, 1003, 102, 0, 0]]
    assert batch["decoder_labels"].tolist() == [[-100, 1000, 1400, 1001, -100], [-100, 1003, -100, -100, -100]]
    assert batch["encoder_attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert not batch["decoder_attention_mask"][1, 3:].any() and not batch["decoder_attention_mask"][1, :, 3:].any()
    labels = batch["encoder_labels"]
    assert torch.equal(labels[labels != -100], batch["decoder_input_ids"][labels != -100])


def test_bags_are_of_the_distinct_words_of_the_window() -> None:
    batch = collators.bow([passage([1000, 1000, 1400, 100]), passage([])], VOCABULARY, 16, random.Random(0))
    weights = batch["bow_weights"]
    assert weights.shape == (2, 1600) and weights.dtype == torch.float32
    assert weights[0].nonzero().flatten().tolist() == [1000, 1400]
    assert weights[0, 1000] == weights[0, 1400] == 0.5 and not weights[1].any()


def test_decoders_of_bowdpr_get_their_own_text() -> None:
    texts = [passage(list(range(1000, 1100)))]
    once = collators.ae(texts, VOCABULARY, 102, random.Random(0))
    assert (once["encoder_labels"] != -100).sum() == round(102 * 0.3)
    assert (once["decoder_labels"] != -100).sum() == round(102 * 0.45)
    clean = collators.ar(texts, VOCABULARY, 102, random.Random(0))
    assert clean["decoder_input_ids"].tolist() == clean["decoder_labels"].tolist() == [[101, *range(1000, 1100), 102]]


def test_a_models_weights_are_taken_over() -> None:
    from retrobench.bench.peers.steps import released
    from retrobench.model.backbones import Backbone, Pretraining
    from retrobench_retromae import RetroMAE

    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    ours = RetroMAE().wrap(Backbone(BertForMaskedLM(config)))
    assert isinstance(ours, Pretraining)
    peer = released(ours, "retromae")
    assert peer.lm.config._attn_implementation == "eager"
    theirs = {name.removeprefix("backbone."): value for name, value in ours.named_parameters()}
    assert {name for name, _ in peer.named_parameters()} == set(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in peer.named_parameters())


def test_workers_make_batches_as_one_process_does() -> None:
    """Each has its own random passages, and after what they made ahead is used up they go on."""
    from retrobench.bench.feeds import Feed
    from retrobench.bench.frame import Setting
    from retrobench.bench.models import Scale, Workload

    texts = [passage([1000 + i] * 6) for i in range(30)]
    feed = Feed(collators.mlm, Workload(Setting("cpu"), Scale(2, 32, 2, 64, batch=4, length=16), texts))
    feed.workers = 2
    feed.steady()
    batches = [next(feed) for _ in range(4)]
    assert all(batch["encoder_input_ids"].shape == (4, 8) for batch in batches)
    assert len({batch["encoder_labels"].sum().item() for batch in batches}) > 1
