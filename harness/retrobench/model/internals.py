"""
Parts of torch and transformers that neither library promises to keep, all in this module.

* attention_of      the kernel by which a model attends
* initialise        the first weights of a module that an objective adds
* multiplies_bf16   whether torch has the products of `Product` on this processor
* Product           linear layers side by side as one product in bfloat16
* replaced          layers of a model with other forwards, where the model then gives the same vectors

An upgrade that takes one of them away, or changes how it behaves, makes the model slower and not wrong. Each has a
test for that in `tests/model/test_internals.py`, and a test that fails where the pinned versions lack it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CHANGES", "Product", "attention_of", "initialise", "multiplies_bf16", "replaced"]

# What a call raises where a library's names, arguments or shapes are no longer the ones known here.
CHANGES = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)

PROBE = 8  # tokens of the longer of two texts by which a model is tried
_PRODUCTS = ("_is_mkldnn_bf16_supported", "_linear_pointwise", "_reorder_linear_weight")


def attention_of(model: Any) -> str:
    """Return the name of the kernel by which a transformers model attends: "sdpa", "eager", ...; empty if unknown."""
    return getattr(model.config, "_attn_implementation", None) or ""


def initialise(lm: Any, module: nn.Module) -> None:
    """Draw the weights of `module` as transformers draws those of the model's own family, else as those of BERT."""
    draw: Callable[[nn.Module], None] | None = getattr(lm, "_init_weights", None)
    module.apply(draw or partial(_as_bert, lm.config.initializer_range))


def _as_bert(spread: float, module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=spread)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx])
    if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
        nn.init.ones_(module.weight)
    if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
        nn.init.zeros_(module.bias)


def multiplies_bf16() -> bool:
    """Return whether torch can compute a `Product` on this processor."""
    products = torch.ops.mkldnn
    return all(hasattr(products, name) for name in _PRODUCTS) and bool(products._is_mkldnn_bf16_supported())


class Product:
    """Rows [..., I] to [..., O] bf16 by some linear layers side by side, then GELU or nothing.

    By the operation that torch's compiler makes of a linear layer whose weights no longer change.
    """

    def __init__(self, *parts: Any, gelu: bool = False) -> None:
        weight = torch.cat([part.weight for part in parts]).detach().bfloat16()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.bias = torch.cat([part.bias for part in parts]).detach().bfloat16()
        self.after: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows.bfloat16(), self.weight, self.bias, *self.after)  # type: ignore[no-any-return]


@contextmanager
def replaced(model: Any, forwards: Sequence[tuple[Any, Callable[..., Tensor]]], tolerance: float) -> Iterator[bool]:
    """While this lasts, each layer of `model` that is named in `forwards` computes by the function beside it.

    Yields whether it does. Two short texts are tried first, with the model's own layers and with these. The model keeps
    its own where an error is raised, or where vectors differ by more than `tolerance` of their length. In training
    nothing is tried, since dropout differs from call to call.
    """
    with ExitStack() as stack:
        before = None if model.training else _tried(model)
        for layer, forward in forwards:
            stack.enter_context(_put(layer, forward))
        if model.training or _alike(before, _tried(model), tolerance):
            yield True
            return
    yield False


@contextmanager
def _put(layer: Any, forward: Callable[..., Tensor]) -> Iterator[None]:
    before = vars(layer).get("forward")
    layer.forward = forward  # on the instance, where it hides the class's
    try:
        yield
    finally:
        del layer.forward
        if before is not None:
            layer.forward = before


def _tried(model: Any) -> Tensor | None:
    """Return the first token's last hidden state of two texts, [2, 1, D]; None where the model raises an error."""
    words, device = model.get_input_embeddings().weight.shape[0], model.device
    ids = torch.arange(2 * PROBE, device=device).view(2, PROBE) % words
    mask = torch.ones_like(ids)
    mask[1, PROBE // 2 :] = 0
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :1].float()  # type: ignore[no-any-return]
    except CHANGES:
        return None


def _alike(own: Tensor | None, fast: Tensor | None, tolerance: float) -> bool:
    if own is None or fast is None or own.shape != fast.shape:
        return False
    return float((own - fast).norm()) <= tolerance * float(own.norm())
