"""Documents on a device of torch. They stay on the device if they leave it room, else they are sent block by block."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from retrobench.retrieval.nearest.kernels import LARGEST
from retrobench.retrieval.nearest.vector_set import VectorSet

__all__ = ["DeviceVectors", "largest_norm"]

_ROWS = 2**16  # examined together
_RESIDENT = 0.6  # share of a device's free memory that documents may take


class DeviceVectors:
    """Documents for search on `device`. UnsoundError is raised for a document that cannot be ranked."""

    def __init__(self, documents: VectorSet, device: torch.device) -> None:
        self.documents = documents
        self.device = device
        self.home = torch.device("cpu")
        if _fits(documents, device):
            self.home = device
        self.stored: Tensor | None = None
        self.terms: list[Tensor] | None = None
        if documents.dense is not None:
            self.stored = _tensor(documents).to(self.home)
        if documents.terms is not None:
            self.terms = [torch.from_numpy(array).to(self.home) for array in documents.terms]
        self.centre, self.longest = self._examine()

    def block(self, begin: int, end: int) -> Tensor:
        """Return dense rows [n, d] float32."""
        assert self.stored is not None
        return self.stored[begin:end].to(self.device).float()

    def rows(self, rows: Tensor) -> Tensor:
        """Return dense rows [m, d] float32 by their numbers."""
        assert self.stored is not None
        return self.stored[rows.to(self.home)].to(self.device).float()

    def sparse_block(self, begin: int, end: int) -> Tensor:
        """Return sparse rows [n, V] in compressed form."""
        assert self.terms is not None
        indptr, indices, values = self.terms
        starts = indptr[begin : end + 1]
        entries = slice(int(starts[0]), int(starts[-1]))
        rows = (starts - starts[0]).int().to(self.device)
        columns = indices[entries].to(self.device)
        weights = values[entries].to(self.device)
        with warnings.catch_warnings():
            # torch calls the layout a beta once in each process. The tests compare its product with a dense one.
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            # torch 2.11 warns although the choice is explicit. The vectors' writer keeps the invariants.
            warnings.filterwarnings("ignore", "Sparse invariant checks are implicitly disabled")
            shape = (end - begin, self.documents.words)
            return torch.sparse_csr_tensor(rows, columns, weights, shape, check_invariants=False)

    def entries(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return words and weights [m, e] of sparse rows, padded with word 0 of weight 0."""
        assert self.terms is not None
        indptr, indices, values = self.terms
        rows = rows.to(self.home)
        starts = indptr[rows]
        ends = indptr[rows + 1]
        longest = int((ends - starts).max())
        positions = starts[:, None] + torch.arange(longest, device=self.home)
        present = positions < ends[:, None]
        if not len(indices):
            no_words = torch.zeros_like(positions).to(self.device)
            return no_words, torch.zeros(positions.shape, device=self.device)
        positions = positions.clamp(max=len(indices) - 1)
        words = indices[positions].long() * present
        weights = torch.where(present, values[positions], 0.0)
        return words.to(self.device), weights.to(self.device)

    def most_numbers(self) -> int:
        """Return the most numbers of one document's dense part or terms."""
        most = max(self.documents.width, 1)
        if self.terms is None:
            return most
        return max(most, self.documents.census.entries)

    def _examine(self) -> tuple[Tensor, Tensor]:
        """Return the mean [d] of all dense rows and the largest norm; the census has the other facts."""
        if self.device.type == "cpu" or self.stored is None:
            census = self.documents.census
            return torch.from_numpy(census.mean), torch.tensor(census.longest, dtype=torch.float64)
        sums = torch.zeros(self.documents.width, dtype=torch.float64, device=self.device)
        longest = sums.new_zeros(())
        sound = torch.ones((), dtype=torch.bool, device=self.device)
        for begin in range(0, len(self.documents), _ROWS):
            block = self.block(begin, begin + _ROWS)
            sound &= (block.abs() < LARGEST).all()
            sums += block.double().sum(0)
            longest = torch.maximum(longest, largest_norm(block))
        if not sound:
            _ = self.documents.census  # raises UnsoundError with the row
        return (sums / len(self.documents)).float(), longest


def largest_norm(rows: Tensor) -> Tensor:
    """Return the largest norm of rows [n, d], a float64 scalar."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.amax().double()


def _tensor(documents: VectorSet) -> Tensor:
    assert documents.dense is not None
    if documents.stored == "bfloat16":
        return torch.from_numpy(documents.dense.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(documents.dense)


def _fits(documents: VectorSet, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    size = 0
    for array in (documents.dense, *(documents.terms or ())):
        if array is not None:
            size += array.nbytes
    free, _ = torch.cuda.mem_get_info(device)
    return size < _RESIDENT * free
