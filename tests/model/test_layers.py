"""The last layer for the first token alone against the whole computation, in each family."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from bases import FAMILIES, MAX_LENGTH, make
from torch import Tensor, nn
from transformers import DistilBertConfig, DistilBertModel

from retrobench.model.backbones import Backbone
from retrobench.model.layers import TEXTS, bfloat16_layers, first_token_only
from retrobench.model.masking import Packed, pack


def sentence(backbone: Backbone, ids: Tensor, mask: Tensor) -> Tensor:
    """[CLS] by the last layer for it alone."""
    with first_token_only(backbone.lm.base_model):
        return backbone.hidden(ids, mask)[:, 0]


def loud(model: nn.Module) -> nn.Module:
    """Weights, biases among them, large enough for texts to differ."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name.lower() and name.endswith("weight")), std=0.3)
    return model.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Backbone, Packed]:
    base = make(request.param, tmp_path_factory.mktemp(request.param))
    backbone = base.backbone()
    loud(backbone.lm)
    texts = [base.texts[row] for row in range(len(base.texts))]  # one of them is empty
    return backbone, pack(texts, base.vocabulary, MAX_LENGTH)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rows", [slice(None), slice(0, 1)], ids=["padded", "whole"])
def test_it_equals_the_whole(family: tuple[Backbone, Packed], attention: str, rows: slice) -> None:
    backbone, (ids, mask, _) = family
    backbone.lm.set_attn_implementation(attention)
    with torch.inference_mode():
        whole = backbone.hidden(ids[rows], mask[rows])[:, 0]
        first = sentence(backbone, ids[rows], mask[rows])
    assert first.shape == whole.shape == (len(ids[rows]), 32)
    torch.testing.assert_close(first, whole, rtol=1e-5, atol=1e-5)
    assert torch.cosine_similarity(first.double(), whole.double()).min() >= 0.9999999


def test_in_bf16_it_is_no_further_from_float32(family: tuple[Backbone, Packed]) -> None:
    backbone, (ids, mask, _) = family
    with torch.inference_mode():
        exact = backbone.hidden(ids, mask)[:, 0]
        with torch.autocast("cpu", torch.bfloat16):
            whole, first = backbone.hidden(ids, mask)[:, 0], sentence(backbone, ids, mask)
    apart = [float(1 - torch.cosine_similarity(exact, vectors.float()).mean()) for vectors in (whole, first)]
    assert apart[1] <= 1.5 * apart[0] < 0.01


def test_nothing_is_left_behind(family: tuple[Backbone, Packed]) -> None:
    """After the context, an error in it included, the model gives every token again."""
    backbone, (ids, mask, _) = family
    every_token = backbone.hidden(ids, mask)
    with first_token_only(backbone.lm.base_model) as is_known:
        assert is_known and backbone.hidden(ids, mask).shape == (len(ids), 1, 32)
    with pytest.raises(ZeroDivisionError), first_token_only(backbone.lm.base_model):
        raise ZeroDivisionError
    assert torch.equal(backbone.hidden(ids, mask), every_token)


def test_gradients_are_those_of_the_whole(family: tuple[Backbone, Packed]) -> None:
    backbone, (ids, mask, _) = family

    def gradients(vectors: Tensor) -> dict[str, Tensor]:
        backbone.zero_grad()
        vectors.sin().sum().backward()  # type: ignore[no-untyped-call]
        return {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}

    whole, first = gradients(backbone.hidden(ids, mask)[:, 0]), gradients(sentence(backbone, ids, mask))
    backbone.zero_grad()
    silent = {name for name in whole if name not in first}
    assert all("key.bias" in name for name in silent), "a key's bias is nothing to softmax"
    assert len(first) >= 14
    for name, slope in first.items():
        torch.testing.assert_close(slope, whole[name], rtol=1e-3, atol=1e-5 + 1e-3 * float(whole[name].abs().max()))


def unknown_family() -> Any:
    shape: dict[str, Any] = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "vocab_size": 50}
    return DistilBertModel(DistilBertConfig(**shape))


def test_what_is_not_known_is_left_as_it_is(tmp_path: Path) -> None:
    ids = torch.arange(5)[None]
    distil_bert = unknown_family().eval()
    with first_token_only(distil_bert) as is_known:
        assert not is_known and distil_bert(ids).last_hidden_state.shape == (1, 5, 32)
    bert = make("bert", tmp_path).backbone().lm.base_model.eval()
    bert.encoder.layer[-1].attention.self.key = type("Adapted", (nn.Linear,), {})(32, 32)
    with first_token_only(bert) as is_known:
        assert not is_known and bert(ids).last_hidden_state.shape == (1, 5, 32)


def nearness(exact: Tensor, vectors: Tensor, mask: Tensor) -> float:
    """How far, on average over the tokens, directions lie apart."""
    return float(1 - torch.cosine_similarity(exact.double(), vectors.double(), dim=-1)[mask.bool()].mean())


@pytest.mark.parametrize("dtype_name", ["float32", "bfloat16"], ids=["autocast", "weights in bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_halved_layers_are_as_near_as_transformers_own(
    family: tuple[Backbone, Packed], attention: str, dtype_name: str
) -> None:
    """All tokens, wherever the padding is, of more texts than are gone through together."""
    backbone, (ids, mask, _) = deepcopy(family[0]), family[1]
    model, dtype = backbone.lm.base_model, getattr(torch, dtype_name)
    backbone.lm.set_attn_implementation(attention)
    ids, mask = torch.cat([ids, ids.flip(1)]), torch.cat([mask, mask.flip(1)])
    with torch.inference_mode():
        exact = backbone.hidden(ids, mask)
        backbone.lm.to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            own = backbone.hidden(ids, mask)
            with bfloat16_layers(model) as is_known:
                vectors = backbone.hidden(ids, mask)
            again = backbone.hidden(ids, mask)
    assert len(ids) > TEXTS and is_known is (model.config.model_type != "modernbert")
    assert vectors.dtype == own.dtype and torch.equal(again, own)
    assert torch.equal(vectors, own) is not is_known, "other sums, unless it was left alone"
    assert nearness(exact, vectors, mask) <= 1.5 * nearness(exact, own, mask) < 0.02


def test_halved_and_first_alone_go_together(family: tuple[Backbone, Packed]) -> None:
    backbone, (ids, mask, _) = family
    model = backbone.lm.base_model
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        own = backbone.hidden(ids, mask)
        with bfloat16_layers(model):
            every = backbone.hidden(ids, mask)
            with first_token_only(model):
                first = backbone.hidden(ids, mask)
            assert torch.equal(backbone.hidden(ids, mask), every)
        assert torch.equal(backbone.hidden(ids, mask), own)
    assert first.shape == (len(ids), 1, 32)
    assert torch.cosine_similarity(first[:, 0].float(), every[:, 0].float()).min() > 0.99


def test_only_what_is_like_bert_is_halved(tmp_path: Path) -> None:
    with bfloat16_layers(unknown_family().eval()) as is_known:
        assert not is_known
    bert = make("bert", tmp_path).backbone().lm.base_model.eval()
    with bfloat16_layers(bert) as is_known:
        assert is_known
    bert.config.hidden_act = "relu"
    with bfloat16_layers(bert) as is_known:
        assert not is_known
    bert.config.hidden_act = "gelu"
    bert.encoder.layer[0].attention.self.key = type("Adapted", (nn.Linear,), {})(32, 32)
    with bfloat16_layers(bert) as is_known:
        assert not is_known
