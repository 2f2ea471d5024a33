"""Private parts of torch and transformers: taken from the pinned versions, done without where an upgrade drops one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bases import FAMILIES, MAX_LENGTH, Base, make
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.bert.modeling_bert import BertLayer

from retrobench.core import computes_bf16, computes_int8
from retrobench.model import backbones, internals, layers
from retrobench.model.backbones import Backbone
from retrobench.model.decoder import EnhancedDecoder
from retrobench.model.internals import (
    attention_of,
    has_bfloat16_linear,
    has_int8_product,
    initialise,
    int8_product,
)
from retrobench.model.layers import bfloat16_layers, first_token_only
from retrobench.model.masking import Packed, pack

Family = tuple[Backbone, Packed]
Bert = tuple[Any, Packed]  # the encoder alone
Break = Callable[[pytest.MonkeyPatch, Any], None]


def packed_texts(base: Base) -> Packed:
    texts = [base.texts[row] for row in range(len(base.texts))]
    return pack(texts, base.vocabulary, MAX_LENGTH)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    base = make(request.param, tmp_path_factory.mktemp(request.param))
    return base.backbone().eval(), packed_texts(base)


@pytest.fixture
def bert(tmp_path: Path) -> Bert:
    """Return a BERT whose weights are large enough for layers to change vectors much, and padded texts."""
    base = make("bert", tmp_path)
    model = base.backbone().lm.base_model.eval()
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.3)
    return model, packed_texts(base)


def vectors(model: Any, packed: Packed) -> Tensor:
    with torch.inference_mode():
        states = model(input_ids=packed.input_ids, attention_mask=packed.attention_mask).last_hidden_state
    return states[:, 0]  # type: ignore[no-any-return]


def test_the_pinned_versions_are_read_fast(family: Family) -> None:
    """Fail where an upgrade drops a private part: encoding would be slower, and no other test would fail."""
    backbone, _ = family
    model = backbone.lm.base_model
    assert attention_of(model) == "sdpa"
    assert has_bfloat16_linear() or not computes_bf16()
    assert has_int8_product(384) or not computes_int8()
    with first_token_only(model) as is_taken:
        assert is_taken
    with bfloat16_layers(model) as is_taken:
        assert is_taken is (has_bfloat16_linear() and model.config.model_type != "modernbert")


def test_what_is_tried_draws_no_random_number_and_leaves_no_trace(family: Family) -> None:
    backbone, packed = family
    model = backbone.lm.base_model
    own = vectors(model, packed)
    random_state = torch.get_rng_state()
    for _ in range(2):
        with bfloat16_layers(model), first_token_only(model):
            pass
        assert torch.equal(vectors(model, packed), own)
    assert torch.equal(torch.get_rng_state(), random_state)
    for layer in backbone.layers:
        assert "forward" not in vars(layer)


def no_products(patch: pytest.MonkeyPatch, model: Any) -> None:
    patch.setattr(torch.ops, "mkldnn", SimpleNamespace())


def products(linear: Callable[..., Tensor], reorder: Callable[[Tensor], Tensor] = torch.clone) -> Break:
    """Put other functions behind the names of torch's product and of its weights' layout."""
    namespace = SimpleNamespace(
        _is_mkldnn_bf16_supported=lambda: True,
        _linear_pointwise=linear,
        _reorder_linear_weight=reorder,
    )

    def upgrade(patch: pytest.MonkeyPatch, model: Any) -> None:
        patch.setattr(torch.ops, "mkldnn", namespace)

    return upgrade


def stand_in(rows: Tensor, weight: Tensor, bias: Tensor, kind: str, *unused: Any) -> Tensor:
    product = F.linear(rows, weight, bias)
    if kind == "gelu":
        return F.gelu(product)
    return product


def other_arguments(rows: Tensor, weight: Tensor) -> Tensor:
    return rows


def without_bias(rows: Tensor, weight: Tensor, bias: Tensor, *activation: Any) -> Tensor:
    return F.linear(rows, weight)


def without_gelu(rows: Tensor, weight: Tensor, bias: Tensor, *activation: Any) -> Tensor:
    return F.linear(rows, weight, bias)


def unordered(weight: Tensor) -> Tensor:
    raise RuntimeError("_reorder_linear_weight: expected another layout")


TORCH = {
    "torch has no such product": no_products,
    "the product takes other arguments": products(other_arguments),
    "the product leaves out the bias": products(without_bias),
    "the product leaves out GELU": products(without_gelu),
    "weights are laid out otherwise": products(stand_in, unordered),
}


def test_the_stand_in_for_torch_is_taken_where_it_computes_the_product(
    bert: Bert, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Assert that the other products are refused for their results, not for being stand-ins."""
    model, _ = bert
    install = products(stand_in)
    install(monkeypatch, model)
    with bfloat16_layers(model) as is_taken:
        assert is_taken


