"""
A published model on batches by tokens, with the vectors that its own library gives.

A model made of a Transformer, a Pooling and layers on top of the vector takes a window of texts tokenised by its own
`preprocess`, in batches of similar length. If it is [CLS]-pooled and of a known family, its last layer is computed for
[CLS] alone. Any other model is run by sentence-transformers from text to vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from retrobench.data import by_length
from retrobench.model import bfloat16_layers, first_token_only
from retrobench.retrieval import embedding

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["Forward"]

CHUNK = 256  # texts tokenised together, and padded until their lengths are known
BATCH = {"cpu": 32, "cuda": 128}  # texts of a batch for sentence-transformers
# Known tensors of a batch, and the tokenizer's attribute that holds their padding.
_TENSORS = {"input_ids": "pad_token_id", "attention_mask": "", "token_type_ids": "pad_token_type_id"}
_EXTRAS = {"modality", "prompt_length"}  # known values of a batch that are no tensors


@dataclass(frozen=True)
class Forward:
    """A model on texts of a task, "query" or "document". With `unit` its vectors have length 1."""

    model: SentenceTransformer
    task: str
    prompt: str
    unit: bool

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Make the model ready for inference, as long as the context lasts."""
        self.model.eval()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(embedding.attention_kernels(self.model.device))
            if self._is_plain():
                self._enter_faster_forwards(stack)
            yield

    def _enter_faster_forwards(self, stack: ExitStack) -> None:
        transformer = self.model.transformers_model
        if transformer is None:
            return
        if self.model.dtype == torch.bfloat16:
            stack.enter_context(bfloat16_layers(transformer))
        if self._reads_first_only():
            stack.enter_context(first_token_only(transformer))

    def window(self, texts: Sequence[str]) -> Tokenised | Whole:
        """Return texts as a window, tokenised if the model is plain and reads tokens alone."""
        if self._is_plain():
            tokenised = self._tokenised(texts)
            if tokenised is not None:
                return tokenised
        return Whole(texts, self.model.device.type)

    def __call__(self, batch: Any) -> Tensor:
        """Return the vectors [B, d] float32 of a window's batch, on the model's device."""
        vectors: Tensor
        if isinstance(batch, dict):
            features = self._on_device(batch)
            vectors = self.model(features, task=self.task)["sentence_embedding"]
        else:
            encode = self.model.encode_document
            if self.task == "query":
                encode = self.model.encode_query
            vectors = encode(
                batch, prompt=self.prompt, batch_size=len(batch), show_progress_bar=False, convert_to_tensor=True
            )
        vectors = vectors.float()
        if self.unit:
            # As in sentence-transformers: a vector of zeros remains zeros.
            vectors = F.normalize(vectors, eps=1e-12)
        return vectors

    def _on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        features = dict(batch)
        for name, value in batch.items():
            if torch.is_tensor(value):
                features[name] = embedding.send(value, self.model.device)
        return features

    def _is_plain(self) -> bool:
        """Return whether all modules are of the types whose work can be done in batches by tokens."""
        from sentence_transformers.base.modules import Dense, Normalize, Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        kinds = [type(module) for module in self.model]
        if kinds[:2] != [Transformer, Pooling] or self.model.truncate_dim is not None:
            return False
        return all(kind is Normalize or kind is Dense for kind in kinds[2:])

    def _reads_first_only(self) -> bool:
        """Return whether only the first token's vector of the last layer is read."""
        pooling: Any = self.model[1]
        if pooling.pooling_mode not in ("cls", ("cls",), ["cls"]) or not pooling.include_prompt:
            return False
        if getattr(self.model.tokenizer, "padding_side", "") != "right":
            return False
        later_modules = list(self.model)[2:]
        return all(getattr(module, "module_input_name", "") != "token_embeddings" for module in later_modules)

    def _tokenised(self, texts: Sequence[str]) -> Tokenised | None:
        """Return texts as tokens, or None if the model reads more of a text than its tokens."""
        rows: list[dict[str, np.ndarray]] = [{} for _ in texts]
        extras: dict[str, Any] = {}
        by_characters = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(texts), CHUNK):
            chunk_rows = by_characters[start : start + CHUNK]
            chunk_texts = [texts[row] for row in chunk_rows]
            features = self.model.preprocess(chunk_texts, prompt=self.prompt, task=self.task)
            tensors, chunk_extras = _split_features(features)
            if not _are_tokens(tensors) or chunk_extras.keys() - _EXTRAS:
                return None
            if extras and chunk_extras != extras:
                return None
            extras = chunk_extras
            lengths = tensors["attention_mask"].sum(1).tolist()
            for index, row in enumerate(chunk_rows):
                rows[row] = _unpadded(tensors, index, lengths[index])
        return Tokenised(rows, extras, self._padding())

    def _padding(self) -> dict[str, int]:
        """Return the value that pads each tensor."""
        tokenizer: Any = self.model.tokenizer
        padding = {}
        for name, attribute in _TENSORS.items():
            value = getattr(tokenizer, attribute, None)
            padding[name] = int(value or 0)
        return padding


