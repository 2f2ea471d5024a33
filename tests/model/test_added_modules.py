"""The modules that an objective adds: drawn anew, trained as they are, or kept; layers of any family."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from bases import FAMILIES, MAX_LENGTH, Base, make
from torch import Tensor, nn

from retrobench.errors import RetrobenchError
from retrobench.model import Layers, Pretraining, pack
from retrobench.objective import Step


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make("bert", tmp_path_factory.mktemp("bert"))


def texts(base: Base) -> tuple[Tensor, Tensor]:
    """Return ids and mask of five texts of different lengths."""
    packed = pack([base.texts[row] for row in range(5)], base.vocabulary, MAX_LENGTH)
    return packed.input_ids, packed.attention_mask


def step(model: Pretraining, progress: float, **batch: Tensor) -> Step:
    rows = torch.ones(2, model.backbone.config.hidden_size)
    return Step({"loss": model.get_submodule("trained")(model.get_submodule("teacher")(rows)).sum()}, {})


# Hidden states and layers


def test_states_of_any_layer(base: Base) -> None:
    backbone = base.backbone().eval()
    ids, mask = texts(base)
    embedded, first, last = backbone.hidden(ids, mask, layers=(0, 1, -1))
    assert torch.equal(embedded, backbone.embed(ids))
    assert torch.equal(last, backbone.hidden(ids, mask))
    assert first.shape == last.shape
    assert not torch.equal(first, last)
    with pytest.raises(RetrobenchError, match="has 2 layers, and the states behind layer 6 are read"):
        backbone.hidden(ids, mask, layers=(6,))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_copied_layers_compute_the_last_layers(base: Base, attention: str) -> None:
    """Feed the copied layer the states below it: ModernBERT's last norm follows the layers."""
    backbone = base.backbone().eval()
    backbone.lm.set_attn_implementation(attention)
    ids, mask = texts(base)
    first, last = backbone.hidden(ids, mask, layers=(1, -1))
    rows = Layers(backbone, 1, copy=True).eval()(first, mask)
    if backbone.config.model_type == "modernbert":
        rows = backbone.lm.base_model.final_norm(rows)
    real = mask.bool()
    torch.testing.assert_close(rows[real], last[real], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_new_layers_read_no_padding(base: Base, attention: str) -> None:
    backbone = base.backbone().eval()
    backbone.lm.set_attn_implementation(attention)
    _, mask = texts(base)
    layers = Layers(backbone, 2).eval()
    torch.manual_seed(0)
    rows = torch.randn(*mask.shape, backbone.config.hidden_size)
    computed = layers(rows, mask)
    changed = torch.where(mask.bool()[:, :, None], rows, 7.0)
    real = mask.bool()
    torch.testing.assert_close(layers(changed, mask)[real], computed[real])
    spread = backbone.config.initializer_range
    matrices = [parameter for parameter in layers.parameters() if parameter.ndim == 2]
    assert matrices
    for matrix in matrices:
        assert 0 < matrix.std() < 2 * spread


def test_layers_have_weights_of_their_own(base: Base) -> None:
    backbone = base.backbone()
    layers = Layers(backbone, 2, copy=True)
    copied = dict(layers.named_parameters())
    assert len(copied) == sum(len(list(layer.parameters())) for layer in backbone.layers)
    for parameter in copied.values():
        parameter.data.zero_()
    for layer in backbone.layers:
        assert next(layer.parameters()).any()
    with pytest.raises(RetrobenchError, match="has 2 layers, and 3 are copied"):
        Layers(backbone, 3, copy=True)
    assert len(Layers(backbone, 3).layers) == 3


def test_layers_follow_a_copy_of_their_model(bert: Base) -> None:
    """A deep copy of a model computes by its own backbone's masks and rotations."""
    backbone = bert.backbone()
    model = Pretraining(backbone, step, decoder=Layers(backbone, 1))
    copy = deepcopy(model)
    (own,) = copy.get_submodule("decoder")._backbone  # type: ignore[misc]
    assert own is copy.backbone


# Fresh, trained and kept


def adding(bert: Base, **modules: Any) -> Pretraining:
    return Pretraining(bert.backbone(), step, **modules)


def linear(width: int = 32) -> nn.Linear:
    layer = nn.Linear(width, width)
    nn.init.constant_(layer.weight, 3.0)
    return layer


def test_only_fresh_modules_are_drawn_anew(bert: Base) -> None:
    model = adding(bert, fresh={"fresh": linear()}, kept={"teacher": linear()}, trained=linear())
    weights: dict[str, Any] = {name: model.get_submodule(name).weight for name in ("fresh", "teacher", "trained")}
    assert torch.equal(weights["teacher"], torch.full((32, 32), 3.0))
    assert torch.equal(weights["trained"], torch.full((32, 32), 3.0))
    assert 0 < weights["fresh"].std() < 0.03
    model.train()
    assert model.get_submodule("trained").training
    assert not model.get_submodule("teacher").training
    model(0.0).losses["loss"].backward()
    assert weights["teacher"].grad is None
    assert weights["trained"].grad is not None


def test_a_checkpoint_leaves_kept_modules_out(bert: Base) -> None:
    model = adding(bert, kept={"teacher": linear()}, trained=linear())
    state = model.state_dict()
    assert not [key for key in state if key.startswith("teacher.")]
    assert "trained.weight" in state
    resumed = adding(bert, kept={"teacher": linear()}, trained=nn.Linear(32, 32))
    resumed.load_state_dict(state)
    assert torch.equal(resumed.get_submodule("trained").weight, torch.full((32, 32), 3.0))  # type: ignore[arg-type]
    assert torch.equal(resumed.get_submodule("teacher").weight, torch.full((32, 32), 3.0))  # type: ignore[arg-type]
    del state["trained.weight"]
    with pytest.raises(RuntimeError, match=r"trained\.weight"):
        resumed.load_state_dict(state)


def test_a_deep_copy_handed_over_by_name_keeps_its_weights(bert: Base) -> None:
    backbone = bert.backbone()
    generator = deepcopy(backbone.lm)
    expected = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    model = Pretraining(backbone, step, generator=generator)
    for name, tensor in model.get_submodule("generator").state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_a_deep_copy_is_not_drawn_anew(bert: Base) -> None:
    backbone = bert.backbone()
    with pytest.raises(RetrobenchError, match="'generator' holds copied weights, which `fresh` would draw anew"):
        Pretraining(backbone, step, fresh={"generator": deepcopy(backbone.lm)})


def test_copied_layers_are_not_drawn_anew(bert: Base) -> None:
    backbone = bert.backbone()
    with pytest.raises(RetrobenchError, match="'decoder' holds copied weights"):
        Pretraining(backbone, step, fresh={"decoder": Layers(backbone, 1, copy=True)})
    with pytest.raises(RetrobenchError, match="two modules 'backbone'"):
        Pretraining(backbone, step, fresh={"backbone": linear()})


def test_parameters_of_an_earlier_stage_replace_new_ones_or_are_refused(bert: Base) -> None:
    added = {f"head.{name}": value + 1 for name, value in linear().state_dict().items()}
    model = Pretraining(bert.backbone(), step, fresh={"head": linear(), "other": linear()}, added=added)
    assert torch.equal(model.get_submodule("head").state_dict()["weight"], added["head.weight"])
    with pytest.raises(RetrobenchError, match=r"head.bias is .*, and the earlier stage's is missing"):
        Pretraining(bert.backbone(), step, fresh={"head": linear()}, added={"head.weight": added["head.weight"]})
    wider = {**added, "head.weight": added["head.weight"].repeat(2, 1)}
    with pytest.raises(RetrobenchError, match="Give both stages equal settings"):
        Pretraining(bert.backbone(), step, fresh={"head": linear()}, added=wider)