@pytest.mark.parametrize("upgrade", TORCH)
def test_without_torchs_products_layers_are_transformers_own(
    bert: Bert, monkeypatch: pytest.MonkeyPatch, upgrade: str
) -> None:
    model, packed = bert
    own = vectors(model, packed)
    TORCH[upgrade](monkeypatch, model)
    with bfloat16_layers(model) as is_taken:
        assert not is_taken
        assert torch.equal(vectors(model, packed), own)


Call = Callable[[Any, Tensor, Tensor], Tensor]


def call_layers(patch: pytest.MonkeyPatch, model: Any, call: Call) -> None:
    """Let the encoder call its layers in another way."""

    def forward(hidden_states: Tensor, attention_mask: Any = None, **unused: Any) -> Any:
        for layer in model.encoder.layer:
            hidden_states = call(layer, hidden_states, attention_mask)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden_states)

    patch.setattr(model.encoder, "forward", forward)


def another_name(patch: pytest.MonkeyPatch, model: Any) -> None:
    own = BertLayer.forward

    def forward(layer: Any, hidden: Tensor, *, visible: Tensor) -> Tensor:
        return own(layer, hidden, visible)

    def call(layer: Any, hidden: Tensor, mask: Tensor) -> Tensor:
        return layer(hidden, visible=mask)  # type: ignore[no-any-return]

    patch.setattr(BertLayer, "forward", forward)
    call_layers(patch, model, call)


def tuples(patch: pytest.MonkeyPatch, model: Any) -> None:
    own = BertLayer.forward

    def forward(*arguments: Any, **named: Any) -> tuple[Tensor]:
        return (own(*arguments, **named),)

    def call(layer: Any, hidden: Tensor, mask: Tensor) -> Tensor:
        return layer(hidden, mask)[0]  # type: ignore[no-any-return]

    patch.setattr(BertLayer, "forward", forward)
    call_layers(patch, model, call)


def renamed(patch: pytest.MonkeyPatch, model: Any) -> None:
    for layer in model.encoder.layer:
        del layer.attention.self.num_attention_heads  # which only the fast forwards read


def scaled(patch: pytest.MonkeyPatch, model: Any) -> None:
    own = BertLayer.forward

    def forward(*arguments: Any, **named: Any) -> Tensor:
        return own(*arguments, **named) * 2

    patch.setattr(BertLayer, "forward", forward)


TRANSFORMERS = {
    "the mask has another name": another_name,
    "layers give tuples": tuples,
    "an attribute is renamed": renamed,
    "layers compute something else": scaled,
}


@pytest.mark.parametrize("fast", [first_token_only, bfloat16_layers])
@pytest.mark.parametrize("upgrade", TRANSFORMERS)
def test_layers_that_are_not_those_known_are_left_alone(
    bert: Bert, monkeypatch: pytest.MonkeyPatch, upgrade: str, fast: Any
) -> None:
    model, packed = bert
    TRANSFORMERS[upgrade](monkeypatch, model)
    own = vectors(model, packed)
    with fast(model) as is_taken:
        assert not is_taken
        assert torch.equal(vectors(model, packed), own)


