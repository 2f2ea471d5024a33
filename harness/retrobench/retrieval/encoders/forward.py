"""
A published model on batches by tokens, with the vectors its own library gives.

Where its modules are a Transformer, a Pooling and layers on top of the vector, texts are tokenised a window at a time
by the model's own `preprocess`, put together by their true lengths, and of a [CLS]-pooled model of a known family the
last layer is computed for [CLS] alone. Any other model is run by sentence-transformers from text to vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from retrobench.data import by_length
from retrobench.model import bfloat16_layers, first_token_only

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["Forward"]

CHUNK = 256  # texts tokenised together, and padded until their lengths are known
BATCH = {"cpu": 32, "cuda": 128}  # texts that sentence-transformers gets at a time
_TENSORS = {"input_ids": "pad_token_id", "attention_mask": "", "token_type_ids": "pad_token_type_id"}
_FACTS = {"modality", "prompt_length"}


@dataclass(frozen=True)
class Forward:
    """A model on texts of one task, "query" or "document"; with `unit` vectors have length 1."""

    model: SentenceTransformer
    task: str
    prompt: str
    unit: bool

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """While this lasts, the model is ready, and keeps nothing for a backward pass."""
        self.model.eval()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            known = self.model.transformers_model if self._is_plain() else None
            if known is not None and self.model.dtype == torch.bfloat16:
                stack.enter_context(bfloat16_layers(known))
            if known is not None and self._reads_first_only():
                stack.enter_context(first_token_only(known))
            yield

    def window(self, texts: Sequence[str]) -> Tokenised | Whole:
        """Some texts, tokenised where that can be done apart from the rest."""
        return (self._tokenised(texts) if self._is_plain() else None) or Whole(texts, self.model.device.type)

    def __call__(self, batch: Any) -> Tensor:
        """Vectors [B, d] float32 of a window's batch, on the model's device."""
        if isinstance(batch, dict):
            here = {
                name: value.to(self.model.device) if torch.is_tensor(value) else value for name, value in batch.items()
            }
            vectors = self.model(here, task=self.task)["sentence_embedding"]
        else:
            run = self.model.encode_query if self.task == "query" else self.model.encode_document
            vectors = run(
                batch, prompt=self.prompt, batch_size=len(batch), show_progress_bar=False, convert_to_tensor=True
            )
        # A vector of zeros stays one, as in sentence-transformers.
        return F.normalize(vectors.float(), eps=1e-12) if self.unit else vectors.float()

    def _is_plain(self) -> bool:
        """Whether all modules are ones whose order of work is known."""
        from sentence_transformers.base.modules import Dense, Normalize, Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        kinds = [type(module) for module in self.model]
        on_top = all(kind is Normalize or kind is Dense for kind in kinds[2:])
        return kinds[:2] == [Transformer, Pooling] and on_top and self.model.truncate_dim is None

    def _reads_first_only(self) -> bool:
        pooling: Any = self.model[1]
        tokens = any(getattr(module, "module_input_name", "") == "token_embeddings" for module in list(self.model)[2:])
        side = getattr(self.model.tokenizer, "padding_side", "")
        alone = pooling.pooling_mode in ("cls", ("cls",), ["cls"]) and pooling.include_prompt
        return alone and side == "right" and not tokens

    def _tokenised(self, texts: Sequence[str]) -> Tokenised | None:
        """None where what the model reads of a text is more than its tokens."""
        rows: list[dict[str, np.ndarray]] = [{} for _ in texts]
        facts: dict[str, Any] = {}
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK]
            found = self.model.preprocess([texts[row] for row in chunk], prompt=self.prompt, task=self.task)
            tensors = {name: value for name, value in found.items() if torch.is_tensor(value)}
            mask = tensors.get("attention_mask", torch.zeros(0))
            apart = {name: value for name, value in found.items() if name not in tensors}
            whole = mask.ndim == 2 and all(tensor.shape == mask.shape for tensor in tensors.values())
            if not whole or tensors.keys() - _TENSORS or apart.keys() - _FACTS or (facts and apart != facts):
                return None
            lengths = mask.sum(1)
            if not torch.equal(mask.bool(), torch.arange(mask.shape[1]) < lengths[:, None]):
                return None  # padded on the left, or in places hidden
            facts = apart
            for at, row in enumerate(chunk):
                rows[row] = {name: tensor[at, : int(lengths[at])].numpy().copy() for name, tensor in tensors.items()}
        return Tokenised(rows, facts, self._fillings())

    def _fillings(self) -> dict[str, int]:
        tokenizer: Any = self.model.tokenizer
        return {name: int(getattr(tokenizer, filling, 0) or 0) for name, filling in _TENSORS.items()}


@dataclass(frozen=True)
class Tokenised:
    """Texts as their tokens, without padding."""

    rows: list[dict[str, np.ndarray]]
    facts: dict[str, Any]  # what a batch says beside its tensors
    fillings: dict[str, int]  # what stands where a text has ended
    parallel = True

    def batches(self, tokens: int) -> Iterator[np.ndarray]:
        """Rows by length in tokens."""
        return by_length(np.asarray([len(row["attention_mask"]) for row in self.rows]), tokens)

    def batch(self, rows: np.ndarray) -> dict[str, Any]:
        """Features as `preprocess` gives them, padded on the right."""
        chosen = [self.rows[row] for row in rows]
        longest = max(len(row["attention_mask"]) for row in chosen)
        features: dict[str, Any] = dict(self.facts)
        for name in chosen[0]:
            whole = np.full((len(chosen), longest), self.fillings[name], chosen[0][name].dtype)
            for at, row in enumerate(chosen):
                whole[at, : len(row[name])] = row[name]
            features[name] = torch.from_numpy(whole)
        return features


@dataclass(frozen=True)
class Whole:
    """Texts as they are, for a model that only its library knows how to run."""

    texts: Sequence[str]
    device: str
    parallel = False  # nothing is said of `encode` in threads

    def batches(self, tokens: int) -> Iterator[np.ndarray]:
        """Rows by length in characters, a number of texts each."""
        order = np.argsort([-len(text) for text in self.texts], kind="stable")
        size = BATCH[self.device]
        return iter(np.split(order, range(size, len(order), size)))

    def batch(self, rows: np.ndarray) -> list[str]:
        """The texts themselves."""
        return [self.texts[row] for row in rows]
