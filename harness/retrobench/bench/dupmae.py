"""DupMAE's head beside the dense one: the largest logit of every word over a text's tokens, and the masked words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from retrobench.bench.frame import Case, Floor, Setting, gradients, steps_alike
from retrobench.bench.models import objective, pretraining, scale
from retrobench.bench.texts import VOCABULARY, passages
from retrobench.model import Backbone, bag_loss, pooled_logits, token_loss
from retrobench.plan import arithmetic
from retrobench.training import deterministic, resolve_precision

__all__ = ["cases"]

BOW_WEIGHT = 0.1

Head = Callable[[Backbone, Tensor, dict[str, Tensor]], Tensor]


def ours(backbone: Backbone, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return both losses of hidden states [B, L, D], as the objective takes them."""
    terms = pooled_logits(backbone, hidden, batch["pooled"])
    masked = token_loss(backbone, hidden, batch["masked_positions"], batch["masked_ids"])
    return masked + BOW_WEIGHT * bag_loss(terms, batch["bag"], batch["bag_weights"])


def dense(backbone: Backbone, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return them as released: logits of all tokens [B, L, V] serve both; the maximum leaves out padding."""
    logits = backbone.logits(hidden)
    masked = F.cross_entropy(logits.flatten(0, 1)[batch["masked_positions"]].float(), batch["masked_ids"])
    pushed = (~batch["pooled"]).to(logits.dtype)[:, :, None] * -1000.0
    terms = (logits + pushed).max(dim=1).values  # [B, V]
    weights = torch.zeros_like(terms, dtype=torch.float32).scatter_(1, batch["bag"], batch["bag_weights"])
    return masked - BOW_WEIGHT * (weights * terms.float().log_softmax(-1)).sum(-1).mean()


def cases(setting: Setting) -> Iterator[Case]:
    """Yield memory, and time, of both losses with their gradients for one batch of full length."""
    sizes = replace(scale(setting), dropout=0.0)
    sizes = setting.choose(smoke=sizes, cpu=replace(sizes, batch=2 * sizes.batch), cuda=sizes)
    backbone = pretraining(objective("dupmae"), sizes, setting.device).backbone
    texts = passages([sizes.length] * sizes.batch)
    batch = objective("dupmae").collate(texts, VOCABULARY, sizes.length, torch.Generator().manual_seed(0))
    batch = {name: value.to(setting.device) for name, value in batch.items()}
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(sizes.batch, sizes.length, sizes.hidden, generator=draw).to(setting.device)
    precision = resolve_precision("auto")

    def run(head: Head) -> float:
        with deterministic():
            _step(head, backbone, hidden, batch, precision == "bf16")
        return float(sizes.batch * sizes.length)

    @cache
    def check() -> str:
        return steps_alike(partial(_step, ours, backbone, hidden, batch), _step(dense, backbone, hidden, batch, False))

    case = partial(
        Case,
        ours=partial(run, ours),
        peer=partial(run, dense),
        peer_name="dense [B, L, V]",
        check=check,
        note=f"{sizes.hidden} wide, {sizes.batch_text} tokens; both in {precision}",
    )
    yield case(name="peak memory", unit="bytes", kind="bytes")
    # All logits once, and of the masked tokens their gradients; that of a maximum is one product of a vector.
    masked = len(batch["masked_positions"]) / (sizes.batch * sizes.length)
    floor = Floor((1 + 2 * masked) * arithmetic.head(sizes.shape), precision=precision)
    yield case(name="time", unit="tokens/s", floor=floor, memory=False)


def _step(
    head: Head, backbone: Backbone, hidden: Tensor, batch: dict[str, Tensor], halved: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss, and the gradients of hidden states and parameters."""
    leaf = hidden.detach().requires_grad_()
    with torch.autocast(hidden.device.type, torch.bfloat16, enabled=halved):
        loss = head(backbone, leaf, batch)
    slopes = gradients(backbone, loss)
    assert leaf.grad is not None
    return loss.detach(), {"hidden": leaf.grad, **slopes}
