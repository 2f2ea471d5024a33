"""
A trained encoder behind the interfaces of other evaluators.

* BeirModel   beir's `DenseRetrievalExactSearch(model)`, then `EvaluateRetrieval(..., score_function="dot")`
* MtebModel   MTEB's `EncoderProtocol`, for `mteb.evaluate`

Both give dense vectors. An encoder with terms is refused, because neither evaluator can compare terms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrobench.errors import RetrobenchError
from retrobench.retrieval.trained import EncodedTexts, TrainedEncoder

__all__ = ["BeirModel", "MtebModel"]


class _DenseModel:
    """A trained encoder without terms."""

    def __init__(self, encoder: TrainedEncoder) -> None:
        if "terms" in encoder.representation:
            raise RetrobenchError(
                f"{encoder.name} is read by {encoder.representation}, and this evaluator compares dense vectors alone. "
                "Use encode_queries, encode_documents and search of the encoder itself."
            )
        self.encoder = encoder


class BeirModel(_DenseModel):
    """An encoder as beir's dense search takes it. Options of beir such as the batch size change nothing."""

    def encode_queries(self, queries: Sequence[str], **options: Any) -> np.ndarray:
        """Return the vectors of queries, [Q, d] float32."""
        return _dense(self.encoder.encode_queries(queries))

    def encode_corpus(self, corpus: Sequence[Mapping[str, str]], **options: Any) -> np.ndarray:
        """Return the vectors of documents with `title` and `text`, [N, d] float32."""
        return _dense(self.encoder.encode_documents(corpus))


class MtebModel(_DenseModel):
    """An encoder as MTEB 2 takes it. Texts are queries where MTEB says so, and documents otherwise."""

    @property
    def mteb_model_meta(self) -> Any:
        """Return MTEB's record of the model: its name and the hash of its files."""
        from mteb.models.model_meta import ModelMeta

        name = self.encoder.folder.name
        return ModelMeta.create_empty({"name": f"retrobench/{name}", "revision": self.encoder.key})

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **options: Any) -> np.ndarray:
        """Return the vectors of all batches of `inputs`, [N, d] float32."""
        if getattr(prompt_type, "value", prompt_type) == "query":
            queries = [text for batch in inputs for text in batch["text"]]
            return _dense(self.encoder.encode_queries(queries))
        documents: list[tuple[str, str]] = []
        for batch in inputs:
            texts = batch.get("body", batch["text"])  # `text` has the title in front
            titles = batch.get("title", [""] * len(texts))
            documents += zip(titles, texts, strict=True)
        return _dense(self.encoder.encode_documents(documents))

    def similarity(self, first: Any, second: Any) -> Tensor:
        """Return the inner products of all vectors of two sets, [N, M]."""
        return torch.as_tensor(first) @ torch.as_tensor(second).T

    def similarity_pairwise(self, first: Any, second: Any) -> Tensor:
        """Return the inner products of vectors side by side, [N]."""
        return (torch.as_tensor(first) * torch.as_tensor(second)).sum(-1)


def _dense(encoded: EncodedTexts) -> np.ndarray:
    assert encoded.dense is not None
    return encoded.dense
