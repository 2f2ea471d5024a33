"""Look up models and datasets before they are downloaded: shapes, counts, lengths, and files to download."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from retrobench import data
from retrobench.config import Model
from retrobench.core import parse_json, read_json
from retrobench.data import MODELS, build, catalogue, shipped_folder
from retrobench.errors import RetrobenchError
from retrobench.plan.arithmetic import BERT_BASE, Shape

__all__ = ["CollectionFacts", "list_downloads", "look_up", "shape_of"]

HUB = {
    "google-bert/bert-base-uncased": BERT_BASE,
    "bert-base-uncased": BERT_BASE,
    "cross-encoder/ms-marco-MiniLM-L6-v2": Shape(6, 384, 1536, 30522),
}
TOKENS = 1.4  # per word, in bert-base-uncased's vocabulary: 1.24 on ArguAna, 1.36 on MS MARCO, 1.52 on NFCorpus
FETCH = "Fetch the model again."
SPECIAL = 2  # [CLS] and [SEP]
SAMPLE = 5000  # texts of a local collection whose words are counted
_DEFAULT_VOCABULARY = 30522  # words
_MANY_BYTES = 10**9  # of a local collection: counting its lines would take long


@dataclass(frozen=True)
class CollectionFacts:
    """Hold a dataset's facts that its costs depend on. Tokens are means per text, special ones included, uncut."""

    name: str
    corpus: str  # equal for datasets that share their documents
    documents: int
    tokens: float
    queries: int
    query_tokens: float
    judgements: int
    judged: int  # queries with a relevant document
    missing: Mapping[str, int]  # address of each file to download -> bytes, 0 for an unknown size
    basis: str  # the source of the lengths
    to_build: bool = False  # whether `retrobench data fetch` has yet to build it from these files

    def limited(self, limit: int) -> CollectionFacts:
        """Return the facts of at most `limit` documents and questions; 0 keeps all."""
        if not limit:
            return self
        queries = min(self.queries, limit)
        judgements = round(self.judgements * queries / max(1, self.queries))
        return replace(
            self,
            documents=min(self.documents, limit),
            queries=queries,
            judgements=judgements,
            judged=min(self.judged, queries),
        )


@dataclass(frozen=True)
class _Buildable:
    """Describe a collection that `retrobench data fetch` builds."""

    documents: int
    tokens: float
    splits: Mapping[str, tuple[int, int]]  # split -> queries, each with a relevant document, and judgements
    sources: tuple[tuple[str, ...], ...]  # ids of ir_datasets, each followed by the entities to read
    other_files: Mapping[str, int]  # name -> bytes, of files from elsewhere
    basis: str

    def facts(self, name: str, split: str, to_build: bool) -> CollectionFacts:
        queries, judgements = self.splits.get(split, (0, 0))
        return CollectionFacts(
            name=name,
            corpus=name,
            documents=self.documents,
            tokens=self.tokens,
            queries=queries,
            query_tokens=_MSMARCO_QUERY,
            judgements=judgements,
            judged=queries,
            missing=self._missing_files() if to_build else {},
            basis=self.basis,
            to_build=to_build,
        )

    def _missing_files(self) -> dict[str, int]:
        files = dict(self.other_files)
        for dataset_id, *entities in self.sources:
            files |= _missing_files(dataset_id, *entities)
        return files


_MSMARCO_PASSAGE = 80  # tokens
_MSMARCO_QUERY = 9  # tokens
_MSMARCO_BASIS = "MS MARCO: 80 tokens a passage, 9 a query, as in TREC DL's pool of 30,045; titles come on top"
_PUBLISHED = build.titled.PUBLISHED


def _split_counts(split: str) -> tuple[int, int]:
    """Return the published numbers of queries and judgements of a split of MS MARCO."""
    return _PUBLISHED[f"{split} queries"], _PUBLISHED[f"{split} judgements"]


