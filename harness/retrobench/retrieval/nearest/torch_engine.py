"""The exact-search engine in torch, for a GPU or any other device of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from retrobench.retrieval.nearest.bounds import UNIT, ErrorBound, QueryBounds, dense_error, sparse_error
from retrobench.retrieval.nearest.canonical import QueryVectors, torch_sums
from retrobench.retrieval.nearest.device_vectors import DeviceVectors, largest_norm
from retrobench.retrieval.nearest.engine import Engine
from retrobench.retrieval.nearest.kernels import TopK
from retrobench.retrieval.nearest.plan import SIZES, Plan
from retrobench.retrieval.nearest.torch_buffer import TorchBuffer
from retrobench.retrieval.nearest.vector_set import VectorSet

__all__ = ["TorchEngine"]

_TRUNCATED = 4  # error of a tensor core's addition in units of 2^-24: it cuts instead of rounding


class TorchEngine(Engine):
    """Documents searched on the device that the plan names."""

    def __init__(self, documents: VectorSet, tie_ranks: np.ndarray, scale: float, plan: Plan) -> None:
        super().__init__(documents, tie_ranks, scale, plan)
        device = torch.device(plan.device)
        self.sizes = SIZES[device.type]
        self.vectors = DeviceVectors(documents, device)
        self.device_ranks = torch.from_numpy(tie_ranks).to(device)

    def load(self, queries: VectorSet) -> _TorchQueries:
        return _TorchQueries(self, queries)

    def rounding_pays(self, queries: int) -> bool:
        if self.vectors.device.type != "cuda":
            return True
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))  # emulated, it is slower than float32

    def search(self, queries: VectorSet, depth: int) -> TopK:
        with _plain_products():
            return super().search(queries, depth)


class _TorchQueries:
    """A block of queries in tensors on the engine's device."""

    def __init__(self, engine: TorchEngine, queries: VectorSet) -> None:
        self.engine = engine
        self.vectors = engine.vectors
        self.count = len(queries)
        arrays = QueryVectors.of(queries, engine.documents)
        self.dense = _to_device(arrays.dense, self.vectors.device)
        self.terms = _to_device(arrays.terms, self.vectors.device)

    def buffer(self, depth: int) -> TorchBuffer:
        return TorchBuffer(self.count, depth, self.engine.device_ranks, self._canonical_scores)

    def rounded_pass(self) -> _Bfloat16Pass:
        assert self.dense is not None
        return _Bfloat16Pass(self.dense, self.vectors)

    def float32_pass(self) -> _Float32Pass:
        return _Float32Pass(self.dense, self.terms, self.vectors, self.engine.scale)

    def _canonical_scores(self, queries: Tensor, rows: Tensor) -> Tensor:
        scores = torch.empty(len(rows), device=self.vectors.device)
        step = max(1, self.engine.sizes.numbers // self.vectors.most_numbers())
        for begin in range(0, len(rows), step):
            block = slice(begin, begin + step)
            sums = self._sums(queries[block], rows[block])
            scores[block] = sums.float() + 0.0  # a score that rounds to -0.0 is tied with 0.0
        return scores

    def _sums(self, queries: Tensor, rows: Tensor) -> Tensor:
        """Return the canonical sums [m] float64 of pairs."""
        sums = torch.zeros(len(rows), dtype=torch.float64, device=self.vectors.device)
        if self.dense is not None:
            sums = torch_sums(self.dense[queries], self.vectors.rows(rows))
        if self.terms is not None:
            words, weights = self.vectors.entries(rows)
            query_weights = self.terms[queries[:, None], words]
            sums = sums + torch_sums(query_weights, weights) * self.engine.scale
        return sums


def _to_device(array: np.ndarray | None, device: torch.device) -> Tensor | None:
    if array is None:
        return None
    return torch.from_numpy(array).to(device)


class _Bfloat16Pass:
    """First scores [q, n] bfloat16 of rounded vectors."""

    def __init__(self, dense: Tensor, vectors: DeviceVectors) -> None:
        self.vectors = vectors
        self.rounded = dense.bfloat16()
        self.queries = QueryBounds(dense.double(), self.rounded.double(), vectors.centre.double())
        # Norms: see `dense_error`.
        self.lost = torch.zeros((), dtype=torch.float64, device=vectors.device)
        self.longest = self.lost

    def scores(self, begin: int, end: int) -> tuple[Tensor, ErrorBound]:
        block = self.vectors.block(begin, end) - self.vectors.centre
        rounded = block.bfloat16()
        widened = rounded.float()
        self.lost = torch.maximum(self.lost, largest_norm(block - widened))
        self.longest = torch.maximum(self.longest, largest_norm(widened))
        errors = dense_error(self.queries, block.shape[1], self.lost, self.longest, _TRUNCATED)
        bound = ErrorBound(self.queries.shifts, errors, UNIT)
        return self.rounded @ rounded.T, bound


class _Float32Pass:
    """First scores [q, n] in 32 bits, of dense vectors, terms or both."""

    def __init__(self, dense: Tensor | None, terms: Tensor | None, vectors: DeviceVectors, scale: float) -> None:
        self.dense = dense
        self.terms = terms
        self.vectors = vectors
        self.scale = scale
        documents = vectors.documents
        errors = torch.zeros((), dtype=torch.float64, device=vectors.device)
        if dense is not None:
            bounds = QueryBounds(dense.double())
            errors = errors + dense_error(bounds, documents.width, 0.0, vectors.longest, _TRUNCATED)
        if terms is not None:
            census = documents.census
            norms = torch.linalg.vector_norm(terms.double(), dim=1)
            errors = errors + sparse_error(norms, census.heaviest, census.entries, scale)
        self.bound = ErrorBound(torch.zeros_like(errors), errors, 0.0)

    def scores(self, begin: int, end: int) -> tuple[Tensor, ErrorBound]:
        queries = len(self.bound.errors)
        scores = torch.zeros(queries, end - begin, device=self.vectors.device)
        if self.dense is not None:
            scores += self.dense @ self.vectors.block(begin, end).T
        if self.terms is not None:
            products = self.vectors.sparse_block(begin, end) @ self.terms.T  # [n, q]
            scores += self.scale * products.T
        return scores, self.bound


@contextmanager
def _plain_products() -> Iterator[None]:
    """Compute products as the bounds assume: float32 in full, and sums of bfloat16 products in float32."""
    precision = torch.get_float32_matmul_precision()
    cuda = torch.backends.cuda.matmul
    reduced = cuda.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    cuda.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        cuda.allow_bf16_reduced_precision_reduction = reduced
