"""What a vector is: cls, mean, terms, cls+terms. How each is embedded and compared, here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retrobench.config import Representations
from retrobench.model import layers
from retrobench.model.backbones import Backbone
from retrobench.model.heads import pooled_logits

__all__ = ["Encoder", "Vectors", "keep_largest"]

_PROJECTION = "2_Dense/model.safetensors"  # where sentence-transformers looks for it


class Vectors(NamedTuple):
    """Embeddings of B texts. Either part may be missing."""

    dense: Tensor | None  # [B, d]
    terms: Tensor | None  # [B, V], weights of the vocabulary's words


class Encoder(nn.Module):
    """A backbone and the representation it is read by (D wide, V words).

    cls        the last hidden state of the first token, [B, D]
    mean       the mean of the last hidden states of the real tokens, [B, D]
    terms      the max-pooled vocabulary vector of all other tokens, [B, V]; documents keep their largest `terms`
    cls+terms  [CLS] projected to `dense` dimensions, and terms (DupMAE, section 3.4, equations 10 to 12)
    """

    def __init__(self, backbone: Backbone, representation: str, sizes: Representations) -> None:
        super().__init__()
        self.backbone, self.representation, self.sizes = backbone, representation, sizes
        self.projection: nn.Linear | None = None
        if representation == "cls+terms":
            self.projection = nn.Linear(backbone.config.hidden_size, sizes.dense, bias=False)
            nn.init.normal_(self.projection.weight, std=backbone.config.hidden_size**-0.5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Vectors:
        """Embed ids [B, L] under a mask [B, L] that is 1 at real tokens."""
        hidden = self.backbone.hidden(input_ids, attention_mask)  # [B, L, D], or [B, 1, D] within `reading`
        terms = self._terms(hidden, attention_mask) if "terms" in self.representation else None
        if self.representation == "terms":
            return Vectors(None, terms)
        if self.representation == "mean":
            real = attention_mask[:, :, None].to(hidden.dtype)
            dense = (hidden * real).sum(1) / real.sum(1)
        else:
            dense = hidden[:, 0]
        if self.projection is not None:
            return Vectors(self.projection(dense).float(), terms)
        return Vectors(self._scaled(dense), terms)

    @contextmanager
    def reading(self, halved: bool) -> Iterator[None]:
        """While this lasts, vectors are computed faster and cannot be trained: `halved` under autocast to bfloat16.

        Texts have to be padded on the right. Entered once, it serves any number of threads.
        """
        with ExitStack() as stack:
            if halved:
                stack.enter_context(layers.halved(self.backbone.lm.base_model))
            if self.representation == "cls":  # nothing else of the last layer is read
                stack.enter_context(layers.first_only(self.backbone.lm.base_model))
            yield

    def _scaled(self, dense: Tensor) -> Tensor:
        return nn.functional.normalize(dense.float()) if self.sizes.normalize else dense.float()

    @property
    def width(self) -> int:
        """Of the dense part, 0 where there is none."""
        if self.representation == "terms":
            return 0
        return self.sizes.dense if self.projection is not None else int(self.backbone.config.hidden_size)

    @property
    def words(self) -> int:
        """Columns of the terms, 0 where there are none."""
        return len(self.backbone.word_matrix) if "terms" in self.representation else 0

    def _terms(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        keep = attention_mask.bool().clone()
        keep[:, 0] = False
        pooled = pooled_logits(self.backbone, hidden, keep)  # [B, V]
        return torch.log1p(pooled.relu()) if self.sizes.activation == "log1p" else pooled

    def similarity(self, queries: Vectors, documents: Vectors) -> Tensor:
        """Inner products, [Q, N] float32: a document counts by its largest terms, a query by all of them.

        Also under autocast: with the 8 bits of bf16 a score of 270 would be off by up to 1, in a softmax over scores.
        """
        parts = []
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            if queries.dense is not None and documents.dense is not None:
                parts.append(queries.dense.float() @ documents.dense.float().T)
            if queries.terms is not None and documents.terms is not None:
                kept = keep_largest(documents.terms.float(), self.sizes.terms)
                dense = torch.zeros_like(documents.terms, dtype=torch.float32).scatter(1, kept.indices, kept.values)
                parts.append(self.sizes.scale * (queries.terms.float() @ dense.T))
        return torch.stack(parts).sum(0)

    def save(self, folder: Path, tokenizer: Any, max_length: int) -> None:
        """A Hugging Face folder with its head, which sentence-transformers loads as well, the dense part only.

        A folder of a terms-only encoder has no dense part and gets no sentence-transformers files.
        """
        self.backbone.lm.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if self.representation != "terms":
            _write_sentence_transformers(folder, self, max_length)

    def restore(self, folder: Path) -> None:
        """Read the projection that `save` wrote beside the backbone."""
        if self.projection is not None:
            self.projection.load_state_dict({"weight": load_file(folder / _PROJECTION)["linear.weight"]})


def keep_largest(terms: Tensor, count: int) -> torch.return_types.topk:
    """The `count` largest weights of each row [B, V] and whose they are."""
    return terms.topk(min(count, terms.shape[1]), dim=1)


def _write_sentence_transformers(folder: Path, encoder: Encoder, max_length: int) -> None:
    """modules.json and what it names, in the words of sentence-transformers 2, which later versions read too."""
    width = encoder.backbone.config.hidden_size
    mean = encoder.representation == "mean"
    pooling = {"word_embedding_dimension": width, "pooling_mode_cls_token": not mean, "pooling_mode_mean_tokens": mean}
    modules: dict[str, dict[str, Any]] = {"Pooling": pooling}
    if encoder.projection is not None:
        modules["Dense"] = {"in_features": width, "out_features": encoder.sizes.dense, "bias": False}
        modules["Dense"]["activation_function"] = "torch.nn.modules.linear.Identity"
    elif encoder.sizes.normalize:
        modules["Normalize"] = {}
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for number, (kind, settings) in enumerate(modules.items(), 1):
        name = f"{number}_{kind}"
        (folder / name).mkdir(exist_ok=True)  # it is there if an earlier attempt was cut short right here
        (folder / name / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        listed.append(
            {"idx": number, "name": str(number), "path": name, "type": f"sentence_transformers.models.{kind}"}
        )
    if encoder.projection is not None:
        weight = encoder.projection.weight.detach().cpu().contiguous()
        save_file({"linear.weight": weight}, folder / _PROJECTION)
    texts = {
        "modules.json": listed,
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {"similarity_fn_name": "dot", "prompts": {}, "default_prompt_name": None},
    }
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    (folder / "README.md").write_text(_CARD[encoder.representation])


_DENSE = "This folder loads in `AutoModel` and in `SentenceTransformer`, both giving the vectors retrobench searched.\n"
_CARD = {
    "cls": _DENSE,
    "mean": _DENSE,
    "cls+terms": "In `SentenceTransformer` this folder gives the dense part alone: [CLS], projected. The terms are the "
    "max-pooled logits of the masked-language-modelling head, which retrobench adds when it searches; scores without "
    "them are not the ones in the leaderboard.\n",
}
