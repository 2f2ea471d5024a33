"""SimLM and LexMAE: terms, gradients and masks against the official code's (fixtures/neighbours/README.md says how)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from contexts import wrapped
from masks import VOCABULARY, agrees, labelled_positions, passage, seeded
from parity import FIXTURE
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertForMaskedLM, ElectraForMaskedLM

from retrobench import Context, Step
from retrobench.model import Backbone, Pretraining, pack
from retrobench_lexmae import LexMAE
from retrobench_simlm import SimLM

NEIGHBOURS = Path(__file__).parents[1] / "fixtures" / "neighbours"
SIMLM: dict[str, Any] = json.loads((NEIGHBOURS / "simlm.json").read_text())
LEXMAE: dict[str, Any] = json.loads((NEIGHBOURS / "lexmae.json").read_text())
TEXTS: dict[str, Any] = json.loads((FIXTURE / "texts.json").read_text())
UNKNOWN = 100
DRAWS = 200

SIMLM_VARIANTS: dict[str, dict[str, Any]] = {
    "frozen": {"decoder_layers": 1},
    "two_layers": {"decoder_layers": 2},
    "trained_generator": {"decoder_layers": 1, "train_generator": True},
}
# The beginning of an official parameter's name -> that of ours.
SIMLM_NAMES = {"encoder.": "backbone.lm.", "decoder.": "decoder.layers."}
LEXMAE_NAMES = {
    "bert.": "backbone.lm.bert.",
    "cls.": "backbone.lm.cls.",
    "decoder_heads.": "decoder.layers.",
    "decoder_cls.predictions.transform.dense.": "head.dense.",
    "decoder_cls.predictions.transform.LayerNorm.": "head.norm.",
    "decoder_cls.predictions.bias": "head.word_bias",
}


class Row(NamedTuple):
    """A number of ours beside the official one."""

    objective: str
    term: str
    ours: float
    official: float


class Case(NamedTuple):
    """An objective's step on a recorded batch, with its gradients, and the official record."""

    title: str
    step: Step
    norms: dict[str, float]  # of each parameter's gradient, by our name
    official: dict[str, Any]
    terms: dict[str, str]  # official term -> our loss
    names: dict[str, str]

    def rows(self) -> Iterator[Row]:
        """Yield each weighted term, the total and the norm of the whole gradient."""
        weight = {"generator": SIMLM["generator_weight"]}
        for official, ours in self.terms.items():
            recorded = weight.get(official, 1.0) * self.official[official]
            yield Row(self.title, official, self.step.losses[ours].item(), recorded)
        total = sum(loss.item() for loss in self.step.losses.values())
        yield Row(self.title, "total", total, self.official["total"])
        yield Row(self.title, "grad_norm_all", math.hypot(*self.norms.values()), self.official["grad_norm_all"])

    def gradients(self) -> Iterator[Row]:
        """Yield the norm of each parameter's gradient, where they are recorded."""
        for name, norm in self.official.get("grad_norms", {}).items():
            yield Row(self.title, name, self.norms[self.our_name(name)], norm)

    def our_name(self, official: str) -> str:
        """Return our name of a parameter of the official model."""
        for begin, ours in self.names.items():
            if official.startswith(begin):
                return ours + official.removeprefix(begin)
        raise AssertionError(official)


def cases() -> dict[str, Case]:
    """Return every recorded case."""
    every = {}
    for batch in ("simlm", "simlm_titles"):
        for variant in SIMLM_VARIANTS:
            every[f"{batch} {variant}"] = simlm(batch, variant)
    for bottleneck in ("logits", "logits_sat", "cls"):
        every[f"lexmae {bottleneck}"] = lexmae(bottleneck)
    return every


def encoder() -> Backbone:
    return Backbone(BertForMaskedLM.from_pretrained(FIXTURE))


