"""
Every use of private parts of torch and transformers, and the fallback where a part is missing.

* attention_of          the name of a model's attention kernel
* initialise            the initial weights of a module that an objective adds
* has_bfloat16_linear   whether torch supports `Bfloat16Linear` on this processor
* Bfloat16Linear        linear layers joined into one bfloat16 product
* has_int8_product      whether torch multiplies int8 matrices fast on this processor
* int8_product          the exact product of two int8 matrices
* replaced_forwards     a context that replaces layers' forwards, if the vectors stay the same

A library upgrade may remove or change any of these parts. The model then becomes slower, not wrong.
`tests/model/test_internals.py` tests each fallback. It also fails where the pinned versions lack a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from retrobench.core import computes_int8

__all__ = [
    "CHANGES",
    "Bfloat16Linear",
    "attention_of",
    "has_bfloat16_linear",
    "has_int8_product",
    "initialise",
    "int8_product",
    "replaced_forwards",
]

# Errors that a call raises when a library has changed its names, arguments or shapes.
CHANGES = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)

PROBE = 8  # tokens of the longer probe text
PROBES = 40  # int8 vectors of a probe
_OPERATIONS = ("_is_mkldnn_bf16_supported", "_linear_pointwise", "_reorder_linear_weight")


def attention_of(model: Any) -> str:
    """Return the name of a transformers model's attention kernel: "sdpa", "eager", ...; empty if unknown."""
    return getattr(model.config, "_attn_implementation", None) or ""


def initialise(lm: Any, module: nn.Module) -> None:
    """Draw the weights of `module` as transformers draws those of `lm`'s family, or else those of BERT."""
    draw: Callable[[nn.Module], None] | None = getattr(lm, "_init_weights", None)
    if draw is None:
        draw = partial(_initialise_as_bert, lm.config.initializer_range)
    module.apply(draw)


def _initialise_as_bert(spread: float, module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=spread)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx])
    if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
        nn.init.ones_(module.weight)
    if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
        nn.init.zeros_(module.bias)


def has_bfloat16_linear() -> bool:
    """Return whether torch can compute a `Bfloat16Linear` on this processor."""
    namespace = torch.ops.mkldnn
    if not all(hasattr(namespace, name) for name in _OPERATIONS):
        return False
    return bool(namespace._is_mkldnn_bf16_supported())


class Bfloat16Linear:
    """Linear layers of one input, joined into one product: rows [..., I] to [..., O] bfloat16.

    GELU may follow the product. torch's compiler uses this operation for a linear layer with constant weights.
    """

    def __init__(self, *layers: Any, gelu: bool = False) -> None:
        weights = [layer.weight for layer in layers]
        biases = [layer.bias for layer in layers]
        joined = torch.cat(weights).detach().bfloat16()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(joined)
        self.bias = torch.cat(biases).detach().bfloat16()
        self.activation: tuple[str, list[float], str] = ("none", [], "")
        if gelu:
            self.activation = ("gelu", [], "none")

    def __call__(self, rows: Tensor) -> Tensor:
        linear = torch.ops.mkldnn._linear_pointwise
        return linear(rows.bfloat16(), self.weight, self.bias, *self.activation)  # type: ignore[no-any-return]


@cache
def has_int8_product(width: int) -> bool:
    """Return whether torch computes exact products of int8 vectors of this width fast on this processor."""
    if not computes_int8():  # other processors compute it slowly, or add in 16 bits, which overflow
        return False
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randint(2, (PROBES, width), generator=generator)
    vectors = (254 * vectors - 127).to(torch.int8)  # the numbers with the largest sums
    first, second = vectors[: PROBES // 3], vectors[PROBES // 3 :]
    expected = first.double() @ second.double().T
    product = torch.empty_like(expected, dtype=torch.int32)
    try:
        torch._int_mm(first, second.T, out=product)
    except CHANGES:
        return False
    return torch.equal(product.double(), expected)  # torch 2.13 reads past the end of vectors of width 1


def int8_product(first: Tensor, second: Tensor, out: Tensor) -> None:
    """Write the products of the rows of int8 matrices [m, d] and [n, d] to `out` [m, n] int32."""
    if has_int8_product(first.shape[1]):
        torch._int_mm(first, second.T, out=out)
        return
    out.copy_(first.double() @ second.double().T)


@contextmanager
def replaced_forwards(
    model: Any, forwards: Sequence[tuple[Any, Callable[..., Tensor]]], tolerance: float
) -> Iterator[bool]:
    """Replace the forward of each layer in `forwards` by the function beside it, within the context.

    Yields whether the forwards are replaced. The model first embeds two short texts both ways. It keeps its own
    forwards if an error is raised, or if vectors differ by more than `tolerance` of their length. A model in training
    mode skips this comparison, since dropout differs between calls.
    """
    with ExitStack() as stack:
        own_vectors = None
        if not model.training:
            own_vectors = _probe_vectors(model)
        for layer, forward in forwards:
            stack.enter_context(_replaced_forward(layer, forward))
        if model.training or _is_close(own_vectors, _probe_vectors(model), tolerance):
            yield True
            return
    yield False


@contextmanager
def _replaced_forward(layer: Any, forward: Callable[..., Tensor]) -> Iterator[None]:
    own_forward = vars(layer).get("forward")
    layer.forward = forward  # an attribute of the instance hides the class's method
    try:
        yield
    finally:
        del layer.forward
        if own_forward is not None:
            layer.forward = own_forward


def _probe_vectors(model: Any) -> Tensor | None:
    """Return the first tokens' last hidden states of two texts, [2, 1, D]; None if the model raises an error."""
    words = model.get_input_embeddings().weight.shape[0]
    device = model.device
    ids = torch.arange(2 * PROBE, device=device).view(2, PROBE) % words
    mask = torch.ones_like(ids)
    mask[1, PROBE // 2 :] = 0
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            return hidden[:, :1].float()  # type: ignore[no-any-return]
    except CHANGES:
        return None


def _is_close(own: Tensor | None, fast: Tensor | None, tolerance: float) -> bool:
    if own is None or fast is None or own.shape != fast.shape:
        return False
    difference = float((own - fast).norm())
    return difference <= tolerance * float(own.norm())
