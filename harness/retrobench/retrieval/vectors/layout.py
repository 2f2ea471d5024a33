"""The format of vectors on disk: names, types, headers, and numbers as they are stored."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from retrobench.config import DTYPES

__all__ = ["DTYPES", "FORMAT", "HEAD", "TERM_TYPES", "TermPieces", "Terms", "header", "narrowed", "widened"]

FORMAT = "retrobench vectors 1"
TERM_TYPES = {"indptr": "<i8", "indices": "<i4", "values": "<f4"}  # the arrays of the terms
HEAD = 128  # bytes before the numbers of every array: NumPy pads its header to a multiple of 64


class Terms(NamedTuple):
    """Sparse rows: row i holds `values[indptr[i] : indptr[i + 1]]` at the columns `indices` of that range."""

    indptr: np.ndarray  # [n + 1] int64, from 0
    indices: np.ndarray  # [nnz] int32
    values: np.ndarray  # [nnz] float32


class TermPieces(NamedTuple):
    """Sparse rows with their entries in several arrays, one after the other, for a window too large to copy."""

    indptr: np.ndarray  # [n + 1] int64, from 0
    indices: Sequence[np.ndarray]  # together [nnz] int32
    values: Sequence[np.ndarray]  # together [nnz] float32


def widened(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Return numbers stored as `dtype` as float32."""
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)


def narrowed(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """Return float32 numbers as `dtype` stores them, rounded to the nearest, ties to even."""
    numbers = np.ascontiguousarray(numbers, np.float32)
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return numbers.astype(DTYPES[dtype], copy=False)
    bits = numbers.view(np.uint32).astype(np.uint64)
    odd = (bits >> 16) & 1
    rounded = ((bits + 0x7FFF + odd) >> 16).astype(np.uint16)
    return np.where(np.isnan(numbers), np.uint16(0x7FC0), rounded)


def header(kind: str, shape: tuple[int, ...]) -> bytes:
    """Return the header of a `.npy` file, always HEAD bytes."""
    buffer = io.BytesIO()
    facts = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, facts)
    return buffer.getvalue()
