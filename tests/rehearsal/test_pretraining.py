"""Every preset of every built-in objective on every family: equal to the CPU, and trained by strict steps."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bases import MAX_LENGTH, Base, make
from contexts import wrapped
from sides import assert_close, gradients, moved, without_dropout
from torch import Tensor, nn
from trainings import log

from retrobench.config import configure_objective, discover, own_settings
from retrobench.config.track import Optimisation
from retrobench.model import drawn_on_cpu
from retrobench.objective import Objective
from retrobench.training import Batches, deterministic, forward, train, trainable

FAMILIES = ("bert", "roberta", "modernbert")
BATCH = 6


def presets() -> Iterator[tuple[str, Objective]]:
    """Yield every pre-training objective with its defaults and with each preset."""
    for row in discover():
        assert row.objective is not None, row
        if row.objective.pretrains:
            yield row.name, configure_objective(row.objective, {})
            for name in row.objective.presets:
                own = own_settings(row.objective, name)
                yield f"{row.name}:{name}", configure_objective(row.objective, own)


PRESETS = dict(presets())


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make(request.param, tmp_path_factory.mktemp(request.param))


def collate(objective: Any, base: Base, rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
    passages = [base.texts[row] for row in rows]
    batch: dict[str, Tensor] = objective.collate(passages, base.vocabulary, MAX_LENGTH, generator)
    return batch


@pytest.fixture
def equal_draws() -> Iterator[None]:
    """Let the CPU draw masks and words: a device draws others, by another algorithm."""
    with drawn_on_cpu():
        yield


def test_there_are_presets_of_every_objective() -> None:
    names = {name.partition(":")[0] for name in PRESETS}
    assert {"mlm", "retromae", "bow-mae", "dupmae"} <= names
    assert len(PRESETS) >= 13


@pytest.mark.parametrize("name", PRESETS)
def test_losses_and_gradients_are_those_of_the_cpu(name: str, base: Base, equal_draws: None) -> None:
    objective = PRESETS[name]
    torch.manual_seed(0)
    on_cpu = without_dropout(wrapped(objective, base.backbone(), base.vocabulary)).train()
    on_device = copy.deepcopy(on_cpu).cuda()
    batch = collate(objective, base, np.arange(BATCH), torch.Generator().manual_seed(0))
    with deterministic():
        torch.manual_seed(1)
        expected = gradients(on_cpu, forward(objective, on_cpu, 0.5, batch, seed=1))
        torch.manual_seed(1)
        actual = gradients(on_device, forward(objective, on_device, 0.5, moved(batch), seed=1))
    assert_close(actual, expected)


def train_two_steps(objective: Any, base: Base, folder: Path, precision: Any) -> list[dict[str, float]]:
    """Train in two shards, and return the log. The device is strict within `Loop.step`."""
    torch.manual_seed(0)
    model = wrapped(objective, base.backbone(), base.vocabulary)
    settings = Optimisation(2, batch=BATCH, learning_rate=1e-3, precision=precision, shards=2, log_every=1)
    batches = Batches(base.texts.lengths, settings.batch, settings.bucket, seed=0, shards=settings.shards)

    def names(rows: np.ndarray) -> list[str]:
        return [base.texts.ids[row] for row in rows]

    def collate_rows(rows: np.ndarray, generator: torch.Generator) -> dict[str, Tensor]:
        return collate(objective, base, rows, generator)

    couples = objective.couples_batch
    train(trainable(objective, model), batches, collate_rows, settings, folder, 0, names, "pretrain", couples)
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    return log(folder)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", PRESETS)
def test_steps_neither_wait_nor_sort(name: str, precision: str, base: Base, tmp_path: Path) -> None:
    """Dropout and masks are drawn on the device."""
    lines = train_two_steps(PRESETS[name], base, tmp_path, precision)
    assert [line["step"] for line in lines] == [0, 1]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's tracer hides it from everyone else
def test_compiled_layers_neither_wait_nor_sort(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile as on a GPU, but by the tracer's plain backend."""
    compiled = []
    compile_module = nn.Module.compile

    def compile_layer(layer: nn.Module, **options: Any) -> None:
        compiled.append(layer)
        compile_module(layer, backend="aot_eager", **options)

    monkeypatch.setattr(nn.Module, "compile", compile_layer)
    lines = train_two_steps(PRESETS["retromae"], base, tmp_path, "bf16")
    assert [line["step"] for line in lines] == [0, 1]
    assert len(compiled) == 2, "layers are compiled by default"
