"""The four representations of a text, cls, mean, terms and cls+terms: their computation, comparison and files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retrobench.config import Representations, ResolvedPrecision
from retrobench.model import layers
from retrobench.model.backbones import Backbone
from retrobench.model.heads import pooled_logits

__all__ = ["Embeddings", "Encoder", "keep_largest", "mean_pooled"]

_PROJECTION = "2_Dense/model.safetensors"  # the path that sentence-transformers expects


class Embeddings(NamedTuple):
    """Embeddings of a batch of B texts; a representation may lack either field."""

    dense: Tensor | None  # [B, d]
    terms: Tensor | None  # [B, V], a weight per word of the vocabulary


class Encoder(nn.Module):
    """A backbone with one of four representations (D wide, V words).

    cls        the last hidden state of the first token, [B, D]
    mean       the mean of the last hidden states of the real tokens, [B, D]
    terms      the max-pooled logits of all tokens but the first, [B, V]; documents keep their largest `terms`
    cls+terms  [CLS] projected to `dense` dimensions, and terms (DupMAE, section 3.4, equations 10 to 12)
    """

    def __init__(self, backbone: Backbone, representation: str, sizes: Representations) -> None:
        super().__init__()
        self.backbone = backbone
        self.representation = representation
        self.sizes = sizes
        self.projection: nn.Linear | None = None
        if representation == "cls+terms":
            hidden_size = backbone.config.hidden_size
            self.projection = nn.Linear(hidden_size, sizes.dense, bias=False)
            nn.init.normal_(self.projection.weight, std=hidden_size**-0.5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Embeddings:
        """Embed ids [B, L] under a mask [B, L] that is 1 at real tokens."""
        hidden = self.backbone.hidden(input_ids, attention_mask)  # [B, L, D], or [B, 1, D] within `reading`
        terms = None
        if self._has_terms:
            terms = self._terms(hidden, attention_mask)
        if self.representation == "terms":
            return Embeddings(None, terms)
        return Embeddings(self._dense(hidden, attention_mask), terms)

    def _dense(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        if self.representation == "mean":
            return self._scaled(mean_pooled(hidden, attention_mask))
        first_token = hidden[:, 0]
        if self.projection is not None:
            return self.projection(first_token).float()  # type: ignore[no-any-return]
        return self._scaled(first_token)

    def _scaled(self, dense: Tensor) -> Tensor:
        if self.sizes.normalize:
            return nn.functional.normalize(dense.float())
        return dense.float()

    def _terms(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        pools = attention_mask.bool().clone()
        pools[:, 0] = False
        logits = pooled_logits(self.backbone, hidden, pools)  # [B, V]
        if self.sizes.activation == "log1p":
            return torch.log1p(logits.relu())
        return logits

    @property
    def _has_terms(self) -> bool:
        return "terms" in self.representation

    @contextmanager
    def reading(self, precision: ResolvedPrecision) -> Iterator[None]:
        """Embed faster within the context, without training, under autocast to `precision`.

        Texts must be padded on the right. One context serves any number of threads.
        """
        model = self.backbone.lm.base_model
        with ExitStack() as stack:
            if precision == "bf16":
                stack.enter_context(layers.bfloat16_layers(model))
            if self.representation == "cls":
                stack.enter_context(layers.first_token_only(model))
            yield

    @property
    def width(self) -> int:
        """The width of the dense vectors, 0 for "terms"."""
        if self.representation == "terms":
            return 0
        if self.projection is not None:
            return self.sizes.dense
        return int(self.backbone.config.hidden_size)

    @property
    def words(self) -> int:
        """The columns of the terms, 0 without terms."""
        if not self._has_terms:
            return 0
        return len(self.backbone.word_matrix)

    def similarity(self, queries: Embeddings, documents: Embeddings) -> Tensor:
        """Return inner products, [Q, N] float32, of all of a query's terms with a document's largest.

        Autocast is off: the 8 bits of bfloat16 would move a score of 270 by up to 1, and the 11 bits of float16 by up
        to 0.1, in a softmax over scores.
        """
        scores = []
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            if queries.dense is not None and documents.dense is not None:
                scores.append(queries.dense.float() @ documents.dense.float().T)
            if queries.terms is not None and documents.terms is not None:
                document_terms = _without_smaller(documents.terms.float(), self.sizes.terms)
                scores.append(self.sizes.scale * (queries.terms.float() @ document_terms.T))
        return torch.stack(scores).sum(0)

    def save(self, folder: Path, tokenizer: Any, max_length: int) -> None:
        """Write a Hugging Face folder with its head, which sentence-transformers loads too, without the terms.

        An encoder with representation "terms" has no dense vector and gets no sentence-transformers files.
        """
        self.backbone.lm.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if self.representation != "terms":
            _write_sentence_transformers(folder, self, max_length)

    def restore(self, folder: Path) -> None:
        """Load the projection that `save` wrote beside the backbone."""
        if self.projection is not None:
            weight = load_file(folder / _PROJECTION)["linear.weight"]
            self.projection.load_state_dict({"weight": weight})


def mean_pooled(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean of the hidden states [B, L, D] of the real tokens, [B, D], under a mask [B, L]."""
    real = attention_mask[:, :, None].to(hidden.dtype)
    return (hidden * real).sum(1) / real.sum(1)


