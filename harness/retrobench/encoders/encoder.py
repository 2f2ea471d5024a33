"""A published encoder at work: loaded, and its vectors written window by window."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from retrobench.encoders.files import Files, read_json
from retrobench.encoders.settings import POOLING, Choices, Settings, settle
from retrobench.errors import RetrobenchError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["Encoder", "Kind", "checked", "load"]

WINDOW = 4096  # texts sorted by length together, and held in memory at a time
BATCH = {"cpu": 32, "cuda": 128}
TOLD = 8  # batches between two moves of the bar

Kind = Literal["query", "passage"]


@dataclass(frozen=True)
class Encoder:
    """A loaded model. `key` is a hash of its files: another checkpoint under the same name is another encoder."""

    name: str
    key: str
    settings: Settings
    model: SentenceTransformer

    def recipe(self, kind: Kind) -> dict[str, Any]:
        """All that the vectors of such texts depend on, beside the texts."""
        values = self.settings.values()
        prefixes = {"query": values.pop("query_prefix"), "passage": values.pop("passage_prefix")}
        return {"model": self.key, "kind": kind, "prefix": prefixes[kind], **values}

    def embed(self, texts: list[str], kind: Kind, advance: Callable[[int], None] | None = None) -> np.ndarray:
        """Vectors [len(texts), d], float32, of unit length where the similarity is cos."""
        run = self.model.encode_query if kind == "query" else self.model.encode_document
        batch, prompt = BATCH[self.model.device.type], str(self.recipe(kind)["prefix"])
        # The library sorts by length too, but says nothing until all is done.
        order = np.argsort([-len(text) for text in texts], kind="stable")
        parts = []
        for rows in np.split(order, range(TOLD * batch, len(order), TOLD * batch)):
            some = [texts[row] for row in rows]
            parts.append(np.asarray(run(some, prompt=prompt, batch_size=batch, show_progress_bar=False), np.float32))
            if advance:
                advance(len(rows))
        vectors = np.empty((len(texts), parts[0].shape[1]), np.float32)
        vectors[order] = np.concatenate(parts)
        if self.settings.similarity.value == "cos":
            # A vector of zeros stays one, as in sentence-transformers.
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def write(
        self, folder: Path, texts: Iterable[tuple[str, str]], total: int, kind: Kind, advance: Callable[[int], None]
    ) -> dict[str, float]:
        """Embed (id, text) pairs: `dense.npy` [total, d] float32 in their order, `ids.json` naming the rows.

        The whole windows that an interrupted attempt left in `folder` are kept. RetrobenchError where a vector is not
        finite, naming its text, and where there are not `total` texts.
        """
        source, ids, file = iter(texts), list[str](), folder / "dense.npy"
        done = _whole_windows(file)
        while part := list(islice(source, WINDOW)):
            first = len(ids)
            ids += [identifier for identifier, _ in part]
            if first < done:
                advance(len(part))
                continue
            vectors = self.embed([text for _, text in part], kind, advance)
            self._check(vectors, ids[first:], kind)
            _append(file, vectors, first, total)
        if not ids or len(ids) != total:
            raise RetrobenchError(
                f"{total:,} texts ({kind}) were announced and {len(ids):,} read: the collection's files are cut short "
                "or empty. Fetch or mend them, and run the same command again."
            )
        (folder / "ids.json").write_text(json.dumps(ids))
        return {"texts": float(total)}

    def _check(self, vectors: np.ndarray, ids: list[str], kind: Kind) -> None:
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise RetrobenchError(
                f"Model {self.name!r} gives {kind} {ids[bad[0]]!r} a vector that is not finite (of the {len(ids)} read "
                f"with it, {len(bad)}), in {self.settings.dtype.value}; nothing can be ranked by it. "
                "Choose a checkpoint with sound weights."
            )


def checked(name: str, choices: Choices) -> Files:
    """The files of a folder or hub id, which hold an encoder as far as can be said without its weights being loaded.

    RetrobenchError where they are not those of a dense encoder that can be run without code of its own. A model without
    modules.json needs `choices.pooling`.
    """
    choices.check()
    files = Files.of(name)
    if files.modules is None and choices.pooling is None:
        raise RetrobenchError(
            f"Model {name!r} has no modules.json, so its files do not say how a text's tokens become one vector. "
            f"Say it with --pooling, one of {', '.join(POOLING)}."
        )
    return files


def load(name: str, choices: Choices) -> Encoder:
    """The encoder in a folder or under a hub id, on the first GPU if there is one.

    RetrobenchError as from `checked`, and where the weights are not this model's or `choices` do not fit it.
    """
    from safetensors import SafetensorError

    files = checked(name, choices)
    dtype, source = _dtype(files)
    try:
        model = _build(files, choices, dtype)
        missing = _missing(files, model)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RetrobenchError(
            f"Model {name!r} cannot be loaded ({reason}). Check that its files are whole and belong together."
        ) from error
    if missing:
        raise RetrobenchError(
            f"The weights of model {name!r} lack {len(missing)} tensors, {missing[0]} among them, which would be "
            "random. Give a checkpoint of the architecture that its config.json names."
        )
    return Encoder(name, files.key(), settle(files, choices, model, source), model)


def _dtype(files: Files) -> tuple[str, str]:
    """The type of the model's numbers, and where it is from."""
    import torch

    if not torch.cuda.is_available():
        return "float32", "always on a CPU"
    config = read_json(files.folder / files.holding("Transformer") / "config.json")
    said = config.get("dtype", config.get("torch_dtype"))
    return (said, "config.json") if said in ("float16", "bfloat16") else ("float32", "default")


