"""Texts to vectors: windows sorted by length, batches by tokens, rows written in the collection's order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch

from retrobench.errors import RetrobenchError
from retrobench.experiment import Experiment
from retrobench.masking import pack
from retrobench.progress import bar
from retrobench.representation import Vectors, keep_largest
from retrobench.stages.finetune import load_encoder
from retrobench.store import Artifact, Store
from retrobench.tokens import TokenisedTexts
from retrobench.training import device, memory, resolve_precision

__all__ = ["encode"]

WINDOW = 4096  # texts sorted by length together, and held in memory at a time
TOKENS = 8192  # per batch, padding included

Kind = Literal["query", "passage"]


def encode(x: Experiment, store: Store, encoder: Artifact, texts: Artifact, kind: Kind) -> Artifact:
    """Vectors of all texts, float32, a row each: `dense.npy` [N, d]; for terms `terms.npy` [N, V] of queries, and of
    passages `term_ids.npy` and `term_weights.npy` [N, k], the largest only. `ids.json` names the rows."""
    lengths = {"query": x.track.finetune.query_length, "passage": x.track.finetune.passage_length}
    precision = resolve_precision(x.track.finetune.precision)
    sizes = x.track.representation
    recipe = {"kind": kind, "representation": x.entrant.representation, **asdict(sizes)}
    recipe |= {"max_length": lengths[kind], "precision": precision}
    label = f"encode {x.entrant.name} ({'queries' if kind == 'query' else 'passages'})"

    def make(folder: Path) -> dict[str, float]:
        source = TokenisedTexts.open(texts.path)
        model, vocabulary = load_encoder(x, encoder.path)
        model.to(device())

        def embed(rows: np.ndarray) -> dict[str, np.ndarray]:
            packed = pack([source[row] for row in rows], vocabulary, lengths[kind])
            with torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16"):
                vectors = model(packed.input_ids.to(device()), packed.attention_mask.to(device()))
            return _arrays(vectors, kind, sizes.terms)

        (folder / "ids.json").write_text(json.dumps(source.ids))
        real = np.minimum(source.lengths + 2, lengths[kind])
        with ExitStack() as files, torch.inference_mode():
            advance = files.enter_context(bar(label, len(source), "texts"))
            writer = _Writer(folder, len(source), files)
            for first in range(0, len(source), WINDOW):
                writer.add(_window(real[first : first + WINDOW], first, embed, advance))
        return {"texts": float(len(source)), "tokens": float(real.sum()), **memory()}

    return store.ensure("encode", recipe, [encoder, texts], make, label=label)


def _arrays(vectors: Vectors, kind: Kind, terms: int) -> dict[str, np.ndarray]:
    """What is kept of a batch, by file name."""
    kept = {} if vectors.dense is None else {"dense": vectors.dense}
    if vectors.terms is not None and kind == "query":
        kept["terms"] = vectors.terms
    elif vectors.terms is not None:
        largest = keep_largest(vectors.terms, terms)
        kept |= {"term_weights": largest.values, "term_ids": largest.indices.int()}
    arrays = {name: tensor.cpu().numpy() for name, tensor in kept.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise RetrobenchError(
                f"The {kind} vectors ({name}) of a batch are not finite: the encoder's weights are unusable. Lower the "
                "learning rate, or start from another checkpoint."
            )
    return arrays


def _window(lengths: np.ndarray, first: int, embed, advance) -> dict[str, np.ndarray]:  # type: ignore[no-untyped-def]
    """Embed the rows from `first` on, shortest first, and put them back in order."""
    out: dict[str, np.ndarray] = {}
    for rows in _batches(lengths):
        for name, array in embed(rows + first).items():
            place = out.setdefault(name, np.empty((len(lengths), array.shape[1]), array.dtype))
            place[rows] = array
        advance(len(rows))
    return out


def _batches(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Row numbers of batches of at most TOKENS tokens each, padding included, in order of length."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        size = 1
        while start + size < len(order) and (size + 1) * lengths[order[start + size]] <= TOKENS:
            size += 1
        yield order[start : start + size]
        start += size


class _Writer:
    """`.npy` files that grow row by row by plain writes: a mapped file on a full disk would kill the process."""

    def __init__(self, folder: Path, rows: int, files: ExitStack) -> None:
        self.folder, self.rows, self.files = folder, rows, files
        self.open: dict[str, IO[bytes]] = {}

    def add(self, arrays: dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            if name not in self.open:
                self.open[name] = self.files.enter_context((self.folder / f"{name}.npy").open("wb"))
                head = {"shape": (self.rows, array.shape[1]), "fortran_order": False}
                descr = np.lib.format.dtype_to_descr(array.dtype)
                np.lib.format.write_array_header_1_0(self.open[name], {**head, "descr": descr})
            array.tofile(self.open[name])