def keep_largest(terms: Tensor, count: int) -> torch.return_types.topk:
    """Return the `count` largest weights of each row [B, V] and their columns."""
    return terms.topk(min(count, terms.shape[1]), dim=1)


def _without_smaller(terms: Tensor, count: int) -> Tensor:
    """Return weights [N, V] with all but the `count` largest of each row set to 0.

    A mask selects them, since torch's deterministic scatter of weights sorts on a GPU, in both passes.
    """
    columns = keep_largest(terms.detach(), count).indices
    is_largest = torch.zeros_like(terms, dtype=torch.bool).scatter(1, columns, True)
    return torch.where(is_largest, terms, 0.0)


def _write_sentence_transformers(folder: Path, encoder: Encoder, max_length: int) -> None:
    """Write the files of sentence-transformers 2, which later versions read too."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for number, (kind, settings) in enumerate(_module_settings(encoder).items(), 1):
        path = f"{number}_{kind}"
        (folder / path).mkdir(exist_ok=True)  # an interrupted save may have made it
        _write_json(folder / path / "config.json", settings)
        modules.append(
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        )
    if encoder.projection is not None:
        weight = encoder.projection.weight.detach().cpu().contiguous()
        save_file({"linear.weight": weight}, folder / _PROJECTION)
    similarity: dict[str, Any] = {"similarity_fn_name": "dot", "prompts": {}, "default_prompt_name": None}
    _write_json(folder / "modules.json", modules)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    _write_json(folder / "config_sentence_transformers.json", similarity)
    (folder / "README.md").write_text(_CARD[encoder.representation])


def _module_settings(encoder: Encoder) -> dict[str, dict[str, Any]]:
    """Return the settings of each sentence-transformers module behind the transformer, by the module's kind."""
    width = encoder.backbone.config.hidden_size
    mean = encoder.representation == "mean"
    modules: dict[str, dict[str, Any]] = {}
    modules["Pooling"] = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": not mean,
        "pooling_mode_mean_tokens": mean,
    }
    if encoder.projection is not None:
        modules["Dense"] = {
            "in_features": width,
            "out_features": encoder.sizes.dense,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
    elif encoder.sizes.normalize:
        modules["Normalize"] = {}
    return modules


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


_DENSE = "This folder loads in `AutoModel` and in `SentenceTransformer`, both giving the vectors retrobench searched.\n"
_CARD = {
    "cls": _DENSE,
    "mean": _DENSE,
    "cls+terms": "In `SentenceTransformer` this folder gives the dense part alone: [CLS], projected. The terms are the "
    "max-pooled logits of the masked-language-modelling head, which retrobench adds when it searches; scores without "
    "them are not the ones in the leaderboard.\n",
}
