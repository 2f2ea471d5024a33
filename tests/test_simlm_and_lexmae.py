"""SimLM's generator and LexMAE's bottleneck: the logic that the parity fixtures do not show."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from contexts import wrapped
from masks import VOCABULARY, passage, seeded
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, ElectraConfig, ElectraForMaskedLM

from retrobench import Context
from retrobench.config import configure_objective
from retrobench.errors import RetrobenchError
from retrobench.model import Backbone, Pretraining
from retrobench.runs.sweep import Request, sweep
from retrobench_lexmae import LexMAE
from retrobench_simlm import SimLM

WORD = [1000, 1400, 1401]  # of three pieces
TEXT = passage([*WORD, 1001, 100, 1002, 1003, 1004, *WORD, 1005])
EMPTY = passage([])


def backbone(layers: int = 2, dropout: float = 0.0) -> Backbone:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY.size,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return Backbone(BertForMaskedLM(config))


def electra(positions: int = 64, words: int = VOCABULARY.size) -> ElectraForMaskedLM:
    torch.manual_seed(1)
    return ElectraForMaskedLM(
        ElectraConfig(
            vocab_size=words,
            embedding_size=4,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=positions,
        )
    )


def simlm(generator: nn.Module, own: Backbone | None = None, **settings: Any) -> Pretraining:
    model = SimLM(**settings).wrap(own or backbone(), Context(VOCABULARY, 40, load=lambda name: generator))
    assert isinstance(model, Pretraining)
    return model


def batch(objective: SimLM | LexMAE, texts: list[Any], seed: int = 0) -> dict[str, Tensor]:
    return objective.collate(texts, VOCABULARY, 40, seeded(seed))


def read_ids(model: Pretraining, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the ids that encoder and decoder read in a step."""
    ids = []

    def note(module: nn.Module, arguments: Any, named: dict[str, Tensor]) -> None:
        ids.append(named["input_ids"])

    handle = model.backbone.lm.bert.embeddings.register_forward_pre_hook(note, with_kwargs=True)
    torch.manual_seed(0)
    model(0.0, **inputs)
    handle.remove()
    encoder_ids, decoder_ids = ids
    return encoder_ids, decoder_ids


# SimLM


def test_the_generator_fills_masked_tokens_alone_and_anew_for_the_decoder() -> None:
    inputs = batch(SimLM(), [TEXT, EMPTY, TEXT])
    encoder_ids, decoder_ids = read_ids(simlm(electra()), inputs)
    for ids, shown, masked in (
        (encoder_ids, inputs["input_ids"], inputs["masked"]),
        (decoder_ids, inputs["decoder_ids"], inputs["decoder_masked"]),
    ):
        assert masked.any()
        assert torch.equal(ids[~masked], shown[~masked])
        assert (ids[masked] != VOCABULARY.mask).all()  # one draw in 1,600
    both = inputs["masked"] & inputs["decoder_masked"]
    assert (encoder_ids[both] != decoder_ids[both]).any()


def test_a_sure_generator_restores_the_text() -> None:
    """With a bias that only one word can overcome, the draw is this word, whatever the noise."""
    generator = electra()
    inputs = batch(SimLM(), [TEXT])
    nn.init.constant_(generator.generator_lm_head.bias, -1e4)
    generator.generator_lm_head.bias.data[1234] = 1e4
    encoder_ids, _ = read_ids(simlm(generator), inputs)
    assert (encoder_ids[inputs["masked"]] == 1234).all()


def test_the_generator_draws_only_words_that_the_backbone_has() -> None:
    generator = electra()
    generator.resize_token_embeddings(VOCABULARY.size + 64, mean_resizing=False)
    generator.generator_lm_head.bias.data[VOCABULARY.size :] = 1e4
    encoder_ids, decoder_ids = read_ids(simlm(generator), batch(SimLM(), [TEXT]))
    assert encoder_ids.max() < VOCABULARY.size
    assert decoder_ids.max() < VOCABULARY.size