_BUILDABLE = {
    "msmarco-titled": _Buildable(
        documents=_PUBLISHED["passages"],
        tokens=_MSMARCO_PASSAGE,
        splits={split: _split_counts(split) for split in ("train", "dev", "dl19", "dl20")},
        sources=(
            ("msmarco-passage/train", "qrels"),
            ("msmarco-passage/train/triples-v2", "docpairs"),
            ("msmarco-passage/trec-dl-2019", "queries", "qrels"),
            ("msmarco-passage/trec-dl-2020", "queries", "qrels"),
        ),
        other_files={build.titled.ROCKETQA.name: build.titled.ROCKETQA.size},
        basis=_MSMARCO_BASIS,
    ),
    "msmarco-sbert": _Buildable(
        documents=_PUBLISHED["passages"],
        tokens=_MSMARCO_PASSAGE,
        splits={"train": _split_counts("train")},
        sources=(("msmarco-passage/train", "docs", "queries", "qrels"),),
        other_files={build.sbert.NEGATIVES.name: build.sbert.NEGATIVES.size},
        basis=_MSMARCO_BASIS,
    ),
    "wikibook": _Buildable(
        documents=8_300_000,
        tokens=512,
        splits={},
        sources=(),
        other_files={"wikimedia/wikipedia, about": 12 * 10**9, "bookcorpus, about": 3 * 10**9},
        basis="wikibook: 4.25 billion tokens in blocks of 512, as RetroMAE's 8 epochs imply",
    ),
}
# ir_datasets counts all queries of this id, with and without judgements.
_JUDGED_QUERIES = {"msmarco-passage/train": _PUBLISHED["train queries"]}

# Mean words of a document and of a query: Thakur et al. 2021 (arXiv:2104.08663), table 1.
_WORDS = {
    "trec-covid": (160.77, 10.60),
    "nfcorpus": (232.26, 3.30),
    "nq": (78.88, 9.16),
    "hotpotqa": (46.30, 17.61),
    "fiqa": (132.32, 10.77),
    "arguana": (166.80, 192.98),
    "webis-touche2020": (292.37, 6.55),
    "cqadupstack": (129.09, 8.59),
    "quora": (11.44, 9.53),
    "dbpedia-entity": (49.68, 5.39),
    "scidocs": (176.19, 9.38),
    "fever": (84.76, 8.13),
    "climate-fever": (84.76, 20.13),
    "scifact": (213.63, 12.37),
    "msmarco": (55.98, 5.96),
}


def shape_of(name: str, model: Model) -> tuple[Shape, str]:
    """
    Return the shape of a base model, and the assumption behind it, if any.

    Raises RetrobenchError for a model folder without a usable config.json.
    """
    folder = _find_folder(name)
    if model.layers:
        return _random_shape(name, model, folder)
    if folder is not None:
        return _read_shape(name, folder), ""
    if name in HUB:
        return HUB[name], ""
    return BERT_BASE, f"{name}: assumed to be as large as bert-base-uncased"


def _random_shape(name: str, model: Model, folder: Path | None) -> tuple[Shape, str]:
    """Return the shape of a model with random weights, which takes its vocabulary from the tokenizer."""
    vocabulary = _DEFAULT_VOCABULARY
    assumption = f"{name}: a vocabulary of 30,522 words is assumed"
    if folder is not None:
        tokenizer = read_json(folder / "tokenizer.json", FETCH)
        try:
            vocabulary = len(tokenizer["model"]["vocab"]) or _DEFAULT_VOCABULARY
        except (LookupError, TypeError) as error:
            raise RetrobenchError(f"{folder / 'tokenizer.json'} has no vocabulary. Fetch the model again.") from error
        assumption = ""
    return Shape(model.layers, model.hidden, model.intermediate, vocabulary, model.positions), assumption


