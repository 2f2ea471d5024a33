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
        """[B, L, D] from both streams [B, L, D] and what is added to the scores, [B, 1, L, L]."""
        batch, length, width = query.shape

        def split(x: Tensor) -> Tensor:
            return x.view(batch, length, self.heads, width // self.heads).permute(0, 2, 1, 3)

        asked, keys, values = split(self.query(query)), split(self.key(context)), split(self.value(context))
        scores = torch.matmul(asked, keys.transpose(-1, -2)) / math.sqrt(width // self.heads) + added
        shares = self.attention_dropout(F.softmax(scores, dim=-1))
        mixed = torch.matmul(shares, values).permute(0, 2, 1, 3).reshape(batch, length, width)
        x = self.attention_norm(self.dropout(self.project(mixed)) + query)
        return cast(Tensor, self.output_norm(self.dropout(self.contract(F.gelu(self.expand(x)))) + x))


class Released(nn.Module):
    """`loss` is the name of a method: "mlm", "retromae" or "bow"."""

    def __init__(self, lm: BertForMaskedLM, loss: str, query_form: str = "positions") -> None:
        super().__init__()
        self.lm, self.query_form = lm, query_form
        self.decoder = Decoder(lm.config) if loss == "retromae" else None
        self._loss: Callable[..., dict[str, Tensor]] = getattr(self, loss)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """The terms of the loss, unweighted."""
        return self._loss(**batch)

    def mlm(self, encoder_input_ids: Tensor, encoder_attention_mask: Tensor, encoder_labels: Tensor) -> dict[str, Any]:
        output = self.lm(input_ids=encoder_input_ids, attention_mask=encoder_attention_mask, labels=encoder_labels)
        return {"mlm": output.loss}

    def retromae(
        self,
        encoder_input_ids: Tensor,
        encoder_attention_mask: Tensor,
        encoder_labels: Tensor,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor,
        decoder_labels: Tensor,
    ) -> dict[str, Tensor]:
        output = self.lm(
            input_ids=encoder_input_ids,
            attention_mask=encoder_attention_mask,
            labels=encoder_labels,
            output_hidden_states=True,
        )
        sentence = output.hidden_states[-1][:, :1]  # [B, 1, D]
        embeddings = self.lm.bert.embeddings
        context = torch.cat([sentence, embeddings(decoder_input_ids)[:, 1:]], dim=1)
        if self.query_form == "positions":
            query = embeddings.position_embeddings.weight[: context.shape[1]] + sentence
        else:
            query = embeddings(inputs_embeds=sentence.expand_as(context))
        added = (1.0 - decoder_attention_mask[:, None].to(context.dtype)) * torch.finfo(context.dtype).min
        assert self.decoder is not None
        logits = self.lm.cls(self.decoder(query, context, added))  # [B, L, V]
        return {"mlm": output.loss, "decoder": F.cross_entropy(logits.flatten(0, 1), decoder_labels.flatten())}

    def bow(
        self, encoder_input_ids: Tensor, encoder_attention_mask: Tensor, encoder_labels: Tensor, bow_weights: Tensor
    ) -> dict[str, Tensor]:
        output = self.lm(input_ids=encoder_input_ids, attention_mask=encoder_attention_mask, labels=encoder_labels)
        bag = -(bow_weights * F.log_softmax(output.logits[:, 0], dim=-1)).sum(-1).mean()
        return {"mlm": output.loss, "bow": bag}


def released(ours: Pretraining, loss: str, query_form: str = "positions") -> Released:
    """The released model with the weights of `ours`, and on a GPU with the encoder's attention as it installs today."""
    cuda = next(ours.parameters()).is_cuda
    settings: dict[str, Any] = ours.backbone.config.to_dict()
    settings["attn_implementation"] = "sdpa" if cuda else "eager"
    config = BertConfig(**settings)
    model = Released(BertForMaskedLM(config), loss, query_form)
    model.lm.load_state_dict(ours.backbone.lm.state_dict())
    if model.decoder is not None:
        model.decoder.load_state_dict(ours.get_submodule("decoder").state_dict())
    return model.to(next(ours.parameters()).device)


class Trainer:
    """AdamW, clipping, a linear schedule. `reads` says how many losses a step asks the device for, as bowdpr's do."""

    def __init__(self, model: nn.Module, halved: bool, reads: bool = False, steps: int = 1000) -> None:
        self.model, self.halved, self.reads = model.train(), halved, reads
        self.device = next(model.parameters()).device
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW(groups, lr=1e-4, fused=self.device.type == "cuda")  # as Trainer's default is
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, lambda step: max(0.0, 1 - step / steps))
        self.logged: dict[str, float] = {}

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        """One step on a batch from the CPU; gives the loss."""
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
