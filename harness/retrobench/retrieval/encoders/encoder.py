"""A published encoder: load it, embed texts, write their vectors window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from retrobench.core import processes
from retrobench.data import Dataset, Document
from retrobench.errors import RetrobenchError
from retrobench.retrieval import embedding
from retrobench.retrieval.embedding import Embedded, Embedder, Window
from retrobench.retrieval.encoders.files import Files, read_json
from retrobench.retrieval.encoders.forward import Forward
from retrobench.retrieval.encoders.settings import POOLING, Choices, Settings, settle
from retrobench.retrieval.encoders.stream import Stream
from retrobench.retrieval.vectors import Writer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["TITLES", "Kind", "PublishedEncoder", "check_published", "join_title", "load_published"]

Kind = Literal["query", "passage"]

TITLES = "joined to the text by a space"  # BEIR's convention


@dataclass(frozen=True)
class JoinedTexts:
    """Ids and texts of a dataset, iterable more than once."""

    dataset: Dataset
    kind: Kind

    def __iter__(self) -> Iterator[tuple[str, str]]:
        if self.kind == "query":
            for query in self.dataset.queries():
                yield query.id, query.text
            return
        for document in self.dataset.documents():
            yield document.id, join_title(document)


def join_title(document: Document) -> str:
    """Return a document's title and text with a space between them."""
    if not document.title:
        return document.text
    return f"{document.title} {document.text}".strip()


@dataclass(frozen=True)
class PublishedEncoder:
    """A loaded model. `key` is a hash of its files, so another checkpoint under its name is another encoder."""

    name: str
    key: str
    settings: Settings
    model: SentenceTransformer

    scale = 1.0  # of the terms' product, which a published encoder does not have

    def texts(self, dataset: Dataset, kind: Kind) -> Iterable[tuple[str, str]]:
        """Return id and text of a dataset's queries or documents, a title and a space before its text.

        The result can be iterated more than once.
        """
        return JoinedTexts(dataset, kind)

    def recipe(self, kind: Kind) -> dict[str, Any]:
        """Return all settings that the vectors of queries or passages depend on, beside the texts."""
        values = self.settings.values()
        prefixes = {"query": values.pop("query_prefix"), "passage": values.pop("passage_prefix")}
        recipe = {"model": self.key, "kind": kind, "prefix": prefixes[kind], **values, "titles": TITLES}
        return recipe | embedding.recipe()

    def forward(self, kind: Kind) -> Forward:
        """Return the way of queries or passages through the model."""
        task = "query" if kind == "query" else "document"
        prompt = str(self.recipe(kind)["prefix"])
        unit = self.settings.similarity.value == "cos"
        return Forward(self.model, task, prompt, unit)

    @property
    def width(self) -> int:
        """d of the vectors, as the model names it or as a vector shows it."""
        return self.model.get_embedding_dimension() or self.embed(["a"], "query").shape[1]

    def embed(self, texts: list[str], kind: Kind, advance: Callable[[int], None] | None = None) -> np.ndarray:
        """Return the vectors [len(texts), d] float32 of texts, of unit length where the similarity is cos."""
        forward = self.forward(kind)
        vectors: dict[int, np.ndarray] = {}
        with forward.prepared():
            window = forward.window(texts)
            for rows in window.batches(embedding.token_budget(self.model.device)):
                batch = forward(window.batch(rows)).cpu().numpy()
                vectors |= dict(zip(rows.tolist(), batch, strict=True))
                if advance:
                    advance(len(rows))
        return np.stack([vectors[row] for row in range(len(texts))])

    def write(
        self,
        folder: Path,
        texts: Iterable[tuple[str, str]],
        total: int,
        kind: Kind,
        advance: Callable[[int], None],
        facts: Mapping[str, Any] | None = None,
    ) -> dict[str, float]:
        """Embed (id, text) pairs into `folder`, as `vectors.Vectors` reads it, a row each in their order.

        An interrupted attempt is resumed after its finished windows, and all ranks share the windows. `facts` go into
        the manifest. RetrobenchError names the text of a non-finite vector, and a number of texts other than `total`.
        """
        forward = self.forward(kind)
        manifest = {**self.recipe(kind), **(facts or {})}
        manifest["computed"] = manifest.pop("dtype")  # the dtype of a manifest is the stored type
        with (
            Writer(folder, total, self.width, window=embedding.WINDOW, facts=manifest) as writer,
            Stream(texts, total, kind, folder) as stream,
            forward.prepared(),
        ):

            def load(first: int, last: int) -> Window:
                return forward.window(stream.texts(first, last))

            def embed(batch: Any) -> Embedded:
                return Embedded(forward(batch))

            def refuse(row: int, count: int) -> RetrobenchError:
                text_id, window_size = stream.id_and_window_size(row)
                return RetrobenchError(
                    f"Model {self.name!r} gives {kind} {text_id!r} a vector that is not finite (of the {window_size} "
                    f"read with it, {count}), in {self.settings.dtype.value}; nothing can be ranked by it. "
                    "Choose a checkpoint with sound weights."
                )

            advance(writer.done)
            embedding.fill(writer, Embedder(load, embed, refuse, self.model.device), advance)
            if processes.leads():
                writer.publish(stream.ids())
        return {"texts": float(total)}


