"""Condenser's head, and the spans of a batch that coCondenser compares."""

from __future__ import annotations

import pytest
import torch
from bases import MAX_LENGTH, Base, make
from contexts import wrapped
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from retrobench.errors import RetrobenchError
from retrobench.model import Backbone, Layers, condense, early_layer, pack
from retrobench_cocondenser import CoCondenser
from retrobench_condenser import Condenser


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make("bert", tmp_path_factory.mktemp("bert"))


def deep(layers: int) -> Backbone:
    return Backbone(
        BertForMaskedLM(
            BertConfig(
                vocab_size=30, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=8
            )
        )
    )


@pytest.mark.parametrize(("layers", "middle"), [(1, 0), (2, 1), (3, 1), (12, 6)])
def test_the_early_layer_is_in_the_middle_unless_given(layers: int, middle: int) -> None:
    assert early_layer(deep(layers), 0) == middle
    assert early_layer(deep(layers + 1), layers) == layers


def test_a_layer_that_is_not_early_is_refused() -> None:
    for objective in (Condenser(skip_from=6), CoCondenser(skip_from=6)):
        with pytest.raises(RetrobenchError, match=r"skip_from is 6, and the base model has 3 layers.* below 3, or 0"):
            wrapped(objective, deep(3))
    with pytest.raises(RetrobenchError, match="skip_from is 3"):
        early_layer(deep(3), 3)


def test_the_head_reads_the_last_layer_through_cls_alone(base: Base) -> None:
    """The gradient by the last layer's rows is zero but at [CLS]."""
    backbone = base.backbone().eval()
    packed = pack([base.texts[row] for row in range(3)], base.vocabulary, MAX_LENGTH)
    last: list[Tensor] = []

    def keep(module: torch.nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        last.append(output)

    list(backbone.layers)[-1].register_forward_hook(keep)
    late, top = condense(backbone, Layers(backbone, 2), 1, packed.input_ids, packed.attention_mask)
    assert torch.equal(late, last[0])
    top.square().sum().backward()  # type: ignore[no-untyped-call]
    gradient = last[0].grad
    assert gradient is not None
    assert gradient[:, 0].abs().sum(1).min() > 0
    assert not gradient[:, 1:].any()


@pytest.mark.parametrize("objective", [Condenser(), CoCondenser()], ids=lambda objective: objective.name)
def test_a_stage_goes_on_with_the_head_of_the_stage_before(objective: Condenser | CoCondenser, base: Base) -> None:
    before = wrapped(Condenser(), base.backbone(), base.vocabulary)
    head = {name: tensor for name, tensor in before.named_parameters() if name.startswith("head.")}
    assert len(head) == 32
    after = wrapped(objective, base.backbone(), base.vocabulary, stage="adapt", added=head)
    fresh = wrapped(objective, base.backbone(), base.vocabulary)
    parameters, others = dict(after.named_parameters()), dict(fresh.named_parameters())
    for name, tensor in head.items():
        assert torch.equal(parameters[name], tensor), name
    assert any(not torch.equal(others[name], tensor) for name, tensor in head.items())


def test_each_span_is_compared_with_all_others(base: Base) -> None:
    model = wrapped(CoCondenser(), base.backbone(), base.vocabulary)
    # Two documents: rows 0 and 1 are alike, row 2 is more like row 0 than like its sibling.
    vectors = torch.tensor([[2.0, 0.0], [2.0, 1.0], [1.0, 0.0], [0.0, 3.0]])
    step = model.couple(0.0, vectors)
    scores = vectors.double() @ vectors.double().T
    expected = 0.0
    for row, sibling in enumerate([1, 0, 3, 2]):
        others = [number for number in range(4) if number != row]
        expected += (torch.logsumexp(scores[row, others], 0) - scores[row, sibling]).item() / 4
    assert step.losses.keys() == {"contrastive"}
    assert step.losses["contrastive"].item() == pytest.approx(expected, abs=1e-6)
    assert step.metrics["siblings_first"].item() == 0.5  # rows 0 and 1
    assert expected > 1


def test_the_comparison_does_not_wait_for_the_device(base: Base) -> None:
    model = wrapped(CoCondenser(), base.backbone(), base.vocabulary)
    vectors = torch.zeros(6, 32, device="meta", requires_grad=True)
    model.couple(0.0, vectors).losses["contrastive"].backward()  # type: ignore[no-untyped-call]
    assert vectors.grad is not None


def test_the_weight_is_that_of_both_terms_of_mlm(base: Base) -> None:
    passages = [base.texts[row] for row in range(4)]
    batch = CoCondenser().collate(passages, base.vocabulary, MAX_LENGTH, torch.Generator().manual_seed(0))
    losses = []
    for weight in (1.0, 2.0):
        torch.manual_seed(0)
        model = wrapped(CoCondenser(mlm_weight=weight), base.backbone(), base.vocabulary).eval()
        losses.append(model(0.0, **batch).losses)
    for name in ("head_mlm", "late_mlm"):
        assert losses[1][name].item() == pytest.approx(2 * losses[0][name].item(), rel=1e-6)
