"""Every installed objective: the contract on every family of backbones, three steps of training, and the export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from bases import FAMILIES, MAX_LENGTH, Base, make
from contexts import wrapped
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM

from retrobench.config.declaration import configure_objective
from retrobench.config.discovery import discover
from retrobench.config.track import Optimisation
from retrobench.model import Backbone, Pretraining
from retrobench.model.masking import pack
from retrobench.testing import check_objective
from retrobench.training import Batches, train, trainable

INSTALLED = {row.name: row.objective for row in discover() if row.status == "ok" and row.objective is not None}
PRETRAINING = {name: objective for name, objective in INSTALLED.items() if objective.pretrains}
STEPS = 3
BATCH = 7


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make(request.param, tmp_path_factory.mktemp(request.param))


def trained(name: str, base: Base, folder: Path) -> tuple[Pretraining, dict[str, float]]:
    """Return an objective's module after three steps, and their cost."""
    objective = configure_objective(PRETRAINING[name], {})
    torch.manual_seed(0)
    model = wrapped(objective, base.backbone(), base.vocabulary)

    def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        return objective.collate([base.texts[row] for row in rows], base.vocabulary, MAX_LENGTH, generator)

    def names(rows: np.ndarray) -> list[str]:
        return [base.texts.ids[row] for row in rows]

    settings = Optimisation(STEPS, batch=BATCH, learning_rate=1e-3, precision="fp32", bucket=0, log_every=1)
    batches = Batches(base.texts.lengths, settings.batch, settings.bucket, seed=0)
    couples = objective.couples_batch
    cost = train(trainable(objective, model), batches, collate, settings, folder, 0, names, name, couples)
    return model, cost


def test_the_built_in_objectives_are_installed() -> None:
    assert {"bert", "mlm", "retromae", "bow-mae", "dupmae"} <= set(INSTALLED)
    assert {"mlm", "retromae", "bow-mae", "dupmae"} <= set(PRETRAINING)
    assert "bert" not in PRETRAINING


@pytest.mark.parametrize("name", INSTALLED)
def test_every_objective_keeps_the_contract(name: str) -> None:
    check_objective(INSTALLED[name])


# The check's own model is BERT, and XLM-R has RoBERTa's adapter.
@pytest.mark.parametrize("base", ["roberta", "modernbert"], indirect=True)
@pytest.mark.parametrize("name", PRETRAINING)
def test_every_objective_keeps_the_contract_on_every_family(name: str, base: Base) -> None:
    backbone = base.backbone()
    original = {key: value.clone() for key, value in backbone.state_dict().items()}
    check_objective(PRETRAINING[name], backbone)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, original[key])


@pytest.mark.parametrize("name", PRETRAINING)
def test_three_steps_and_an_export_on_every_family(name: str, base: Base, tmp_path: Path) -> None:
    model, cost = trained(name, base, tmp_path)
    lengths = np.minimum(base.texts.lengths + 2, MAX_LENGTH)  # with the special tokens
    assert len(lengths) == STEPS * BATCH + 1, "the steps are an epoch without its last text"
    total = lengths.sum()
    if not hasattr(PRETRAINING[name], "examples"):  # else the examples are parts of documents
        assert total - lengths.max() <= cost["tokens"] <= total - lengths.min()
    log = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(STEPS))
    backbone = model.backbone.eval()
    assert isinstance(backbone, Backbone)
    original = base.lm.state_dict()
    trained_weights = backbone.lm.state_dict()
    changed = [key for key in original if not torch.equal(original[key], trained_weights[key])]
    assert changed

    export = tmp_path / "encoder"
    backbone.lm.save_pretrained(export)
    with safe_open(export / "model.safetensors", "pt") as file:
        assert set(file.keys()) <= set(original), "the objective's own modules are dropped"
    packed = pack([base.texts[row] for row in range(5)], base.vocabulary, MAX_LENGTH)
    inputs = {"input_ids": packed.input_ids, "attention_mask": packed.attention_mask}
    exported = AutoModel.from_pretrained(export).eval()
    exported_lm = AutoModelForMaskedLM.from_pretrained(export).eval()
    with torch.no_grad():
        hidden = backbone.hidden(packed.input_ids, packed.attention_mask)
        logits = backbone.logits(hidden)
        assert torch.equal(exported(**inputs).last_hidden_state, hidden)
        assert torch.equal(exported_lm(**inputs).logits, logits)


def test_training_repeats(tmp_path: Path) -> None:
    base = make("bert", tmp_path)
    weights = []
    for run in ("first", "second"):
        folder = tmp_path / run
        folder.mkdir()
        model, _ = trained("dupmae", base, folder)
        weights.append(model.state_dict())
    first, second = weights
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key