def labelled(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions in the flattened batch that have a label, and the labels there."""
    positions = (labels.flatten() != -100).nonzero().flatten()
    return positions, labels.flatten()[positions]


def gradient_norms(model: Pretraining, step: Step) -> dict[str, float]:
    """Return the norm of each parameter's gradient of the losses' sum."""
    torch.stack(list(step.losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    norms = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            norms[name] = parameter.grad.double().norm().item()
    return norms


def simlm(batch: str, variant: str) -> Case:
    """Compute SimLM on a recorded batch with the generator's recorded draws."""
    recorded = load_file(NEIGHBOURS / f"{batch}.safetensors")
    objective = SimLM(**SIMLM_VARIANTS[variant])
    model = objective.wrap(encoder(), Context(VOCABULARY, 40, load=lambda name: official_generator()))
    assert isinstance(model, Pretraining)
    read_token_types(model, recorded["enc_token_type_ids"])
    step = model.eval()(0.0, **simlm_batch(recorded))
    terms = {"encoder": "encoder", "decoder": "decoder"}
    if objective.train_generator:
        terms["generator"] = "generator"
    return Case(f"{batch} {variant}", step, gradient_norms(model, step), SIMLM[batch][variant], terms, SIMLM_NAMES)


def official_generator() -> ElectraForMaskedLM:
    """Return the recorded generator, whose head has the epsilon of transformers 4.15."""
    generator = ElectraForMaskedLM.from_pretrained(NEIGHBOURS / "generator")
    generator.generator_predictions.LayerNorm.eps = 1e-5
    return generator


def read_token_types(model: Pretraining, token_types: Tensor) -> None:
    """Let encoder and generator read the recorded token types, as only the official code does."""

    def add(module: object, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, {**named, "token_type_ids": token_types}

    for name in ("backbone.lm.bert", "generator.lm.electra"):
        model.get_submodule(name).register_forward_pre_hook(add, with_kwargs=True)


def simlm_batch(recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    assert torch.equal(recorded["enc_attention_mask"], recorded["dec_attention_mask"])
    masked_positions, masked_ids = labelled(recorded["enc_labels"])
    decoder_masked_positions, _ = labelled(recorded["dec_labels"])
    content_positions, content_ids = labelled(recorded["labels"])
    return {
        "input_ids": recorded["enc_input_ids"],
        "attention_mask": recorded["enc_attention_mask"],
        "masked": recorded["enc_labels"] != -100,
        "masked_positions": masked_positions,
        "masked_ids": masked_ids,
        "decoder_ids": recorded["dec_input_ids"],
        "decoder_masked": recorded["dec_labels"] != -100,
        "decoder_masked_positions": decoder_masked_positions,
        "content_positions": content_positions,
        "content_ids": content_ids,
        "replaced_ids": recorded["enc_replaced_ids"],
        "decoder_replaced_ids": recorded["dec_replaced_ids"],
    }


def lexmae(bottleneck: Any) -> Case:
    """Compute LexMAE on the recorded batch."""
    recorded = load_file(NEIGHBOURS / "lexmae.safetensors")
    model = lexmae_model(LexMAE(bottleneck=bottleneck), recorded)
    step = model(0.0, **lexmae_batch(recorded))
    terms = {"encoder_mlm": "mlm", "decoder_mlm": "decoder"}
    return Case(f"lexmae {bottleneck}", step, gradient_norms(model, step), LEXMAE[bottleneck], terms, LEXMAE_NAMES)


def lexmae_model(objective: LexMAE, recorded: dict[str, Tensor]) -> Pretraining:
    model = wrapped(objective, encoder())
    model.get_submodule("decoder.layers").load_state_dict(load_file(NEIGHBOURS / "layers.safetensors"))
    weights = {}
    for official, ours in LEXMAE_NAMES.items():
        for name, value in recorded.items():
            if ours.startswith("head.") and name.startswith(official):
                weights[(ours + name.removeprefix(official)).removeprefix("head.")] = value
    model.get_submodule("head").load_state_dict(weights)
    return model.eval()


def lexmae_batch(recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    masked_positions, masked_ids = labelled(recorded["mlm_labels"])
    decoder_masked_positions, decoder_masked_ids = labelled(recorded["dec_mlm_labels"])
    ends = torch.tensor([VOCABULARY.pad, VOCABULARY.cls, VOCABULARY.sep])
    return {
        "input_ids": recorded["masked_input_ids"],
        "attention_mask": recorded["attention_mask"],
        "masked_positions": masked_positions,
        "masked_ids": masked_ids,
        "pooled": ~torch.isin(recorded["input_ids"], ends),
        "decoder_ids": recorded["dec_masked_input_ids"],
        "decoder_masked_positions": decoder_masked_positions,
        "decoder_masked_ids": decoder_masked_ids,
    }


# Losses and gradients


@pytest.mark.parametrize("variant", SIMLM_VARIANTS)
@pytest.mark.parametrize("batch", ["simlm", "simlm_titles"])
def test_simlm(batch: str, variant: str) -> None:
    case = simlm(batch, variant)
    check(case)
    assert case.step.metrics["replaced"].item() == pytest.approx(case.official["replace_ratio"], abs=1e-6)


@pytest.mark.parametrize("bottleneck", ["logits", "logits_sat", "cls"])
def test_lexmae(bottleneck: str) -> None:
    check(lexmae(bottleneck))


def check(case: Case) -> None:
    """Compare terms to 1e-5, and the norm of every recorded gradient to a relative 1e-5."""
    for row in case.rows():
        absolute = 0.0 if row.term == "grad_norm_all" else 1e-5
        assert row.ours == pytest.approx(row.official, rel=1e-5, abs=absolute), row
    gradients = list(case.gradients())
    for row in gradients:  # the keys' biases have a gradient of zero up to rounding
        assert row.ours == pytest.approx(row.official, rel=1e-5, abs=1e-6), row
    if gradients:
        assert set(case.norms) == {case.our_name(row.term) for row in gradients}


def test_lexmaes_vector() -> None:
    recorded = load_file(NEIGHBOURS / "lexmae.safetensors")
    objective = LexMAE()
    model = lexmae_model(objective, recorded)
    batch = lexmae_batch(recorded)
    hidden = model.backbone.hidden(batch["input_ids"], batch["attention_mask"])
    vectors = objective.compress(model.backbone, hidden, batch["pooled"])
    torch.testing.assert_close(vectors, recorded["bottleneck"], rtol=1e-5, atol=1e-5)


# Masks


def recorded_text(name: str, collator: Any, title: tuple[int, ...] = ()) -> tuple[Any, dict[str, Tensor], Tensor]:
    """Return a recorded text packed `DRAWS` times, its batch, and where the encoder predicts words, [DRAWS, L] bool."""
    text = passage([*title, *TEXTS[name]["token_ids"]], title=len(title))
    batch: dict[str, Tensor] = collator.collate([text] * DRAWS, VOCABULARY, 64, seeded())
    packed = pack([text] * DRAWS, VOCABULARY, 64)
    return packed, batch, labelled_positions(packed, batch)


@pytest.mark.parametrize("name", SIMLM["masks"]["texts"])
def test_simlms_masks(name: str) -> None:
    packed, batch, masked = recorded_text(name, SimLM())
    official = SIMLM["masks"]["texts"][name]
    assert int(packed.attention_mask[0].sum()) == official["length"]
    assert torch.equal(batch["masked"], masked)
    assert agrees(masked.sum(1), official["encoder"][1])
    assert masked.sum(1).max() == official["encoder"][2]
    assert agrees(batch["decoder_masked"].sum(1), official["decoder"][1])
    assert not (masked & ~batch["decoder_masked"]).any()
    for ids, hidden in ((batch["input_ids"], masked), (batch["decoder_ids"], batch["decoder_masked"])):
        assert torch.equal(ids, packed.input_ids.masked_fill(hidden, VOCABULARY.mask))
    content = torch.zeros(packed.input_ids.numel(), dtype=torch.bool)
    content[batch["content_positions"]] = True
    words = (packed.words >= 0) & (packed.input_ids != UNKNOWN)
    assert torch.equal(content.view_as(words), words)
    assert torch.equal(batch["content_ids"], packed.input_ids[words])


@pytest.mark.parametrize("name", LEXMAE["masks"]["texts"])
def test_lexmaes_masks(name: str) -> None:
    """The official data give a text without a title the title "-", which is [UNK] here, and a separator behind it."""
    packed, batch, masked = recorded_text(name, LexMAE(), title=(UNKNOWN,))
    official = LEXMAE["masks"]["texts"][name]
    assert int(packed.attention_mask[0].sum()) == official["length"] - 1
    least, mean, most = official["encoder"]
    assert set(masked.sum(1).tolist()) == {least} == {mean} == {most}
    decoder_masked = torch.zeros_like(masked).flatten()
    decoder_masked[batch["decoder_masked_positions"]] = True
    decoder_masked = decoder_masked.view_as(masked)
    assert agrees(decoder_masked.sum(1), official["decoder"][1])
    assert not (masked & ~decoder_masked).any()
    assert torch.equal(batch["decoder_masked_ids"], packed.input_ids[decoder_masked])
    assert torch.equal(batch["pooled"], packed.words >= 0)
    assert agrees(batch["decoder_ids"][decoder_masked] == VOCABULARY.mask, 0.8)
    # Corruption is drawn anew: a token that is [MASK] to one side is itself or another word to the other.
    mask_of_encoder = batch["input_ids"][masked] == VOCABULARY.mask
    mask_of_decoder = batch["decoder_ids"][masked] == VOCABULARY.mask
    assert agrees(mask_of_encoder & mask_of_decoder, 0.64)
