"""
An encoder that retrobench fine-tuned, read as it was scored: its representation, lengths, titles and precision.

* is_trained        tell whether a folder holds such an encoder
* check_trained     refuse other folders, and choices that make another encoder
* load_trained      load an encoder, with the command line's choices
* load_encoder      load an encoder, with lengths and titles of one's own
* TrainedEncoder    encode queries and documents of any source, and search
* EncodedTexts      vectors in memory, with the ids of the texts
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from retrobench.config import Reading, Representations, ResolvedPrecision
from retrobench.core import tree_hash
from retrobench.data import Dataset, TextRow, TokenisedTexts, document_rows, query_rows, write_tokens
from retrobench.errors import RetrobenchError
from retrobench.model import Encoder, load_tokenizer
from retrobench.model import load_encoder as load_model
from retrobench.objective import Vocabulary
from retrobench.retrieval import embedding, nearest
from retrobench.retrieval.encoders import MODEL_FILES, Choices, Kind
from retrobench.retrieval.encoders.settings import Setting, Settings
from retrobench.retrieval.nearest import VectorSet
from retrobench.retrieval.tokenised import write_vectors
from retrobench.retrieval.vectors import Vectors
from retrobench.scoring import ranking
from retrobench.store import read_settings, read_stage

__all__ = ["EncodedTexts", "TrainedEncoder", "check_trained", "is_trained", "load_encoder", "load_trained"]

RECORD = "entry.json"  # where the encoder's settings stand
# The precision that each --dtype chooses.
PRECISIONS: dict[str, ResolvedPrecision] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
DTYPES = {precision: dtype for dtype, precision in PRECISIONS.items()}

Text = str | tuple[str, str] | Mapping[str, str]  # a text; or a title and a text, as a pair or by name


@dataclass(frozen=True)
class EncodedTexts:
    """The vectors of N texts: dense [N, d] float32, sparse terms over V words, or both."""

    ids: list[str]
    vectors: VectorSet

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dense(self) -> np.ndarray | None:
        """Return the dense vectors [N, d] float32; None for `terms`."""
        return self.vectors.dense

    @property
    def terms(self) -> sparse.csr_matrix | None:
        """Return the terms [N, V]; None for `cls` and `mean`. A document keeps its largest."""
        terms = self.vectors.terms
        if terms is None:
            return None
        shape = (len(self.ids), self.vectors.words)
        return sparse.csr_matrix((terms.values, terms.indices, terms.indptr), shape=shape)


@dataclass(frozen=True)
class TrainedSettings(Settings):
    """The settings of a trained encoder. `max_length` is that of passages."""

    query_length: Setting
    titles: Setting
    terms: Setting  # kept per document
    scale: Setting  # weight of the terms' product


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder, its reading of texts, and the comparison of its vectors. `key` is a hash of its files."""

    name: str
    key: str
    folder: Path
    model: Encoder
    vocabulary: Vocabulary
    reading: Reading
    precision: ResolvedPrecision
    sources: Mapping[str, str] = field(default_factory=dict)  # of settings that were chosen: name -> option

    @property
    def representation(self) -> str:
        """Return cls, mean, terms or cls+terms."""
        return self.model.representation

    @property
    def sizes(self) -> Representations:
        """Return the sizes of the representation."""
        return self.model.sizes

    @property
    def scale(self) -> float:
        """Return the weight of the terms' inner product beside the dense inner product."""
        return self.sizes.scale

    @property
    def width(self) -> int:
        """Return d of the dense vectors, 0 for `terms`."""
        return self.model.width

    @property
    def settings(self) -> TrainedSettings:
        """Return the settings, each with its source."""
        values: dict[str, str | int | bool] = {
            "pooling": self.representation,
            "normalize": self.sizes.normalize,
            "query_prefix": "",
            "passage_prefix": "",
            "max_length": self.reading.passage_length,
            "similarity": "dot",
            "dtype": DTYPES[self.precision],
            "query_length": self.reading.query_length,
            "titles": str(self.reading.titles),
            "terms": self.sizes.terms if self.model.words else 0,
            "scale": str(self.scale),
        }
        return TrainedSettings(
            **{name: Setting(value, self.sources.get(name, RECORD)) for name, value in values.items()}
        )

    def recipe(self, kind: Kind) -> dict[str, Any]:
        """Return all settings that the vectors of queries or passages depend on, beside the texts."""
        length = self.reading.query_length if kind == "query" else self.reading.passage_length
        return {
            "model": self.key,
            "kind": kind,
            "representation": self.representation,
            **asdict(self.sizes),
            "titles": self.reading.titles,
            "max_length": length,
            "precision": self.precision,
            **embedding.recipe(),
        }

    def texts(self, dataset: Dataset, kind: Kind) -> Iterable[TextRow]:
        """Return id, title and text of a dataset's queries or documents."""
        return query_rows(dataset) if kind == "query" else document_rows(dataset)

    def write(
        self,
        folder: Path,
        texts: Iterable[TextRow],
        total: int,
        kind: Kind,
        advance: Callable[[int], None],
        facts: Mapping[str, Any] | None = None,
    ) -> dict[str, float]:
        """Embed `total` texts into `folder`, as `vectors.Vectors` reads it. All ranks share the windows.

        `advance(n)` is called with the number of finished texts; `facts` go into the manifest. Titles are left out
        where the encoder reads none.
        """
        if not self.reading.titles:
            texts = ((text_id, "", text) for text_id, _, text in texts)
        with tempfile.TemporaryDirectory() as tokens:
            separated = self.reading.titles == "[SEP]"
            write_tokens(Path(tokens), texts, load_tokenizer(self.folder), separated=separated)
            source = TokenisedTexts.open(Path(tokens))
            if len(source) != total:
                raise RetrobenchError(
                    f"{total:,} texts ({kind}) were announced and {len(source):,} read. Fetch or mend the collection."
                )
            recipe = self.recipe(kind)
            return write_vectors(
                folder,
                self.model,
                self.vocabulary,
                source,
                kind=kind,
                max_length=recipe["max_length"],
                precision=self.precision,
                facts={**recipe, **(facts or {})},
                advance=advance,
            )

    def encode_queries(self, texts: Sequence[Text] | Mapping[str, Text]) -> EncodedTexts:
        """Return the vectors of queries, with all their terms. Without a mapping, the ids are 0, 1, 2, ..."""
        return self._encode(texts, "query")

    def encode_documents(self, texts: Sequence[Text] | Mapping[str, Text]) -> EncodedTexts:
        """Return the vectors of documents: texts, pairs of title and text, or mappings with `title` and `text`.

        Without a mapping from id to document, the ids are 0, 1, 2, ... A document keeps its largest terms.
        """
        return self._encode(texts, "passage")

    def search(
        self, queries: EncodedTexts, documents: EncodedTexts, depth: int = 1000
    ) -> list[list[tuple[str, float]]]:
        """Return id and score of the best `depth` documents of each query, in the total order of `ranking`."""
        precedence = ranking.precedence(documents.ids)
        blocks = []
        for rows, scores in nearest.search(queries.vectors, documents.vectors, depth, precedence, self.scale):
            blocks.append(ranking.finish(rows, scores, precedence, depth))
        ranked = ranking.join(blocks, len(queries))
        hits = []
        for rows, scores in zip(ranked.rows.tolist(), ranked.scores.tolist(), strict=True):
            hits.append([(documents.ids[row], score) for row, score in zip(rows, scores, strict=True) if row >= 0])
        return hits

    def _encode(self, texts: Sequence[Text] | Mapping[str, Text], kind: Kind) -> EncodedTexts:
        if not isinstance(texts, Mapping):
            texts = {str(number): text for number, text in enumerate(texts)}
        if not texts:
            raise RetrobenchError(f"There is no {kind} to encode.")
        rows = [(text_id, *_split(text)) for text_id, text in texts.items()]
        with tempfile.TemporaryDirectory() as folder:
            self.write(Path(folder), rows, len(rows), kind, lambda count: None)
            stored = Vectors.open(Path(folder))
            dense = stored.dense(0, len(rows)) if stored.width else None
            terms = stored.terms(0, len(rows)) if stored.words else None
        return EncodedTexts(list(texts), VectorSet(dense, terms, stored.words))


