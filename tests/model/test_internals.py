"""Private parts of torch and transformers: taken from the pinned versions, done without where an upgrade drops one."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bases import FAMILIES, MAX_LENGTH, make
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.bert.modeling_bert import BertLayer

from retrobench.core import computes_bf16
from retrobench.model import internals, layers
from retrobench.model.backbones import Backbone
from retrobench.model.decoder import EnhancedDecoder
from retrobench.model.internals import attention_of, has_bfloat16_linear, initialise
from retrobench.model.layers import bfloat16_layers, first_token_only
from retrobench.model.masking import Packed, pack

Break = Callable[[pytest.MonkeyPatch, Any], None]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Backbone, Packed]:
    base = make(request.param, tmp_path_factory.mktemp(request.param))
    backbone = base.backbone().eval()
    texts = [base.texts[row] for row in range(len(base.texts))]
    return backbone, pack(texts, base.vocabulary, MAX_LENGTH)


@pytest.fixture
def bert(tmp_path: Path) -> tuple[Any, Tensor, Tensor]:
    """A BERT whose layers turn vectors far, and padded texts."""
    base = make("bert", tmp_path)
    model = base.backbone().lm.base_model.eval()
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.3)
    ids, mask, _ = pack([base.texts[row] for row in range(len(base.texts))], base.vocabulary, MAX_LENGTH)
    return model, ids, mask


def vectors(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]  # type: ignore[no-any-return]


def test_the_pinned_versions_are_read_fast(family: tuple[Backbone, Packed]) -> None:
    """Fails where an upgrade drops a part that encoding is fast by: nothing else would say so."""
    backbone, _ = family
    model = backbone.lm.base_model
    assert attention_of(model) == "sdpa"
    assert has_bfloat16_linear() or not computes_bf16()
    with first_token_only(model) as is_taken:
        assert is_taken
    with bfloat16_layers(model) as is_taken:
        assert is_taken is (has_bfloat16_linear() and model.config.model_type != "modernbert")


def test_what_is_tried_draws_no_random_number_and_leaves_no_trace(family: tuple[Backbone, Packed]) -> None:
    backbone, (ids, mask, _) = family
    model = backbone.lm.base_model
    vectors_before, state = vectors(model, ids, mask), torch.get_rng_state()
    for _ in range(2):
        with bfloat16_layers(model), first_token_only(model):
            pass
        assert torch.equal(vectors(model, ids, mask), vectors_before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any("forward" in vars(layer) for layer in backbone.layers)


def no_products(patch: pytest.MonkeyPatch, model: Any) -> None:
    patch.setattr(torch.ops, "mkldnn", SimpleNamespace())


def products(linear: Callable[..., Tensor], reorder: Callable[[Tensor], Tensor] = torch.clone) -> Break:
    """torch with other functions behind the names."""
    namespace = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True)
    namespace._linear_pointwise, namespace._reorder_linear_weight = linear, reorder
    return lambda patch, model: patch.setattr(torch.ops, "mkldnn", namespace)


def unordered(weight: Tensor) -> Tensor:
    raise RuntimeError("_reorder_linear_weight: expected another layout")


TORCH = {
    "torch has no such product": no_products,
    "the product takes other arguments": products(lambda rows, weight: rows),
    "the product leaves out the bias": products(lambda rows, weight, bias, *activation: F.linear(rows, weight)),
    "the product leaves out GELU": products(lambda rows, weight, bias, *activation: F.linear(rows, weight, bias)),
    "weights are laid out otherwise": products(lambda rows, *unused: rows, unordered),
}


def test_the_stand_in_for_torch_is_taken_where_it_computes_the_product(
    bert: tuple[Any, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what refuses the others is their being wrong."""

    def linear(rows: Tensor, weight: Tensor, bias: Tensor, kind: str, *unused: Any) -> Tensor:
        out = F.linear(rows, weight, bias)
        return F.gelu(out) if kind == "gelu" else out

    products(linear)(monkeypatch, bert[0])
    with bfloat16_layers(bert[0]) as is_taken:
        assert is_taken


