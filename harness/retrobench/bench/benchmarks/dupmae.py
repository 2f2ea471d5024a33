"""DupMAE's head beside the dense head: the largest logit of every word over a text's tokens, and the masked words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from retrobench.bench.frame import Case, Floor, StepResult, compute_gradients, loss_scale, require_equal_steps
from retrobench.bench.models import Scale, default_scale, installed_objective, make_pretraining
from retrobench.bench.setting import Setting
from retrobench.bench.texts import VOCABULARY, draw_passages
from retrobench.config import ResolvedPrecision
from retrobench.model import Backbone, autocast, bag_loss, pooled_logits, token_loss
from retrobench.plan import arithmetic
from retrobench.training import deterministic, resolve_precision

__all__ = ["cases"]

BOW_WEIGHT = 0.1

Head = Callable[[Backbone, Tensor, dict[str, Tensor]], Tensor]


def our_loss(backbone: Backbone, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the sum of both losses of hidden states [B, L, D], as the objective computes them."""
    terms = pooled_logits(backbone, hidden, batch["pooled"])
    masked = token_loss(backbone, hidden, batch["masked_positions"], batch["masked_ids"])
    return masked + BOW_WEIGHT * bag_loss(terms, batch["bag"], batch["bag_weights"])


def dense_loss(backbone: Backbone, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the sum as released: logits of all tokens [B, L, V] serve both; the maximum leaves out padding."""
    logits = backbone.logits(hidden)
    masked = _masked_loss(logits, batch)
    terms = _pool(logits, batch["pooled"])
    weights = torch.zeros_like(terms, dtype=torch.float32)
    weights.scatter_(1, batch["bag"], batch["bag_weights"])
    log_shares = terms.float().log_softmax(-1)
    bags = (weights * log_shares).sum(-1)
    return masked - BOW_WEIGHT * bags.mean()


# Memory is measured, so each large tensor is freed where its function ends.
def _masked_loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    positions = batch["masked_positions"]
    masked_logits = logits.flatten(0, 1)[positions].float()
    return F.cross_entropy(masked_logits, batch["masked_ids"])


def _pool(logits: Tensor, pooled: Tensor) -> Tensor:
    """Return the largest logit of each word among the pooled tokens, [B, V]."""
    unpooled = (~pooled).to(logits.dtype)[:, :, None]
    pooled_logits = logits - 1000.0 * unpooled
    return pooled_logits.max(dim=1).values


@dataclass(frozen=True)
class _Inputs:
    """A batch of full length, its hidden states, and the model whose head reads them."""

    backbone: Backbone
    hidden: Tensor  # [B, L, D]
    batch: dict[str, Tensor]

    def step(self, head: Head, precision: ResolvedPrecision) -> StepResult:
        """Return the loss, and the gradients of hidden states and parameters."""
        hidden = self.hidden.detach().requires_grad_()
        with autocast(hidden.device.type, precision):
            loss = head(self.backbone, hidden, self.batch)
        scale = loss_scale(precision)
        gradients = compute_gradients(self.backbone, scale * loss)
        assert hidden.grad is not None
        gradients["hidden"] = hidden.grad
        return StepResult(loss.detach(), gradients, scale)

    def run(self, head: Head, precision: ResolvedPrecision) -> float:
        """Take a step by deterministic algorithms; return its tokens."""
        with deterministic():
            self.step(head, precision)
        texts, length, _ = self.hidden.shape
        return float(texts * length)

    def compare(self) -> str:
        return require_equal_steps(partial(self.step, our_loss), self.step(dense_loss, "fp32"))


def _make_inputs(sizes: Scale, device: str) -> _Inputs:
    objective = installed_objective("dupmae")
    backbone = make_pretraining(objective, sizes, device).backbone
    texts = draw_passages([sizes.length] * sizes.batch)
    batch_generator = torch.Generator().manual_seed(0)
    batch = objective.collate(texts, VOCABULARY, sizes.length, batch_generator)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    hidden_generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(sizes.batch, sizes.length, sizes.hidden, generator=hidden_generator)
    return _Inputs(backbone, hidden.to(device), batch)


def cases(setting: Setting) -> Iterator[Case]:
    """Yield the memory and the time of both losses and their gradients, for a batch of full length."""
    sizes = replace(default_scale(setting), dropout=0.0)
    if not (setting.smoke or setting.cuda):
        sizes = replace(sizes, batch=2 * sizes.batch)
    inputs = _make_inputs(sizes, setting.device)
    precision = resolve_precision("auto")
    # All logits once, and gradients of the masked tokens. A maximum's gradient costs a single vector product.
    masked = len(inputs.batch["masked_positions"]) / (sizes.batch * sizes.length)
    flops = (1 + 2 * masked) * arithmetic.head(sizes.shape)
    floor = Floor(flops, precision=precision)
    case = Case(
        name="time",
        unit="tokens/s",
        ours=partial(inputs.run, our_loss, precision),
        peer=partial(inputs.run, dense_loss, precision),
        peer_name="dense [B, L, V]",
        check=cache(inputs.compare),
        note=f"{sizes.hidden} wide, {sizes.batch_text} tokens; both in {precision}",
    )
    yield replace(case, name="peak memory", unit="bytes", kind="bytes")
    yield replace(case, floor=floor, memory=False)