def _read_shape(name: str, folder: Path) -> Shape:
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        return Shape(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            positions=int(config["max_position_embeddings"]),
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RetrobenchError(
            f"The model folder {name!r} holds no config.json with the model's size ({error}); give the folder of a "
            "transformers model."
        ) from error


def _find_folder(name: str) -> Path | None:
    """Return the folder with the model's files, or None if they are not local."""
    if name in MODELS:
        return shipped_folder(MODELS[name])
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(name, "config.json")
    except ValueError:  # neither a folder nor a valid hub id
        return None
    if isinstance(config, str):
        return Path(config).parent
    return None


def list_downloads(name: str, shape: Shape) -> dict[str, int]:
    """Return the model with its bytes, if it has to be downloaded."""
    if _find_folder(name) is not None:
        return {}
    return {name: 4 * shape.parameters}


def look_up(dataset_id: str, with_queries: bool = True) -> CollectionFacts:
    """
    Return the facts of a dataset, those of its queries only if `with_queries`.

    Raises RetrobenchError for an unknown dataset without local files.
    """
    name, split = _split_id(dataset_id)
    if not with_queries:
        split = ""
    buildable = _BUILDABLE.get(name)
    try:
        dataset = data.load(dataset_id)
    except RetrobenchError:
        if buildable is None:
            raise
        return buildable.facts(name, split, to_build=True)
    if not isinstance(dataset, data.FolderDataset):
        return _catalogued(dataset, with_queries)
    if buildable is not None and _is_large(dataset.folder):
        return buildable.facts(name, split, to_build=False)
    return _count(dataset, name, with_queries)


def _split_id(dataset_id: str) -> tuple[str, str]:
    """Return name and split of a dataset id, whose split is empty without a colon."""
    if ":" not in dataset_id:
        return dataset_id, ""
    name, _, split = dataset_id.rpartition(":")
    return name, split


def _catalogued(dataset: data.Dataset, with_queries: bool) -> CollectionFacts:
    """Return the facts that ir_datasets publishes, or count a dataset whose files are local."""
    counts = catalogue.published(dataset.id)
    corpus = dataset.corpus_id  # the namespace of the documents would do, but ir_datasets' Cranfield cannot say its own
    entities = ("docs", "queries", "qrels") if with_queries else ("docs",)
    missing = _missing_files(dataset.id, *entities)
    if not missing:
        return _count(dataset, corpus, with_queries)
    queries = counts.get("queries", 0)
    judgements = counts.get("qrels", 0)
    lengths = _estimate_lengths(dataset.id)
    return CollectionFacts(
        name=dataset.id,
        corpus=corpus,
        documents=counts["docs"],
        tokens=lengths.document,
        queries=queries,
        query_tokens=lengths.query,
        judgements=judgements,
        judged=_JUDGED_QUERIES.get(dataset.id, min(queries, judgements)),
        missing=missing,
        basis=lengths.basis,
    )


def _missing_files(dataset_id: str, *entities: str) -> dict[str, int]:
    files = catalogue.files(dataset_id, *entities)
    return {file.url: file.bytes or 0 for file in files if not file.at_hand}


def _count(dataset: data.Dataset, corpus: str, with_queries: bool) -> CollectionFacts:
    """Count a local collection; its first texts give the lengths."""
    queries: list[str] = []
    relevant: list[str] = []  # the query of each relevant judgement
    if with_queries:
        queries = [query.text for query in dataset.queries()]
        relevant = [query for query, _, grade in dataset.judgements() if grade > 0]
    texts = (f"{document.title} {document.text}" for document in dataset.documents())
    return CollectionFacts(
        name=dataset.id,
        corpus=corpus,
        documents=dataset.document_count(),
        tokens=_sample_tokens(texts),
        queries=len(queries),
        query_tokens=_sample_tokens(queries),
        judgements=len(relevant),
        judged=len(set(relevant)),
        missing={},
        basis=f"local collections: counted, with {TOKENS} tokens for each word of their first {SAMPLE:,} texts",
    )


def _is_large(folder: Path) -> bool:
    """Return whether counting the lines of the collection would take long."""
    size = sum(file.stat().st_size for file in folder.glob("corpus.*"))
    return size > _MANY_BYTES


def _sample_tokens(texts: Iterable[str]) -> float:
    """Return the mean tokens of the first texts."""
    word_counts = [len(text.split()) for text in islice(texts, SAMPLE)]
    samples = max(1, len(word_counts))
    return SPECIAL + TOKENS * sum(word_counts) / samples


class _Lengths(NamedTuple):
    """Hold mean tokens and their source."""

    document: float
    query: float
    basis: str


def _estimate_lengths(dataset_id: str) -> _Lengths:
    family, _, name = dataset_id.partition("/")
    if family == "msmarco-passage":
        return _Lengths(_MSMARCO_PASSAGE, _MSMARCO_QUERY, _MSMARCO_BASIS)
    document_words, query_words = 100.0, 10.0
    basis = f"{dataset_id}: 100 words a document, 10 a query are assumed"
    collection, _, _ = name.partition("/")
    if family == "beir" and collection in _WORDS:
        document_words, query_words = _WORDS[collection]
        basis = f"BEIR's lengths: {TOKENS} tokens for each word in table 1 of its paper"
    return _Lengths(SPECIAL + TOKENS * document_words, SPECIAL + TOKENS * query_words, basis)