@pytest.mark.parametrize("upgrade", TORCH)
def test_without_torchs_products_layers_are_transformers_own(
    bert: tuple[Any, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, upgrade: str
) -> None:
    own = vectors(*bert)
    TORCH[upgrade](monkeypatch, bert[0])
    with bfloat16_layers(bert[0]) as is_taken:
        assert not is_taken
        assert torch.equal(vectors(*bert), own)


def called_by(
    model: Any, call: Callable[[Any, Tensor, Tensor], Tensor]
) -> Callable[..., BaseModelOutputWithPastAndCrossAttentions]:
    """A forward of the encoder that calls its layers in another way."""

    def forward(
        hidden_states: Tensor, attention_mask: Any = None, **unused: Any
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        for layer in model.encoder.layer:
            hidden_states = call(layer, hidden_states, attention_mask)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden_states)

    return forward


def another_name(patch: pytest.MonkeyPatch, model: Any) -> None:
    own = BertLayer.forward
    patch.setattr(BertLayer, "forward", lambda layer, hidden, *, visible: own(layer, hidden, visible))
    patch.setattr(model.encoder, "forward", called_by(model, lambda layer, hidden, mask: layer(hidden, visible=mask)))


def tuples(patch: pytest.MonkeyPatch, model: Any) -> None:
    own = BertLayer.forward
    patch.setattr(BertLayer, "forward", lambda *words, **named: (own(*words, **named),))
    patch.setattr(model.encoder, "forward", called_by(model, lambda layer, hidden, mask: layer(hidden, mask)[0]))


def renamed(patch: pytest.MonkeyPatch, model: Any) -> None:
    for layer in model.encoder.layer:
        del layer.attention.self.num_attention_heads  # which only the fast forwards read


def scaled(patch: pytest.MonkeyPatch, model: Any) -> None:
    own = BertLayer.forward
    patch.setattr(BertLayer, "forward", lambda *words, **named: own(*words, **named) * 2)


TRANSFORMERS = {
    "the mask has another name": another_name,
    "layers give tuples": tuples,
    "an attribute is renamed": renamed,
    "layers compute something else": scaled,
}


@pytest.mark.parametrize("fast", [first_token_only, bfloat16_layers])
@pytest.mark.parametrize("upgrade", TRANSFORMERS)
def test_layers_that_are_not_those_known_are_left_alone(
    bert: tuple[Any, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, upgrade: str, fast: Any
) -> None:
    model, ids, mask = bert
    TRANSFORMERS[upgrade](monkeypatch, model)
    own = vectors(model, ids, mask)
    with fast(model) as is_taken:
        assert not is_taken
        assert torch.equal(vectors(model, ids, mask), own)


def test_attention_that_is_not_named_is_left_alone(
    family: tuple[Backbone, Packed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers without `_attn_implementation`: every layer is its own, and masks it as it likes."""
    backbone, (ids, mask, _) = family
    own = backbone.hidden(ids, mask)
    assert attention_of(SimpleNamespace(config=SimpleNamespace())) == ""
    for module in (layers, internals):
        monkeypatch.setattr(module, "attention_of", lambda model: "")
    monkeypatch.setattr("retrobench.model.backbones.attention_of", lambda model: "")
    with first_token_only(backbone.lm.base_model) as first, bfloat16_layers(backbone.lm.base_model) as half:
        assert not first and not half
        assert torch.equal(backbone.hidden(ids, mask), own)


def test_without_the_familys_first_weights_those_of_bert_are_drawn(family: tuple[Backbone, Packed]) -> None:
    """The very numbers, for a decoder has nothing but linear layers, norms and a table of positions."""
    lm = family[0].lm
    assert hasattr(lm, "_init_weights")
    own_decoder = EnhancedDecoder(lm.config, own_positions=True)
    bert_decoder = deepcopy(own_decoder)
    torch.manual_seed(0)
    initialise(lm, own_decoder)
    torch.manual_seed(0)
    initialise(SimpleNamespace(config=lm.config), bert_decoder)
    assert len(own_decoder.state_dict()) == 17
    for name, weight in own_decoder.state_dict().items():
        assert torch.equal(weight, bert_decoder.state_dict()[name]), name