def _build(files: Files, choices: Choices, dtype: str) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # heads that are not used are reported at length
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    place, device = str(files.folder), "cuda" if torch.cuda.is_available() else "cpu"
    numbers = {"use_safetensors": True, "dtype": getattr(torch, dtype)}
    if files.modules is not None:
        return SentenceTransformer(place, device=device, local_files_only=True, model_kwargs=numbers)
    here = {"local_files_only": True, "trust_remote_code": False}
    bare = Transformer(place, model_kwargs={**here, **numbers}, processor_kwargs=dict(here), config_kwargs=dict(here))
    pooling = Pooling(bare.get_embedding_dimension(), choices.pooling)
    return SentenceTransformer(modules=[bare, pooling], device=device)


def _missing(files: Files, model: SentenceTransformer) -> list[str]:
    """Tensors that the checkpoint lacks. transformers fills them at random, and has only a warning for it."""
    inner = model.transformers_model
    if inner is None or (files.modules is not None and not files.lists("Transformer")):
        return []
    place = files.folder / files.holding("Transformer")
    # On the meta device nothing is read but names and shapes.
    lightly: dict[str, Any] = {"output_loading_info": True, "device_map": "meta"}
    loaded: Any = type(inner).from_pretrained(place, local_files_only=True, use_safetensors=True, **lightly)
    # A pooler is what BERT has for whole-sequence tasks; masked language models come without, and no pooling reads it.
    return sorted(name for name in loaded[1]["missing_keys"] if not name.startswith("pooler."))


def _append(file: Path, vectors: np.ndarray, first: int, total: int) -> None:
    """Put rows [n, d] behind the first `first` of an array of `total`, by plain writes: a full disk is an OSError."""
    start, width = _header(file) if first else (0, vectors.shape[1])
    with file.open("r+b" if first else "wb") as out:
        if first:
            out.truncate(start + first * width * 4)
            out.seek(0, os.SEEK_END)
        else:
            head = {"shape": (total, width), "fortran_order": False, "descr": "<f4"}
            np.lib.format.write_array_header_1_0(out, head)
        out.write(np.ascontiguousarray(vectors, "<f4").tobytes())
        out.flush()
        os.fsync(out.fileno())  # what the next attempt counts has to be there


def _header(file: Path) -> tuple[int, int]:
    """Where the rows of an array's file begin, in bytes, and how many numbers each holds."""
    with file.open("rb") as content:
        np.lib.format.read_magic(content)
        shape, _, _ = np.lib.format.read_array_header_1_0(content)
        return content.tell(), int(shape[1])


def _whole_windows(file: Path) -> int:
    """How many rows an interrupted attempt left, up to its last whole window."""
    try:
        start, width = _header(file)
    except (OSError, ValueError):
        return 0
    return (file.stat().st_size - start) // (width * 4) // WINDOW * WINDOW