@pytest.mark.parametrize("trained", [False, True])
def test_the_generator_is_trained_where_it_is_set(trained: bool) -> None:
    generator = electra()
    model = simlm(generator, train_generator=trained).train()
    step = model(0.0, **batch(SimLM(), [TEXT]))
    torch.stack(list(step.losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert generator.training is trained
    assert ("generator" in step.losses) is trained
    gradients = [parameter.grad is not None for parameter in generator.generator_predictions.parameters()]
    assert gradients == [trained] * 4
    assert any(key.startswith("generator.") for key in model.state_dict()) is trained


def test_the_decoder_begins_as_a_copy_and_learns_apart() -> None:
    own = backbone(layers=3)
    model = simlm(electra(), own)
    for copied, original in zip(
        model.get_submodule("decoder.layers").parameters(), own.lm.bert.encoder.layer[1:].parameters(), strict=True
    ):
        assert torch.equal(copied, original)
        assert copied is not original


def test_a_base_with_fewer_layers_than_are_copied() -> None:
    with pytest.raises(RetrobenchError, match="has 1 layers, and 2 are copied"):
        simlm(electra(), backbone(layers=1))


def test_unsuitable_generators() -> None:
    with pytest.raises(RetrobenchError, match="The generator takes 32 tokens, and texts have up to 40"):
        simlm(electra(positions=32))
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    other = DistilBertForMaskedLM(DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32))
    with pytest.raises(RetrobenchError, match=r"Known: bert, electra, .* Choose a generator of one of these"):
        simlm(other)


@pytest.mark.parametrize("objective", [SimLM, LexMAE])
def test_a_decoder_that_hides_less_than_the_encoder_is_refused(objective: Any) -> None:
    with pytest.raises(RetrobenchError, match="decoder_mask_ratio must be at least mask_ratio"):
        configure_objective(objective, {"decoder_mask_ratio": 0.2})


def test_a_run_with_an_electra_generator(tmp_path: Path) -> None:
    track = tiny.make(tmp_path)
    tokenizer = tiny.tokenizer()
    folder = tmp_path / "electra"
    electra(words=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = (f"objective.generator={folder}", "mine.depth=0")
    (row,) = sweep(Request(("simlm",), str(track.track), (0,), settings, track.store, track.boards)).rows
    assert row.settings["generator"] == str(folder)
    log = (track.store / "pretrain" / row.artifacts["pretrain"] / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in log]
    assert len(steps) == 6
    assert all(0.2 < step["replaced"] < 0.35 for step in steps)
    assert steps[-1]["encoder"] + steps[-1]["decoder"] < steps[0]["encoder"] + steps[0]["decoder"]


# LexMAE


def test_lexmae_hides_whole_words_where_it_is_set() -> None:
    for objective in (LexMAE(whole_words=True), LexMAE()):
        inputs = batch(objective, [TEXT] * 100)
        masked = torch.zeros(inputs["input_ids"].numel(), dtype=torch.bool)
        masked[inputs["masked_positions"]] = True
        pieces = masked.view_as(inputs["input_ids"])[:, 1:4].sum(1)
        split = int(((pieces > 0) & (pieces < 3)).sum())
        assert (split == 0) is objective.whole_words


def test_a_word_of_much_larger_logit_is_lexmaes_whole_vector() -> None:
    own = backbone().eval()
    own.lm.cls.predictions.bias.data[1234] = 50.0
    inputs = batch(LexMAE(), [TEXT])
    hidden = torch.randn(*inputs["input_ids"].shape, 16)
    vectors = LexMAE().compress(own, hidden, inputs["pooled"])
    torch.testing.assert_close(vectors[0], own.word_matrix[1234])


def test_lexmaes_vector_reads_no_token_at_the_ends() -> None:
    own = backbone().eval()
    inputs = batch(LexMAE(), [TEXT])
    hidden = torch.randn(*inputs["input_ids"].shape, 16)
    vectors = LexMAE().compress(own, hidden, inputs["pooled"])
    for position in range(hidden.shape[1]):
        changed = hidden.clone()
        changed[0, position] = 10 * torch.randn(16)
        is_end = position in (0, hidden.shape[1] - 1)
        assert torch.equal(LexMAE().compress(own, changed, inputs["pooled"]), vectors) is is_end


@pytest.mark.parametrize("bottleneck", ["logits", "logits_sat"])
def test_the_embeddings_behind_the_importance_get_no_gradient(bottleneck: Any) -> None:
    """Compare with the dense computation. Few logits are above zero, so that their sum is small."""
    own = backbone().eval()
    own.lm.cls.predictions.bias.data.fill_(-0.25)
    own.word_matrix.data[VOCABULARY.pad].normal_(std=0.02)  # its zeros give equal logits, whose gradient amax shares
    inputs = batch(LexMAE(), [TEXT])
    hidden = torch.randn(*inputs["input_ids"].shape, 16)
    largest = own.logits(hidden)[:, 1:-1].amax(1)
    importance = largest.softmax(1)
    if bottleneck == "logits_sat":
        saturated = (1 + largest.clamp(min=0)).log()
        assert 0 < saturated.sum() < 1
        importance = saturated / (saturated.sum() + 1e-4)
    direction = torch.randn(16)
    expected = importance @ own.word_matrix.detach()
    (expected_slope,) = torch.autograd.grad((expected * direction).sum(), [own.word_matrix])
    vectors = LexMAE(bottleneck=bottleneck).compress(own, hidden, inputs["pooled"])
    (slope,) = torch.autograd.grad((vectors * direction).sum(), [own.word_matrix])
    torch.testing.assert_close(vectors, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bottleneck", ["logits", "logits_sat", "cls"])
def test_lexmaes_decoder_teaches_the_encoder(bottleneck: Any) -> None:
    """Through the logits it teaches the head too."""
    objective = LexMAE(bottleneck=bottleneck)
    model = wrapped(objective, backbone())
    step = model(0.0, **batch(objective, [TEXT, TEXT]))
    step.losses["decoder"].backward()
    assert model.backbone.lm.bert.encoder.layer[0].output.dense.weight.grad.any()
    head = model.backbone.lm.cls.predictions.transform.dense.weight.grad
    assert (head is not None) is (bottleneck != "cls")


def test_an_empty_text_has_a_finite_vector() -> None:
    own = backbone().eval()
    inputs = batch(LexMAE(), [EMPTY, EMPTY])
    hidden = torch.randn(*inputs["input_ids"].shape, 16)
    vectors = LexMAE().compress(own, hidden, inputs["pooled"])
    torch.testing.assert_close(vectors, own.word_matrix.mean(0).expand(2, -1))
    assert not inputs["masked_positions"].numel() and not inputs["decoder_masked_positions"].numel()


def test_lexmaes_head_has_the_encoders_word_matrix() -> None:
    own = backbone()
    model = wrapped(LexMAE(), own)
    head: Any = model.get_submodule("head")
    assert head.word_matrix is own.word_matrix
    assert {name for name, _ in head.named_parameters()} == {
        *("dense.weight", "dense.bias", "norm.weight", "norm.bias", "word_bias")
    }
    copy = deepcopy(model)
    copied: Any = copy.get_submodule("head")
    assert copied.word_matrix is copy.backbone.word_matrix
