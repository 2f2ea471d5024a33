"""DupMAE's head beside the dense one: the largest logit of every word over a text's tokens, and the masked words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from retrobench.bench.frame import Case, Floor, Setting, steps_alike
from retrobench.bench.models import objective, pretraining, scale
from retrobench.bench.texts import VOCABULARY, passages
from retrobench.model import Backbone, bag_loss, pooled_logits, token_loss
from retrobench.plan import arithmetic
from retrobench.training import deterministic, resolve_precision

__all__ = ["cases"]

BOW_WEIGHT = 0.1

Head = Callable[[Backbone, Tensor, dict[str, Tensor]], Tensor]


def ours(backbone: Backbone, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Both losses of hidden states [B, L, D], as the objective takes them."""
    terms = pooled_logits(backbone, hidden, batch["pooled"])
    masked = token_loss(backbone, hidden, batch["masked_positions"], batch["masked_ids"])
    return masked + BOW_WEIGHT * bag_loss(terms, batch["bag"], batch["bag_weights"])


def dense(backbone: Backbone, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The same as released: logits of all tokens [B, L, V] serve both; padding is pushed down before the maximum."""
    logits = backbone.logits(hidden)
    masked = F.cross_entropy(logits.flatten(0, 1)[batch["masked_positions"]].float(), batch["masked_ids"])
    pushed = (~batch["pooled"]).to(logits.dtype)[:, :, None] * -1000.0
    terms = (logits + pushed).max(dim=1).values  # [B, V]
    weights = torch.zeros_like(terms, dtype=torch.float32).scatter_(1, batch["bag"], batch["bag_weights"])
    return masked - BOW_WEIGHT * (weights * terms.float().log_softmax(-1)).sum(-1).mean()


def cases(setting: Setting) -> Iterator[Case]:
    """Memory, and time, of both losses with their gradients for one batch of full length."""
    found = scale(setting)
    sizes = replace(found, dropout=0.0, batch=found.batch if setting.cuda or setting.smoke else 2 * found.batch)
    backbone = pretraining(objective("dupmae"), sizes, setting.device).backbone
    texts = passages([sizes.length] * sizes.batch)
    batch = objective("dupmae").collate(texts, VOCABULARY, sizes.length, torch.Generator().manual_seed(0))
    batch = {name: value.to(setting.device) for name, value in batch.items()}
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(sizes.batch, sizes.length, sizes.hidden, generator=draw).to(setting.device)
    halved = resolve_precision("auto")

    def side(head: Head) -> Callable[[], float]:
        def run() -> float:
            with deterministic():
                _gradients(head, backbone, hidden, batch, halved == "bf16")
            return float(hidden.shape[0] * hidden.shape[1])

        return run

    @cache
    def check() -> str:
        few = {**batch, **{name: batch[name][:4] for name in ("pooled", "bag", "bag_weights")}}
        inside = few["masked_positions"] < 4 * sizes.length
        few |= {name: batch[name][inside] for name in ("masked_positions", "masked_ids")}
        some = hidden[:4]
        return steps_alike(
            lambda halved: _gradients(ours, backbone, some, few, halved), _gradients(dense, backbone, some, few, False)
        )

    # All logits once, and of the masked tokens their gradients; that of a maximum is one product of a vector.
    masked = len(batch["masked_positions"]) / (sizes.batch * sizes.length)
    flops = (1 + 2 * masked) * arithmetic.head(sizes.shape)
    note = f"{sizes.hidden} wide, {sizes.batch} x {sizes.length} tokens; both in {halved}"
    sides = {"ours": side(ours), "peer": side(dense), "peer_name": "dense [B, L, V]"}
    yield Case(name="peak memory", unit="bytes", kind="bytes", check=check, note=note, **sides)  # type: ignore[arg-type]
    floor = Floor(flops, precision=halved)
    yield Case(name="time", unit="tokens/s", check=check, note=note, floor=floor, memory=False, **sides)  # type: ignore[arg-type]


def _gradients(
    head: Head, backbone: Backbone, hidden: Tensor, batch: dict[str, Tensor], halved: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the gradients of all that it depends on."""
    leaf = hidden.detach().requires_grad_()
    with torch.autocast(hidden.device.type, torch.bfloat16, enabled=halved):
        loss = head(backbone, leaf, batch)
    backbone.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    slopes = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    assert leaf.grad is not None
    return loss.detach(), {"hidden": leaf.grad, **slopes}
