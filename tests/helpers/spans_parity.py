"""Condenser, coCondenser and CoT-MAE on the recorded batches, beside the numbers of the official code.

fixtures/neighbours/README.md says how these were made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from contexts import wrapped
from parity import FIXTURE
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertForMaskedLM

from retrobench.model import Backbone, Pretraining
from retrobench_cocondenser import CoCondenser
from retrobench_condenser import Condenser
from retrobench_cot_mae import CoTMAE

NEIGHBOURS = FIXTURE.parent / "neighbours"
SKIP_FROM = 1  # of the two layers


class Parity(NamedTuple):
    """Numbers of ours and of the official code, by name."""

    terms: dict[str, float]  # unweighted terms and the weighted `total`
    official_terms: dict[str, float]
    norms: dict[str, float]  # of each parameter's gradient, by its official name, and of all together as `all`
    official_norms: dict[str, float]


def read(name: str) -> dict[str, Any]:
    """Read the recorded numbers of an objective."""
    numbers: dict[str, Any] = json.loads((NEIGHBOURS / f"{name}.json").read_text())
    return numbers


def labelled(official: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Return the masked ids of an official batch and their targets, as our batches have them."""
    labels = official[f"{prefix}labels"].flatten()
    positions = (labels != -100).nonzero().flatten()
    return {
        f"{prefix}input_ids": official[f"{prefix}input_ids"],
        f"{prefix}masked_positions": positions,
        f"{prefix}masked_ids": labels[positions],
    }


def batch_of(official: Mapping[str, Tensor], rows: slice = slice(None)) -> dict[str, Tensor]:
    """Return some rows of an official batch, as `step` takes them."""
    selected = {key: tensor[rows] for key, tensor in official.items()}
    return {**labelled(selected), "attention_mask": selected["attention_mask"]}


def released(objective: Any, added: str) -> Pretraining:
    """Return the model with the recorded weights; `added` names the added layers."""
    model = wrapped(objective, Backbone(BertForMaskedLM.from_pretrained(FIXTURE)))
    layers: Any = model.get_submodule(added)
    layers.layers.load_state_dict(load_file(NEIGHBOURS / "layers.safetensors"))
    return model.eval()


def gradient_norms(model: Pretraining, added: str) -> dict[str, float]:
    """Return the norm of each gradient by the parameter's name in the official code, but for its prefix `lm.`."""
    norms = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        official = name.removeprefix("backbone.lm.").replace(f"{added}.layers.", "c_head.")
        norms[official] = parameter.grad.double().norm().item()
    return norms | {"all": math.hypot(*norms.values())}


def compare(
    model: Pretraining, added: str, terms: dict[str, Tensor], total: Tensor, numbers: dict[str, Any], **recorded: float
) -> Parity:
    """Return our terms and gradients beside the official `numbers`; `recorded` holds terms by our names."""
    total.backward()  # type: ignore[no-untyped-call]
    ours = {name: term.item() for name, term in terms.items()} | {"total": total.item()}
    official_norms = {name.removeprefix("lm."): norm for name, norm in numbers["grad_norms"].items()}
    return Parity(
        ours,
        recorded | {"total": numbers["total"]},
        gradient_norms(model, added),
        official_norms | {"all": numbers["grad_norm_all"]},
    )


def condenser(recorded: str, late_mlm: bool) -> Parity:
    """Compute Condenser's step."""
    numbers = read("condenser")[recorded]
    model = released(Condenser(skip_from=SKIP_FROM, late_mlm=late_mlm), "head")
    losses = model(0.0, **batch_of(load_file(NEIGHBOURS / "condenser.safetensors"))).losses
    terms = {name: numbers[name] for name in losses}
    return compare(model, "head", losses, torch.stack(list(losses.values())).sum(), numbers, **terms)


def cocondenser() -> Parity:
    """Compute coCondenser's step on the whole batch."""
    numbers = read("cocondenser")["whole"]
    model = released(CoCondenser(skip_from=SKIP_FROM), "head")
    step = model(0.0, **batch_of(load_file(NEIGHBOURS / "cocondenser.safetensors")))
    assert step.vectors is not None
    losses = {**step.losses, **model.couple(0.0, step.vectors).losses}
    terms = {name: numbers[name][0] for name in losses}
    return compare(model, "head", losses, torch.stack(list(losses.values())).sum(), numbers, **terms)


def cocondenser_cached() -> Parity:
    """Compute coCondenser's step in passes over three spans at most, as the official gradient cache weighs them."""
    record = read("cocondenser")
    numbers = record["cached"]
    official = load_file(NEIGHBOURS / "cocondenser.safetensors")
    spans = len(official["input_ids"])
    weight = 2.0
    model = released(CoCondenser(skip_from=SKIP_FROM, mlm_weight=weight), "head")
    terms, recorded, vectors = {}, {}, []
    total = torch.zeros(())
    for number, first in enumerate(range(0, spans, record["chunk"])):
        batch = batch_of(official, slice(first, first + record["chunk"]))
        step = model(0.0, **batch)
        assert step.vectors is not None
        vectors.append(step.vectors)
        for name, loss in step.losses.items():
            terms[f"{name}_{number}"] = loss / weight
            recorded[f"{name}_{number}"] = numbers[name][number]
            total = total + loss * len(step.vectors) / spans
    terms |= model.couple(0.0, torch.cat(vectors)).losses
    recorded["contrastive"] = numbers["contrastive"][0]
    return compare(model, "head", terms, total + terms["contrastive"], numbers, **recorded)


def cot_mae() -> Parity:
    """Compute CoT-MAE's step."""
    numbers = read("cotmae")["loss"]
    official = load_file(NEIGHBOURS / "cotmae.safetensors")
    model = released(CoTMAE(), "decoder")
    decoder = {**labelled(official, "decoder_"), "decoder_mask": official["decoder_attention_mask"]}
    losses = model(0.0, **batch_of(official), **decoder).losses
    terms = {"mlm": numbers["encoder_mlm"], "decoder": numbers["decoder_mlm"]}
    return compare(model, "decoder", losses, torch.stack(list(losses.values())).sum(), numbers, **terms)


PARITIES: dict[str, Callable[[], Parity]] = {
    "condenser": lambda: condenser("late_mlm", True),
    "condenser without late_mlm": lambda: condenser("head_only", False),
    "cocondenser": cocondenser,
    "cocondenser cached": cocondenser_cached,
    "cot-mae": cot_mae,
}


def table() -> Iterator[tuple[str, str, float, float, float]]:
    """Yield objective, term, our value, the official one and their difference; of gradients the worst relative one."""
    for label, compute in PARITIES.items():
        parity = compute()
        for name, ours in parity.terms.items():
            official = parity.official_terms[name]
            yield label, name, ours, official, ours - official
        differences = {}
        for name, norm in parity.norms.items():
            official = parity.official_norms[name]
            if official > 1e-5:  # the keys' biases have a gradient of zero up to rounding
                differences[name] = norm / official - 1
        worst = max(differences, key=lambda name: abs(differences[name]))
        yield label, f"gradient of {worst}", parity.norms[worst], parity.official_norms[worst], differences[worst]