def _split(text: Text) -> tuple[str, str]:
    """Return title and text."""
    if isinstance(text, str):
        return "", text
    if isinstance(text, Mapping):
        return text.get("title") or "", text["text"]
    title, body = text
    return title, body


def is_trained(folder: Path) -> bool:
    """Tell whether a folder holds an encoder that retrobench fine-tuned."""
    return read_stage(folder) == "finetune"


def check_trained(folder: Path, choices: Choices) -> None:
    """Raise RetrobenchError for a folder that `load_trained` refuses, and for choices that make another encoder."""
    choices.check()
    if not is_trained(folder):
        raise RetrobenchError(
            f"{folder} holds no encoder that retrobench fine-tuned (no {RECORD} of that stage). Give the folder that "
            "`run` prints, or evaluate it as a published encoder."
        )
    settings = read_settings(folder)
    representation = settings["representation"]
    for option, value in (("--pooling", choices.pooling), ("--similarity", choices.similarity)):
        if value is not None:
            raise RetrobenchError(
                f"{option} is {value}, and {folder} was trained to be read by {representation} and compared by dot. "
                "Leave it out."
            )
    if choices.query_prefix or choices.passage_prefix:
        raise RetrobenchError(f"{folder} was trained without prefixes. Leave --query-prefix and --passage-prefix out.")
    if choices.dtype is None and settings["precision"] == "fp16" and not torch.cuda.is_available():
        raise RetrobenchError(
            f"{folder} was trained and scored in fp16, in which a CPU is thousands of times slower. "
            "Take --dtype float32, or a machine with a GPU."
        )


