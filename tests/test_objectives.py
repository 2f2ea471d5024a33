"""Every installed objective: the contract on every family of backbones, three steps of training, and the export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from bases import FAMILIES, MAX_LENGTH, Base, make
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM

from retrobench.config.discovery import configure_objective, discover
from retrobench.config.track import Optimisation
from retrobench.model.backbones import Backbone, Pretraining
from retrobench.model.masking import pack
from retrobench.testing import check_objective
from retrobench.training import Batches, train

INSTALLED = {row.name: row.objective for row in discover() if row.status == "ok" and row.objective is not None}
PRETRAINING = {name: objective for name, objective in INSTALLED.items() if objective.pretrains}
STEPS = 3


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make(request.param, tmp_path_factory.mktemp(request.param))


def trained(name: str, base: Base, folder: Path) -> tuple[Pretraining, dict[str, float]]:
    """Return an objective's module after three steps, and their cost."""
    objective = configure_objective(PRETRAINING[name], {})
    torch.manual_seed(0)
    model = objective.wrap(base.backbone())
    assert isinstance(model, Pretraining)

    def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        return objective.collate([base.texts[row] for row in rows], base.vocabulary, MAX_LENGTH, generator)

    def names(rows: np.ndarray) -> list[str]:
        return [base.texts.ids[row] for row in rows]

    settings = Optimisation(STEPS, batch=7, learning_rate=1e-3, precision="fp32", bucket=0, log_every=1)
    batches = Batches(base.texts.lengths, settings.batch, settings.bucket, seed=0)
    return model, train(model, batches, collate, settings, folder, 0, names, name)


def test_the_built_in_objectives_are_installed() -> None:
    assert {"bert", "mlm", "retromae", "bow-mae", "dupmae"} <= set(INSTALLED)
    assert {"mlm", "retromae", "bow-mae", "dupmae"} <= set(PRETRAINING)
    assert "bert" not in PRETRAINING


@pytest.mark.parametrize("name", INSTALLED)
def test_every_objective_keeps_the_contract(name: str) -> None:
    check_objective(INSTALLED[name])


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
    # 3 batches of 7 are an epoch without its last text.
    texts = sorted(int(length) for length in np.minimum(base.texts.lengths + 2, MAX_LENGTH))
    assert sum(texts) - texts[-1] <= cost["tokens"] <= sum(texts) - texts[0]
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(STEPS))
    backbone = model.backbone.eval()
    assert isinstance(backbone, Backbone)
    original = base.lm.state_dict()
    changed = backbone.lm.state_dict()
    assert any(not torch.equal(original[key], changed[key]) for key in original)

    export = tmp_path / "encoder"
    backbone.lm.save_pretrained(export)
    with safe_open(export / "model.safetensors", "pt") as file:
        assert set(file.keys()) <= set(original), "the objective's own modules are dropped"
    packed = pack([base.texts[row] for row in range(5)], base.vocabulary, MAX_LENGTH)
    inputs = {"input_ids": packed.input_ids, "attention_mask": packed.attention_mask}
    with torch.no_grad():
        hidden = backbone.hidden(**inputs)
        assert torch.equal(AutoModel.from_pretrained(export).eval()(**inputs).last_hidden_state, hidden)
        head = AutoModelForMaskedLM.from_pretrained(export).eval()
        assert torch.equal(head(**inputs).logits, backbone.logits(hidden))


def test_training_repeats(tmp_path: Path) -> None:
    base = make("bert", tmp_path)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    first, second = (trained("dupmae", base, folder)[0].state_dict() for folder in folders)
    assert all(torch.equal(first[key], second[key]) for key in first)
