"""What is known of models and datasets before any of them is here: shapes, counts, lengths, what must be fetched."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from retrobench import data
from retrobench.config import Model
from retrobench.data import MODELS, build, catalogue, shipped_folder
from retrobench.errors import RetrobenchError
from retrobench.plan.arithmetic import BERT_BASE, Shape

__all__ = ["Collection", "base_files", "look", "shape_of"]

HUB = {
    "google-bert/bert-base-uncased": BERT_BASE,
    "bert-base-uncased": BERT_BASE,
    "cross-encoder/ms-marco-MiniLM-L6-v2": Shape(6, 384, 1536, 30522),
}
TOKENS = 1.4  # per word, in bert-base-uncased's vocabulary: 1.24 on ArguAna, 1.36 on MS MARCO, 1.52 on NFCorpus
SPECIAL = 2  # [CLS] and [SEP]
SAMPLE = 5000  # texts that are read of a collection that is here


@dataclass(frozen=True)
class Collection:
    """A dataset as far as its costs go. Tokens are means per text, special ones included, before any cut."""

    name: str
    corpus: str  # the same for datasets that share their documents
    documents: int
    tokens: float
    queries: int
    query_tokens: float
    judgements: int
    judged: int  # queries with a relevant document
    missing: Mapping[str, int]  # address of each file to download -> bytes, 0 where nobody says
    basis: str  # where the lengths come from
    made: bool = False  # is still to be made here, of these files


@dataclass(frozen=True)
class _Known:
    """A collection that `retrobench data fetch` makes, before it is made."""

    documents: int
    tokens: float
    splits: Mapping[str, tuple[int, int]]  # queries, all of them with a relevant document, and judgements
    official: tuple[tuple[str, ...], ...]  # what it takes of ir_datasets: an id and entities
    others: Mapping[str, int]  # what it takes from elsewhere, and bytes
    basis: str

    def collection(self, name: str, split: str, made: bool) -> Collection:
        queries, judgements = self.splits.get(split, (0, 0))
        missing: dict[str, int] = {}
        if made:
            missing |= self.others
            for dataset_id, *entities in self.official:
                missing |= _files(dataset_id, *entities)
        counts = queries, 9, judgements, queries
        return Collection(name, name, self.documents, self.tokens, *counts, missing, self.basis, made)


_MSMARCO = "MS MARCO: 80 tokens a passage, 9 a query, as in TREC DL's pool of 30,045; titles come on top"
_TRAIN = (build.titled.PUBLISHED["train queries"], build.titled.PUBLISHED["train judgements"])
_TITLED = {
    split: (build.titled.PUBLISHED[f"{split} queries"], build.titled.PUBLISHED[f"{split} judgements"])
    for split in ("train", "dev", "dl19", "dl20")
}
_TREC = tuple((f"msmarco-passage/trec-dl-{year}", "queries", "qrels") for year in (2019, 2020))
_MADE = {
    "msmarco-titled": _Known(
        build.titled.PUBLISHED["passages"],
        80,
        _TITLED,
        (("msmarco-passage/train", "qrels"), ("msmarco-passage/train/triples-v2", "docpairs"), *_TREC),
        {build.titled.ROCKETQA.name: build.titled.ROCKETQA.size},
        _MSMARCO,
    ),
    "msmarco-sbert": _Known(
        build.titled.PUBLISHED["passages"],
        80,
        {"train": _TRAIN},
        (("msmarco-passage/train", "docs", "queries", "qrels"),),
        {build.sbert.NEGATIVES.name: build.sbert.NEGATIVES.size},
        _MSMARCO,
    ),
    "wikibook": _Known(
        8_300_000,
        512,
        {},
        (),
        {"wikimedia/wikipedia, about": 12 * 10**9, "bookcorpus, about": 3 * 10**9},
        "wikibook: 4.25 billion tokens in blocks of 512, as RetroMAE's 8 epochs imply",
    ),
}
_JUDGED = {"msmarco-passage/train": _TRAIN[0]}  # ir_datasets counts all queries there, judged or not

# Mean words of documents and queries: Thakur et al. 2021 (arXiv:2104.08663), table 1.
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
    """The shape of a base model, and what had to be assumed of it. RetrobenchError for a folder without config.json."""
    folder = _folder(name)
    if model.layers:
        words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"] if folder else ()
        shape = Shape(model.layers, model.hidden, model.intermediate, len(words) or 30522, model.positions)
        return shape, "" if folder else f"{name}: a vocabulary of 30,522 words is assumed"
    if folder is None:
        return HUB.get(name, BERT_BASE), "" if name in HUB else f"{name}: taken to be as large as bert-base-uncased"
    try:
        read = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        keys = "num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings"
        return Shape(*(int(read[key]) for key in keys)), ""
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RetrobenchError(
            f"The model folder {name!r} holds no config.json that tells its size ({error}); give the folder of a "
            "transformers model."
        ) from error


def _folder(name: str) -> Path | None:
    """Where the model's files are, if they are here."""
    if name in MODELS:
        return shipped_folder(MODELS[name])
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:  # neither a folder nor an id that the hub could have
        found = None
    return Path(found).parent if isinstance(found, str) else None


