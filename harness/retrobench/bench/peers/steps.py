"""
The released training steps as their projects describe them: logits at every position, batches padded to their longest.

* Released               a masked language model and what an objective adds, with the released losses
* Trainer                an optimizer step as transformers' Trainer takes it
* Decoder                RetroMAE's layer with the attention written out
* released               a `Released` with the weights of one of our models

Batches are those of `collators`. Half precision is bf16 autocast where the released runs had fp16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM

from retrobench.model import Pretraining

__all__ = ["Decoder", "Released", "Trainer", "released"]

STEPS = 1000


class Decoder(nn.Module):
    """One BERT layer whose queries are another stream than its keys and values; parameters named as in ours."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.project, self.attention_norm = nn.Linear(width, width), nn.LayerNorm(width, eps)
        self.expand, self.contract = nn.Linear(width, inner), nn.Linear(inner, width)
        self.output_norm = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.attention_dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, query: Tensor, context: Tensor, added: Tensor) -> Tensor:
        """Return [B, L, D] from both streams [B, L, D]; `added` [B, 1, L, L] is added to the scores."""
        batch, length, width = query.shape

        def split(stream: Tensor) -> Tensor:
            return stream.view(batch, length, self.heads, width // self.heads).permute(0, 2, 1, 3)

        queries, keys, values = split(self.query(query)), split(self.key(context)), split(self.value(context))
        scores = torch.matmul(queries, keys.transpose(-1, -2)) / math.sqrt(width // self.heads) + added
        shares = self.attention_dropout(F.softmax(scores, dim=-1))
        mixed = torch.matmul(shares, values).permute(0, 2, 1, 3).reshape(batch, length, width)
        attended = self.attention_norm(self.dropout(self.project(mixed)) + query)
        expanded = self.contract(F.gelu(self.expand(attended)))
        return cast(Tensor, self.output_norm(self.dropout(expanded) + attended))


class Released(nn.Module):
    """`loss` is the name of a method: "mlm", "retromae" or "bow"."""

    def __init__(self, lm: BertForMaskedLM, loss: str) -> None:
        super().__init__()
        self.lm = lm
        self.decoder = Decoder(lm.config) if loss == "retromae" else None
        self._loss: Callable[..., dict[str, Tensor]] = getattr(self, loss)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss, unweighted."""
        return self._loss(batch)

    def mlm(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"mlm": self._encoded(batch).loss}

    def retromae(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = self._encoded(batch, output_hidden_states=True)
        sentence = output.hidden_states[-1][:, :1]  # [B, 1, D]
        embeddings = self.lm.bert.embeddings
        context = torch.cat([sentence, embeddings(batch["decoder_input_ids"])[:, 1:]], dim=1)
        query = embeddings.position_embeddings.weight[: context.shape[1]] + sentence
        hidden = 1.0 - batch["decoder_attention_mask"][:, None].to(context.dtype)
        assert self.decoder is not None
        logits = self.lm.cls(self.decoder(query, context, hidden * torch.finfo(context.dtype).min))  # [B, L, V]
        decoder = F.cross_entropy(logits.flatten(0, 1), batch["decoder_labels"].flatten())
        return {"mlm": output.loss, "decoder": decoder}

    def bow(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = self._encoded(batch)
        bag = -(batch["bow_weights"] * F.log_softmax(output.logits[:, 0], dim=-1)).sum(-1).mean()
        return {"mlm": output.loss, "bow": bag}

    def _encoded(self, batch: dict[str, Tensor], **options: bool) -> Any:
        ids, mask, labels = (batch[f"encoder_{name}"] for name in ("input_ids", "attention_mask", "labels"))
        return self.lm(input_ids=ids, attention_mask=mask, labels=labels, **options)


def released(ours: Pretraining, loss: str) -> Released:
    """Return the released model with the weights of `ours`.

    On a GPU the encoder has the attention that it would have if installed today.
    """
    cuda = next(ours.parameters()).is_cuda
    settings: dict[str, Any] = ours.backbone.config.to_dict()
    settings["attn_implementation"] = "sdpa" if cuda else "eager"
    config = BertConfig(**settings)
    model = Released(BertForMaskedLM(config), loss)
    model.lm.load_state_dict(ours.backbone.lm.state_dict())
    if model.decoder is not None:
        model.decoder.load_state_dict(ours.get_submodule("decoder").state_dict())
    return model.to(next(ours.parameters()).device)


class Trainer:
    """AdamW, clipping, a linear schedule over `STEPS`. With `reads` a step reads its losses from the device."""

    def __init__(self, model: nn.Module, halved: bool, reads: bool) -> None:
        self.model, self.halved, self.reads = model.train(), halved, reads
        self.device = next(model.parameters()).device
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW(groups, lr=1e-4, fused=self.device.type == "cuda")  # as Trainer's default is
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, lambda step: max(0.0, 1 - step / STEPS))
        self.logged: dict[str, float] = {}

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        """Take one step on a batch from the CPU; return the loss."""
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.halved):
            terms = self.model(**batch)
            loss = cast(Tensor, sum(terms.values()))
        if self.reads:
            for name, value in {**terms, "loss": loss}.items():
                self.logged[name] = self.logged.get(name, 0.0) + value.item()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adam.step()
        self.schedule.step()
        self.adam.zero_grad()
        return loss.detach()