def test_attention_that_is_not_named_is_left_alone(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave layers alone without `_attn_implementation`: the form of their masks is then unknown."""
    backbone, (ids, mask, _) = family
    model = backbone.lm.base_model
    own = backbone.hidden(ids, mask)
    nameless = SimpleNamespace(config=SimpleNamespace())
    assert attention_of(nameless) == ""
    for module in (backbones, internals, layers):
        monkeypatch.setattr(module, "attention_of", lambda model: "")
    with first_token_only(model) as is_first_alone, bfloat16_layers(model) as is_halved:
        assert not is_first_alone
        assert not is_halved
        assert torch.equal(backbone.hidden(ids, mask), own)


def test_without_the_familys_first_weights_those_of_bert_are_drawn(family: Family) -> None:
    """Expect equal numbers, since a decoder has only linear layers, norms and a table of positions."""
    lm = family[0].lm
    assert hasattr(lm, "_init_weights")
    own_decoder = EnhancedDecoder(lm.config, own_positions=True)
    bert_decoder = deepcopy(own_decoder)
    torch.manual_seed(0)
    initialise(lm, own_decoder)
    torch.manual_seed(0)
    initialise(SimpleNamespace(config=lm.config), bert_decoder)
    weights = own_decoder.state_dict()
    bert_weights = bert_decoder.state_dict()
    assert len(weights) == 17
    for name, weight in weights.items():
        assert torch.equal(weight, bert_weights[name]), name


# Products of int8 matrices


def draw_int8(rows: int, width: int) -> Tensor:
    return torch.randint(-127, 128, (rows, width), dtype=torch.int8)


def assert_exact(rows: int, documents: int, width: int) -> None:
    first, second = draw_int8(rows, width), draw_int8(documents, width)
    product = torch.empty(rows, documents, dtype=torch.int32)
    int8_product(first, second, product)
    assert torch.equal(product, first.int() @ second.int().T)


@pytest.mark.parametrize("width", [1, 2, 3, 31, 32, 33, 64, 100, 384, 1000])
def test_int8_products_are_exact(width: int) -> None:
    """Torch's own product of vectors of width 1 is wrong in 2.13, and is not taken."""
    for rows in (1, 2, 13, 64, 200):
        for documents in (1, 5, 32, 1001):
            assert_exact(rows, documents, width)


@pytest.fixture
def int8_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let the product be tried again, and afterwards once more, on a processor that computes it fast."""
    monkeypatch.setattr(internals, "computes_int8", lambda: True)
    has_int8_product.cache_clear()
    yield monkeypatch
    has_int8_product.cache_clear()


def no_int8(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(torch, "_int_mm")


def without_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "_int_mm", lambda first, second: first.int() @ second.int())


def overflowing(patch: pytest.MonkeyPatch) -> None:
    """Add in 16 bits, as processors without VNNI do."""

    def product(first: Tensor, second: Tensor, out: Tensor) -> None:
        exact = first.int() @ second.int()
        out.copy_(exact.clamp(-(2**15), 2**15 - 1))

    patch.setattr(torch, "_int_mm", product)


@pytest.mark.parametrize("spoil", [no_int8, without_out, overflowing])
def test_an_int8_product_that_is_missing_or_wrong_is_not_taken(
    spoil: Callable[[pytest.MonkeyPatch], None], int8_anew: pytest.MonkeyPatch
) -> None:
    spoil(int8_anew)
    assert not has_int8_product(384)
    assert_exact(20, 30, 384)


def test_a_processor_without_int8_products_does_not_take_torchs(int8_anew: pytest.MonkeyPatch) -> None:
    int8_anew.setattr(internals, "computes_int8", lambda: False)
    int8_anew.delattr(torch, "_int_mm")
    assert not has_int8_product(384)
    assert_exact(20, 30, 384)