def load_trained(folder: Path, choices: Choices | None = None) -> TrainedEncoder:
    """Load an encoder that retrobench fine-tuned, with the settings of its fine-tuning.

    `choices.max_length` replaces the lengths of queries and passages, `choices.dtype` the precision. RetrobenchError
    as from `check_trained`.
    """
    choices = choices or Choices()
    check_trained(folder, choices)
    settings = read_settings(folder)
    sizes = Representations(**{size.name: settings[size.name] for size in fields(Representations)})
    reading = Reading(**settings["reading"])
    precision = settings["precision"]
    sources: dict[str, str] = {}
    if choices.max_length is not None:
        reading = replace(reading, query_length=choices.max_length, passage_length=choices.max_length)
        sources |= dict.fromkeys(("max_length", "query_length"), "--max-length")
    if choices.dtype is not None:
        precision = PRECISIONS[choices.dtype]
        sources["dtype"] = "--dtype"
    model, vocabulary = load_model(folder, settings["representation"], sizes)
    key = tree_hash(file for pattern in MODEL_FILES for file in folder.rglob(pattern))
    return TrainedEncoder(str(folder), key, folder, model, vocabulary, reading, precision, sources)


def load_encoder(
    folder: str | Path,
    *,
    query_length: int | None = None,
    passage_length: int | None = None,
    titles: bool | None = None,
    dtype: str | None = None,
) -> TrainedEncoder:
    """Load an encoder that `retrobench run` trained: STORE/finetune/KEY, or a copy of that folder.

    It reads texts as in fine-tuning. A track whose `[evaluate]` reads texts otherwise needs its lengths (in tokens) and
    titles here. `dtype` is float32, bfloat16 or, on a GPU, float16. RetrobenchError for any other folder.
    """
    encoder = load_trained(Path(folder).expanduser(), Choices(dtype=dtype))
    changes = {"query_length": query_length, "passage_length": passage_length, "titles": titles}
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    return replace(encoder, reading=replace(encoder.reading, **given))