def _split_features(features: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of tokenised texts, and their other values."""
    tensors = {}
    extras = {}
    for name, value in features.items():
        if torch.is_tensor(value):
            tensors[name] = value
        else:
            extras[name] = value
    return tensors, extras


def _are_tokens(tensors: dict[str, Tensor]) -> bool:
    """Return whether tensors are known ones [n, L], padded on the right, with no token masked."""
    mask = tensors.get("attention_mask")
    if mask is None or mask.ndim != 2 or tensors.keys() - _TENSORS:
        return False
    if any(tensor.shape != mask.shape for tensor in tensors.values()):
        return False
    lengths = mask.sum(1)
    columns = torch.arange(mask.shape[1])
    return torch.equal(mask.bool(), columns < lengths[:, None])


def _unpadded(tensors: dict[str, Tensor], index: int, length: int) -> dict[str, np.ndarray]:
    """Return a copy of one text's tokens."""
    return {name: tensor[index, :length].numpy().copy() for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Tokenised:
    """A window of texts as their tokens, without padding."""

    rows: list[dict[str, np.ndarray]]
    extras: dict[str, Any]  # the values of a batch that are no tensors
    padding: dict[str, int]  # the value that pads each tensor
    parallel = True

    def batches(self, tokens: int) -> Iterator[np.ndarray]:
        """Yield the rows of each batch, by length in tokens, of at most `tokens` tokens."""
        lengths = [len(row["attention_mask"]) for row in self.rows]
        return by_length(np.asarray(lengths), tokens)

    def batch(self, rows: np.ndarray) -> dict[str, Any]:
        """Return the features of these rows as `preprocess` gives them, padded on the right."""
        texts = [self.rows[row] for row in rows]
        longest = max(len(text["attention_mask"]) for text in texts)
        shape = (len(texts), longest)
        features: dict[str, Any] = dict(self.extras)
        for name, first_text in texts[0].items():
            padded = np.full(shape, self.padding[name], first_text.dtype)
            for index, text in enumerate(texts):
                values = text[name]
                padded[index, : len(values)] = values
            features[name] = torch.from_numpy(padded)
        return features


@dataclass(frozen=True)
class Whole:
    """A window of texts as they are, for a model that only its library can run."""

    texts: Sequence[str]
    device: str
    parallel = False  # `encode` is not documented to be safe in threads

    def batches(self, tokens: int) -> Iterator[np.ndarray]:
        """Yield the rows of each batch, by length in characters: a fixed number of texts, whatever `tokens` is."""
        lengths = np.asarray([len(text) for text in self.texts])
        order = np.argsort(-lengths, kind="stable")
        size = BATCH[self.device]
        edges = range(size, len(order), size)
        return iter(np.split(order, edges))

    def batch(self, rows: np.ndarray) -> list[str]:
        """Return the texts of these rows."""
        return [self.texts[row] for row in rows]
