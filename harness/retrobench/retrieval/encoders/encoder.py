"""A published encoder at work: loaded, and its vectors written window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from retrobench.core import processes
from retrobench.errors import RetrobenchError
from retrobench.retrieval import embedding
from retrobench.retrieval.embedding import Embedded, Window
from retrobench.retrieval.encoders.files import Files, read_json
from retrobench.retrieval.encoders.forward import Forward
from retrobench.retrieval.encoders.settings import POOLING, Choices, Settings, settle
from retrobench.retrieval.encoders.stream import Stream
from retrobench.retrieval.vectors import Writer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["Kind", "PublishedEncoder", "check_published", "load_published"]

Kind = Literal["query", "passage"]


@dataclass(frozen=True)
class PublishedEncoder:
    """A loaded model. `key` is a hash of its files: another checkpoint under the same name is another encoder."""

    name: str
    key: str
    settings: Settings
    model: SentenceTransformer

    def recipe(self, kind: Kind) -> dict[str, Any]:
        """All that the vectors of such texts depend on, beside the texts."""
        values = self.settings.values()
        prefixes = {"query": values.pop("query_prefix"), "passage": values.pop("passage_prefix")}
        recipe = {"model": self.key, "kind": kind, "prefix": prefixes[kind], **values}
        return recipe | {"windows": embedding.WINDOW, "revision": embedding.REVISION}

    def forward(self, kind: Kind) -> Forward:
        """How texts of a kind go through the model."""
        prompt, unit = str(self.recipe(kind)["prefix"]), self.settings.similarity.value == "cos"
        return Forward(self.model, "query" if kind == "query" else "document", prompt, unit)

    @property
    def width(self) -> int:
        """d of the vectors: the model's own word, or that of a vector where it has none."""
        return self.model.get_embedding_dimension() or self.embed(["a"], "query").shape[1]

    def embed(self, texts: list[str], kind: Kind, advance: Callable[[int], None] | None = None) -> np.ndarray:
        """Vectors [len(texts), d], float32, of unit length where the similarity is cos."""
        forward, found = self.forward(kind), dict[int, np.ndarray]()
        with forward.prepared():
            window = forward.window(texts)
            for rows in window.batches(embedding.budget(self.model.device)):
                vectors = forward(window.batch(rows)).cpu().numpy()
                found |= dict(zip(rows.tolist(), vectors, strict=True))
                if advance:
                    advance(len(rows))
        return np.stack([found[row] for row in range(len(texts))])

    def write(
        self,
        folder: Path,
        texts: Iterable[tuple[str, str]],
        total: int,
        kind: Kind,
        advance: Callable[[int], None],
        about: Mapping[str, Any] | None = None,
    ) -> dict[str, float]:
        """Embed (id, text) pairs into `folder`, as `vectors.Vectors` reads it, a row each in their order.

        Finished windows that an interrupted attempt left are kept, and the processes of a team do a part each.
        RetrobenchError where a vector is not finite, naming its text, and where there are not `total` texts.
        """
        forward = self.forward(kind)
        facts = {**self.recipe(kind), **(about or {})}
        facts["computed"] = facts.pop("dtype")  # a manifest's own dtype is what vectors are stored in
        with (
            Writer(folder, total, self.width, window=embedding.WINDOW, about=facts) as writer,
            Stream(texts, total, kind, folder) as stream,
            forward.prepared(),
        ):

            def load_window(first: int, last: int) -> Window:
                return forward.window(stream.texts(first, last))

            def refuse(row: int, count: int) -> RetrobenchError:
                identifier, near = stream.named(row)
                return RetrobenchError(
                    f"Model {self.name!r} gives {kind} {identifier!r} a vector that is not finite (of the {near} read "
                    f"with it, {count}), in {self.settings.dtype.value}; nothing can be ranked by it. "
                    "Choose a checkpoint with sound weights."
                )

            advance(writer.done)
            embedding.fill(
                writer, load_window, lambda batch: Embedded(forward(batch)), refuse, advance, self.model.device
            )
            if processes.leads():
                writer.publish(stream.ids())
        return {"texts": float(total)}


def check_published(name: str, choices: Choices) -> Files:
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


def load_published(name: str, choices: Choices) -> PublishedEncoder:
    """The encoder in a folder or under a hub id, on the device of this process (`embedding.place`).

    RetrobenchError as from `check_published`, and where the weights are not this model's or `choices` do not fit it.
    """
    from safetensors import SafetensorError

    files = check_published(name, choices)
    dtype, source = _dtype(files, choices)
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
    return PublishedEncoder(name, files.key(), settle(files, choices, model, source), model)


def _dtype(files: Files, choices: Choices) -> tuple[str, str]:
    """The type of the model's numbers, and where it is from."""
    import torch

    if choices.dtype == "float16" and not torch.cuda.is_available():
        raise RetrobenchError(
            "--dtype is float16, in which a CPU is thousands of times slower. Take bfloat16 or float32."
        )
    if choices.dtype is not None:
        return choices.dtype, "--dtype"
    if not torch.cuda.is_available():
        return "float32", "default on a CPU"
    config = read_json(files.folder / files.holding("Transformer") / "config.json")
    said = config.get("dtype", config.get("torch_dtype"))
    return (said, "config.json") if said in ("float16", "bfloat16") else ("float32", "default")


def _build(files: Files, choices: Choices, dtype: str) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    place, device = str(files.folder), str(embedding.place())
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
