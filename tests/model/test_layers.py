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

Family = tuple[Backbone, Packed]


def sentence(backbone: Backbone, ids: Tensor, mask: Tensor) -> Tensor:
    """Return [CLS] of the last layer, computed for it alone."""
    with first_token_only(backbone.lm.base_model):
        return backbone.hidden(ids, mask)[:, 0]


def enlarge_weights(model: nn.Module) -> None:
    """Draw weights, biases among them, large enough for texts to differ."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        is_scale = "norm" in name.lower() and name.endswith("weight")
        nn.init.normal_(parameter, mean=float(is_scale), std=0.3)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    base = make(request.param, tmp_path_factory.mktemp(request.param))
    backbone = base.backbone().eval()
    enlarge_weights(backbone.lm)
    texts = [base.texts[row] for row in range(len(base.texts))]  # one of them is empty
    return backbone, pack(texts, base.vocabulary, MAX_LENGTH)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rows", [slice(None), slice(0, 1)], ids=["padded", "whole"])
def test_it_equals_the_whole(family: Family, attention: str, rows: slice) -> None:
    backbone, packed = family
    ids = packed.input_ids[rows]
    mask = packed.attention_mask[rows]
    backbone.lm.set_attn_implementation(attention)
    with torch.inference_mode():
        whole = backbone.hidden(ids, mask)[:, 0]
        first = sentence(backbone, ids, mask)
    assert first.shape == whole.shape == (len(ids), 32)
    torch.testing.assert_close(first, whole, rtol=1e-5, atol=1e-5)
    cosines = torch.cosine_similarity(first.double(), whole.double())
    assert cosines.min() >= 0.9999999


def mean_distance(exact: Tensor, vectors: Tensor) -> float:
    """Return how far, on average over the vectors, directions lie apart."""
    cosines = torch.cosine_similarity(exact.double(), vectors.double(), dim=-1)
    return float(1 - cosines.mean())


def test_in_bf16_it_is_no_further_from_float32(family: Family) -> None:
    backbone, (ids, mask, _) = family
    with torch.inference_mode():
        exact = backbone.hidden(ids, mask)[:, 0]
        with torch.autocast("cpu", torch.bfloat16):
            whole = backbone.hidden(ids, mask)[:, 0]
            first = sentence(backbone, ids, mask)
    usual = mean_distance(exact, whole)
    assert mean_distance(exact, first) <= 1.5 * usual < 0.01


def test_nothing_is_left_behind(family: Family) -> None:
    """Assert that the model gives every token again after the context, also after an error in it."""
    backbone, (ids, mask, _) = family
    model = backbone.lm.base_model
    every_token = backbone.hidden(ids, mask)
    with first_token_only(model) as is_known:
        assert is_known
        assert backbone.hidden(ids, mask).shape == (len(ids), 1, 32)
    with pytest.raises(ZeroDivisionError), first_token_only(model):
        raise ZeroDivisionError
    assert torch.equal(backbone.hidden(ids, mask), every_token)


def test_gradients_are_those_of_the_whole(family: Family) -> None:
    backbone, (ids, mask, _) = family

    def gradients(vectors: Tensor) -> dict[str, Tensor]:
        backbone.zero_grad()
        vectors.sin().sum().backward()  # type: ignore[no-untyped-call]
        by_name = {}
        for name, parameter in backbone.named_parameters():
            if parameter.grad is not None:
                by_name[name] = parameter.grad.clone()
        return by_name

    whole = gradients(backbone.hidden(ids, mask)[:, 0])
    first = gradients(sentence(backbone, ids, mask))
    backbone.zero_grad()
    assert len(first) >= 14
    for name in set(whole) - set(first):
        assert "key.bias" in name, "a key's bias is nothing to softmax"
    for name, slope in first.items():
        expected = whole[name]
        largest = float(expected.abs().max())
        torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-5 + 1e-3 * largest)


def unknown_family() -> Any:
    shape: dict[str, Any] = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "vocab_size": 50}
    model: Any = DistilBertModel(DistilBertConfig(**shape))
    return model.eval()


def small_bert(folder: Path) -> Any:
    return make("bert", folder).backbone().lm.base_model.eval()


class Adapted(nn.Linear):
    """A linear layer of another class, as adapters put in place of the model's own."""


def adapt_keys(bert: Any, layer: int) -> None:
    bert.encoder.layer[layer].attention.self.key = Adapted(32, 32)


def test_what_is_not_known_is_left_as_it_is(tmp_path: Path) -> None:
    ids = torch.arange(5)[None]
    bert = small_bert(tmp_path)
    adapt_keys(bert, layer=-1)
    for model in (unknown_family(), bert):
        with first_token_only(model) as is_known:
            states = model(ids).last_hidden_state
        assert not is_known
        assert states.shape == (1, 5, 32)


@pytest.mark.parametrize("dtype_name", ["float32", "bfloat16"], ids=["autocast", "weights in bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_halved_layers_are_as_near_as_transformers_own(family: Family, attention: str, dtype_name: str) -> None:
    """Compare all real tokens, padded right or left, of more texts than one pass takes."""
    backbone = deepcopy(family[0])
    packed = family[1]
    model = backbone.lm.base_model
    dtype = getattr(torch, dtype_name)
    backbone.lm.set_attn_implementation(attention)
    ids = torch.cat([packed.input_ids, packed.input_ids.flip(1)])
    mask = torch.cat([packed.attention_mask, packed.attention_mask.flip(1)])
    assert len(ids) > TEXTS

    with torch.inference_mode():
        exact = backbone.hidden(ids, mask)
        backbone.lm.to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            own = backbone.hidden(ids, mask)
            with bfloat16_layers(model) as is_known:
                halved = backbone.hidden(ids, mask)
            again = backbone.hidden(ids, mask)
    assert is_known is (model.config.model_type != "modernbert")
    assert halved.dtype == own.dtype
    assert torch.equal(again, own)
    assert torch.equal(halved, own) is not is_known, "other sums, unless it was left alone"

    real = mask.bool()
    usual = mean_distance(exact[real], own[real])
    assert mean_distance(exact[real], halved[real]) <= 1.5 * usual < 0.02


def test_halved_and_first_alone_go_together(family: Family) -> None:
    backbone, (ids, mask, _) = family
    model = backbone.lm.base_model
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        own = backbone.hidden(ids, mask)
        with bfloat16_layers(model):
            halved = backbone.hidden(ids, mask)
            with first_token_only(model):
                first = backbone.hidden(ids, mask)
            halved_again = backbone.hidden(ids, mask)
        own_again = backbone.hidden(ids, mask)
    assert torch.equal(halved_again, halved)
    assert torch.equal(own_again, own)
    assert first.shape == (len(ids), 1, 32)
    cosines = torch.cosine_similarity(first[:, 0].float(), halved[:, 0].float())
    assert cosines.min() > 0.99


def is_halved(model: Any) -> bool:
    with bfloat16_layers(model) as is_known:
        return is_known


def test_only_what_is_like_bert_is_halved(tmp_path: Path) -> None:
    assert not is_halved(unknown_family())
    bert = small_bert(tmp_path)
    assert is_halved(bert)
    bert.config.hidden_act = "relu"
    assert not is_halved(bert)
    bert.config.hidden_act = "gelu"
    adapt_keys(bert, layer=0)
    assert not is_halved(bert)
