"""
The released training steps as their projects describe them: logits at every position, batches padded to their longest.

* Released               a masked language model and an objective's addition, with the released losses
* Trainer                an optimizer step as transformers' Trainer takes it
* Decoder                RetroMAE's layer with the attention written out
* copy_weights           make a `Released` with the weights of one of our models

Batches are those of `collators`. Half precision is bf16 autocast where the released runs had fp16; a GPU without bf16
computes in fp16, without loss scaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM

from retrobench.config import ResolvedPrecision
from retrobench.model import Pretraining, autocast

__all__ = ["Decoder", "Released", "Trainer", "copy_weights"]

STEPS = 1000


class Decoder(nn.Module):
    """A BERT layer whose queries come from a stream of their own; parameters have the names of our decoder."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        inner = config.intermediate_size
        eps = config.layer_norm_eps
        self.heads = config.num_attention_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps)
        self.expand = nn.Linear(width, inner)
        self.contract = nn.Linear(inner, width)
        self.output_norm = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.attention_dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, query: Tensor, context: Tensor, added: Tensor) -> Tensor:
        """Return [B, L, D] from both streams [B, L, D]; `added` [B, 1, L, L] is added to the scores."""
        queries = self._split(self.query(query))
        keys = self._split(self.key(context))
        values = self._split(self.value(context))
        scale = math.sqrt(queries.shape[-1])
        scores = torch.matmul(queries, keys.transpose(-1, -2)) / scale + added  # [B, H, L, L]
        shares = self.attention_dropout(F.softmax(scores, dim=-1))
        mixed = torch.matmul(shares, values)  # [B, H, L, D / H]
        joined = mixed.permute(0, 2, 1, 3).reshape(query.shape)
        projected = self.dropout(self.project(joined))
        attended = self.attention_norm(projected + query)
        expanded = F.gelu(self.expand(attended))
        contracted = self.dropout(self.contract(expanded))
        return cast(Tensor, self.output_norm(contracted + attended))

    def _split(self, stream: Tensor) -> Tensor:
        """Return the heads of a stream, [B, H, L, D / H]."""
        batch, length, width = stream.shape
        heads = stream.view(batch, length, self.heads, width // self.heads)
        return heads.permute(0, 2, 1, 3)


class Released(nn.Module):
    """A masked language model with a released loss; `loss` is the name of a method: "mlm", "retromae" or "bow"."""

    def __init__(self, lm: BertForMaskedLM, loss: str) -> None:
        super().__init__()
        self.lm = lm
        self.decoder: Decoder | None = None
        if loss == "retromae":
            self.decoder = Decoder(lm.config)
        self._loss: Callable[..., dict[str, Tensor]] = getattr(self, loss)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss, unweighted."""
        return self._loss(batch)

    def mlm(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"mlm": self._encode(batch).loss}

    def retromae(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self.decoder is not None
        output = self._encode(batch, output_hidden_states=True)
        sentence = output.hidden_states[-1][:, :1]  # [B, 1, D]
        embeddings = self.lm.bert.embeddings
        context = torch.cat([sentence, embeddings(batch["decoder_input_ids"])[:, 1:]], dim=1)
        length = context.shape[1]
        query = embeddings.position_embeddings.weight[:length] + sentence
        visible = batch["decoder_attention_mask"][:, None]  # [B, 1, L, L]
        hidden = 1.0 - visible.to(context.dtype)
        lowest = torch.finfo(context.dtype).min
        decoded = self.decoder(query, context, hidden * lowest)
        logits = self.lm.cls(decoded)  # [B, L, V]
        labels = batch["decoder_labels"].flatten()
        loss = F.cross_entropy(logits.flatten(0, 1), labels)
        return {"mlm": output.loss, "decoder": loss}

    def bow(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = self._encode(batch)
        cls_logits = output.logits[:, 0]  # [B, V]
        log_shares = F.log_softmax(cls_logits, dim=-1)
        likelihoods = (batch["bow_weights"] * log_shares).sum(-1)
        return {"mlm": output.loss, "bow": -likelihoods.mean()}

    def _encode(self, batch: dict[str, Tensor], **options: bool) -> Any:
        return self.lm(
            input_ids=batch["encoder_input_ids"],
            attention_mask=batch["encoder_attention_mask"],
            labels=batch["encoder_labels"],
            **options,
        )


def copy_weights(ours: Pretraining, loss: str) -> Released:
    """Return the released model with the weights of `ours`.

    On a GPU the encoder has the attention that transformers chooses today.
    """
    device = next(ours.parameters()).device
    settings: dict[str, Any] = ours.backbone.config.to_dict()
    settings["attn_implementation"] = "eager"
    if device.type == "cuda":
        settings["attn_implementation"] = "sdpa"
    model = Released(BertForMaskedLM(BertConfig(**settings)), loss)
    model.lm.load_state_dict(ours.backbone.lm.state_dict())
    if model.decoder is not None:
        decoder = ours.get_submodule("decoder")
        model.decoder.load_state_dict(decoder.state_dict())
    return model.to(device)


class Trainer:
    """AdamW, clipping, a linear schedule over `STEPS`. With `reads` a step reads its losses from the device."""

    def __init__(self, model: nn.Module, precision: ResolvedPrecision, reads: bool) -> None:
        self.model = model.train()
        self.precision = precision
        self.reads = reads
        self.device = next(model.parameters()).device
        matrices = []
        vectors = []
        for parameter in model.parameters():
            if parameter.ndim > 1:
                matrices.append(parameter)
            else:
                vectors.append(parameter)
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
        fused = self.device.type == "cuda"  # as Trainer's default is
        self.adam = torch.optim.AdamW(groups, lr=1e-4, fused=fused)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, _remaining)
        self.logged: dict[str, float] = {}

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        """Take one step on a batch from the CPU; return the loss."""
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        with autocast(self.device.type, self.precision):
            terms = self.model(**batch)
            loss = cast(Tensor, sum(terms.values()))
        if self.reads:
            self._log({**terms, "loss": loss})
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adam.step()
        self.schedule.step()
        self.adam.zero_grad()
        return loss.detach()

    def _log(self, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            total = self.logged.get(name, 0.0)
            self.logged[name] = total + loss.item()


def _remaining(step: int) -> float:
    """Return the share of the schedule that lies ahead."""
    return max(0.0, 1 - step / STEPS)
