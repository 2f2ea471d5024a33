"""Composed objectives: their names and settings, their losses beside those of their components, their state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from bases import MAX_LENGTH, Base, make
from contexts import context
from torch import Tensor, nn

from retrobench import Step
from retrobench.config import Component, Composition, Entrant, discover, read_entrant
from retrobench.errors import RetrobenchError
from retrobench_bow_mae import BowPrediction
from retrobench_mlm import MaskedLanguageModelling
from retrobench_retromae import RetroMAE

MLM, RETROMAE, BOW = MaskedLanguageModelling(mask_ratio=0.3), RetroMAE(), BowPrediction(truncation="head")


def composed(*objectives: Any) -> Composition:
    return Composition(tuple(Component(objective) for objective in objectives))


def read(text: str, *overrides: str) -> Entrant:
    entrant = read_entrant(text, discover(), overrides)
    assert isinstance(entrant, Entrant)
    return entrant


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make("bert", tmp_path_factory.mktemp("bert"))


class Trained(dict[str, Tensor]):
    """Losses by name, and gradients by the backbone's names behind a slash."""


def trained(objective: Any, base: Base) -> Trained:
    """Return the losses and gradients of one forward in training mode, with dropout."""
    backbone = base.backbone()
    torch.manual_seed(0)
    model = objective.wrap(backbone, context(backbone, base.vocabulary)).train()
    batch = collated(objective, base)
    torch.manual_seed(1)
    step: Step = model(0.5, **batch)
    torch.stack([loss.float() for loss in step.losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
    values = Trained(step.losses)
    for name, parameter in backbone.named_parameters():
        if parameter.grad is not None:
            values[f"/{name}"] = parameter.grad
    return values


def collated(objective: Any, base: Base) -> Mapping[str, Tensor]:
    passages = [base.texts[row] for row in range(8)]
    batch: Mapping[str, Tensor] = objective.collate(
        passages, base.vocabulary, MAX_LENGTH, torch.Generator().manual_seed(2)
    )
    return batch


def assert_equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_composition_of_one_is_its_component_bit_for_bit(base: Base) -> None:
    for objective in (MLM, RETROMAE, BOW):
        assert_equal(trained(composed(objective), base), trained(objective, base))


def test_mlm_and_retromae_have_the_losses_of_retromae(base: Base) -> None:
    both = trained(composed(MLM, RETROMAE), base)
    alone = trained(RETROMAE, base)
    assert both["mlm"].item() == alone["mlm"].item() > 0
    assert both["decoder"].item() == alone["decoder"].item() > 0
    assert_equal(both, alone)


def passes(objective: Any, base: Base, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how often a step computes the encoder."""
    calls = []
    forward = nn.Module.__call__

    def counted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if type(module).__name__ == "BertModel":
            calls.append(module)
        return forward(module, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "__call__", counted)
        trained(objective, base)
    return len(calls)


def test_components_that_mask_alike_share_a_pass(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    alike = composed(MLM, RETROMAE, BOW)
    assert BOW.mask_ratio == RETROMAE.mask_ratio == MLM.mask_ratio
    assert passes(alike, base, monkeypatch) == 1
    assert trained(alike, base).keys() >= {"mlm", "decoder", "bow"}
    other = composed(MaskedLanguageModelling(mask_ratio=0.15), RETROMAE)
    assert passes(other, base, monkeypatch) == 2
    losses = [name for name in trained(other, base) if not name.startswith("/")]
    assert losses == ["mlm", "retromae.mlm", "decoder"]


def test_weights(base: Base) -> None:
    plain = trained(composed(MLM, RETROMAE, BOW), base)
    weighted = Composition((Component(MLM, 0.25), Component(RETROMAE, 0.5), Component(BOW, 3.0)))
    heavy = trained(weighted, base)
    assert heavy["decoder"].item() == pytest.approx(0.5 * plain["decoder"].item(), rel=1e-6)
    assert heavy["bow"].item() == pytest.approx(3 * plain["bow"].item(), rel=1e-6)
    assert heavy["mlm"].item() == pytest.approx(3 * plain["mlm"].item(), rel=1e-6), "the greatest of the weights"


def test_a_state_holds_the_backbone_once_and_restores_the_losses(base: Base) -> None:
    objective = composed(MLM, RETROMAE)
    backbone = base.backbone()
    model = objective.wrap(backbone, context(backbone, base.vocabulary))
    state = model.state_dict()
    assert not [name for name in state if "components" in name and "backbone" in name]
    assert [name for name in state if name.startswith("components.1.decoder.")]
    other_backbone = base.backbone()
    for parameter in other_backbone.parameters():
        nn.init.zeros_(parameter)
    other = objective.wrap(other_backbone, context(other_backbone, base.vocabulary))
    other.load_state_dict(state)
    batch = collated(objective, base)
    losses = []
    for module in (model, other):
        torch.manual_seed(4)
        losses.append(module.eval()(0.0, **batch).losses)
    assert_equal(*losses)


def test_names_and_settings_on_the_command_line() -> None:
    entrant = read("mlm+0.5*retromae:paper", "objective.mask_ratio=0.4", "objective.retromae.mask_pool=7")
    assert entrant.name == "mlm+0.5*retromae:paper (changed)"
    assert entrant.kind == "mlm+0.5*retromae"
    assert entrant.settings["mlm.mask_ratio"] == entrant.settings["retromae.mask_ratio"] == 0.4
    assert entrant.settings["retromae.mask_pool"] == 7
    assert entrant.settings["retromae.decoder_reduction"] == "sum"
    assert entrant.settings["retromae"] == 0.5
    assert read("mlm+dupmae").representation == "cls+terms"
    assert read("mlm+dupmae", "entrant.representation=cls").representation == "cls"


def test_an_entrant_file(tmp_path: Path) -> None:
    file = tmp_path / "both.toml"
    file.write_text('objective = "mlm+bow-mae"\n[settings]\n"bow-mae.mask_ratio" = 0.2\n')
    entrant = read(str(file))
    assert (entrant.name, entrant.settings["bow-mae.mask_ratio"], entrant.settings["mlm.mask_ratio"]) == (
        "both",
        0.2,
        MaskedLanguageModelling().mask_ratio,
    )


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("mlm+", (), "'' is neither NAME nor WEIGHT*NAME with a weight above 0. Write it as mlm+0.5*retromae."),
        ("x*mlm", (), "'x*mlm' is neither NAME nor WEIGHT*NAME"),
        ("-1*mlm+retromae", (), "'-1*mlm' is neither NAME nor WEIGHT*NAME"),
        ("mlm+mlm", (), "The composition 'mlm+mlm' has mlm twice. Name it once, with a weight."),
        ("mlm+bert", (), "bert trains nothing, so it is no component. Leave it out."),
        ("mlm+retromay", (), "Unknown objective 'retromay'"),
        ("mlm+retromae", ("objective.mask_rate=0.1",), "Unknown setting 'objective.mask_rate'. Did you mean"),
        (
            "mlm+retromae",
            ("adapt.objective.mask_ratio=0.1",),
            "adapt.objective changes an objective, not the composition",
        ),
    ],
)
def test_bad_compositions_are_one_line(text: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(RetrobenchError) as error:
        read(text, *overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