def base_files(name: str, shape: Shape) -> dict[str, int]:
    """What must be downloaded of a model: nothing of one that is here."""
    return {} if _folder(name) else {name: 4 * shape.parameters}


def look(dataset_id: str, asked: bool = True) -> Collection:
    """What is known of a dataset, its queries only if `asked`. RetrobenchError where it is neither known nor here."""
    name, colon, split = dataset_id.rpartition(":")
    name, split = (name, split if asked else "") if colon else (split, "")
    made = _MADE.get(name)
    try:
        dataset = data.load(dataset_id)
    except RetrobenchError:
        if made is None:
            raise
        return made.collection(name, split, made=True)
    if not isinstance(dataset, data.FolderDataset):
        return _published(dataset, asked)
    if made is not None and _is_large(dataset.folder):
        return made.collection(name, split, made=False)
    return _here(dataset, name, asked)


def _published(dataset: data.Dataset, asked: bool) -> Collection:
    counts = catalogue.published(dataset.id)
    corpus = f"{catalogue.entry(dataset.id).docs_handler().docs_namespace()} {counts.get('docs', '')}"
    missing = _files(dataset.id, *(("docs", "queries", "qrels") if asked else ("docs",)))
    if not missing:
        return _here(dataset, corpus, asked)
    tokens, query_tokens, basis = _lengths(dataset.id)
    queries, judgements = counts.get("queries", 0), counts.get("qrels", 0)
    judged = _JUDGED.get(dataset.id, min(queries, judgements))
    sizes = counts["docs"], tokens, queries, query_tokens, judgements, judged
    return Collection(dataset.id, corpus, *sizes, missing, basis)


def _files(dataset_id: str, *entities: str) -> dict[str, int]:
    return {file.url: file.bytes or 0 for file in catalogue.files(dataset_id, *entities) if not file.at_hand}


def _here(dataset: data.Dataset, corpus: str, asked: bool) -> Collection:
    """A collection that is on this machine: counted, its lengths those of its first texts."""
    tokens = _sampled(f"{document.title} {document.text}" for document in dataset.documents())
    queries = [query.text for query in dataset.queries()] if asked else []
    relevant = [query for query, _, grade in dataset.judgements() if grade > 0] if asked else []
    counts = len(queries), _sampled(queries), len(relevant), len(set(relevant))
    basis = f"what is here: counted, with {TOKENS} tokens for each word of its first {SAMPLE:,} texts"
    return Collection(dataset.id, corpus, dataset.document_count(), tokens, *counts, {}, basis)


def _is_large(folder: Path) -> bool:
    """Whether counting the lines of the collection would take long."""
    return sum(file.stat().st_size for file in folder.glob("corpus.*")) > 10**9


def _sampled(texts: Iterable[str]) -> float:
    words = [len(text.split()) for text in islice(texts, SAMPLE)]
    return SPECIAL + TOKENS * sum(words) / max(1, len(words))


def _lengths(dataset_id: str) -> tuple[float, float, str]:
    """Mean tokens of documents and of queries, and where they come from."""
    family, _, rest = dataset_id.partition("/")
    if family == "msmarco-passage":
        return 80, 9, _MSMARCO
    if family == "beir" and (name := rest.split("/")[0]) in _WORDS:
        document, query = (SPECIAL + TOKENS * words for words in _WORDS[name])
        return document, query, f"BEIR's lengths: {TOKENS} tokens for each word in table 1 of its paper"
    return SPECIAL + 100 * TOKENS, SPECIAL + 10 * TOKENS, f"{dataset_id}: 100 words a document, 10 a query are assumed"