def check_published(name: str, choices: Choices) -> Files:
    """Return the files of a folder or hub id, after all checks that do not load its weights.

    RetrobenchError for files other than those of a dense encoder that runs without code of its own. A model without
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
    """Load the encoder in a folder or under a hub id, on the device of this process (`embedding.choose_device`).

    RetrobenchError as from `check_published`, for weights of another model, and for `choices` that do not fit it.
    """
    from safetensors import SafetensorError

    files = check_published(name, choices)
    dtype, source = _dtype(files, choices)
    try:
        model = _build(files, choices, dtype)
        missing = _missing(files, model)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise RetrobenchError(
            f"Model {name!r} cannot be loaded ({_first_line(error)}). "
            "Check that its files are whole and belong together."
        ) from error
    if missing:
        raise RetrobenchError(
            f"The weights of model {name!r} lack {len(missing)} tensors, {missing[0]} among them, which would be "
            "random. Give a checkpoint of the architecture that its config.json names."
        )
    return PublishedEncoder(name, files.key(), settle(files, choices, model, source), model)


def _first_line(error: Exception) -> str:
    message = str(error).strip()
    if not message:
        return type(error).__name__
    return message.splitlines()[0]


def _dtype(files: Files, choices: Choices) -> tuple[str, str]:
    """Return the type of the model's numbers and its source."""
    import torch

    if choices.dtype is not None:
        return choices.dtype, "--dtype"
    if not torch.cuda.is_available():
        return "float32", "default on a CPU"
    config = read_json(files.folder / files.path_of("Transformer") / "config.json")
    dtype = config.get("dtype", config.get("torch_dtype"))
    if dtype in ("float16", "bfloat16"):
        return dtype, "config.json"
    return "float32", "default"


def _build(files: Files, choices: Choices, dtype: str) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = str(files.folder)
    device = str(embedding.choose_device())
    weights = {"use_safetensors": True, "dtype": getattr(torch, dtype)}
    if files.modules is not None:
        return SentenceTransformer(folder, device=device, local_files_only=True, model_kwargs=weights)
    local = {"local_files_only": True, "trust_remote_code": False}
    transformer = Transformer(
        folder,
        model_kwargs={**local, **weights},
        processor_kwargs=dict(local),
        config_kwargs=dict(local),
    )
    pooling = Pooling(transformer.get_embedding_dimension(), choices.pooling)
    return SentenceTransformer(modules=[transformer, pooling], device=device)


def _missing(files: Files, model: SentenceTransformer) -> list[str]:
    """Return the tensors that the checkpoint lacks. transformers fills them at random, with a warning alone."""
    inner = model.transformers_model
    if inner is None or (files.modules is not None and not files.lists("Transformer")):
        return []
    loaded: Any = type(inner).from_pretrained(
        files.folder / files.path_of("Transformer"),
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        device_map="meta",  # reads names and shapes alone
    )
    _, info = loaded
    # BERT's pooler serves whole-sequence tasks: masked language models have none, and no pooling reads it.
    return sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
