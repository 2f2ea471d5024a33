"""
Any encoder on any dataset, exactly as it was published.

* evaluate(model, datasets, ...) -> Evaluated   scores by dataset and means of complete groups; as JSON and as text
* Choices                                       what the command line says in place of the model's files
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrobench.core import Column, Table, bar, say
from retrobench.data import Collection, Corpus, Dataset, Document, open_collections, rules
from retrobench.errors import RetrobenchError
from retrobench.retrieval import (
    EXACT,
    Choices,
    Kind,
    PublishedEncoder,
    Searcher,
    Settings,
    check_index,
    check_published,
    load_published,
    retrieve,
    search_facts,
)
from retrobench.scoring import Scored, canonical, deepest, read_run, score_hits
from retrobench.store import Artifact, Store, default_root

__all__ = ["Choices", "Evaluated", "evaluate"]

DEPTH = 1000  # of every run that is kept, so that most measures need no second search
TITLES = "joined to the text by a space"  # BEIR's convention


@dataclass(frozen=True)
class Evaluated:
    """What was measured: scores by dataset id, means by the name of their group."""

    model: str
    key: str  # of its files
    settings: Settings
    scored: dict[str, Scored]
    averages: dict[str, dict[str, float]]
    searched: dict[str, dict[str, Any]]  # how, by dataset id

    def json(self) -> str:
        """The document of `evaluate --json`."""
        document = {
            "model": self.model,
            "settings": self.settings.values(),
            "datasets": {name: scored.document(per_query=False) for name, scored in self.scored.items()},
            "averages": self.averages,
        }
        approximate = {name: how for name, how in self.searched.items() if "index" in how}
        document |= {"searched": approximate} if approximate else {}
        return json.dumps(document, indent=2, ensure_ascii=False)

    def text(self) -> str:
        """Return the settings, the scores of datasets and complete groups, notes, and where the runs are."""
        parts = [f"Model {self.model}, files {self.key}", self._settings().text(), self._scores().text()]
        notes = self._notes()
        if notes:
            parts.append("\n".join(notes))
        runs = [(name, scored.run) for name, scored in self.scored.items()]
        return "\n\n".join([*parts, Table([Column("run of"), Column("")], runs).text()])

    def _settings(self) -> Table:
        columns = [Column("setting"), Column("value"), Column("from")]
        return Table(columns, [*self.settings.lines(), ("titles", TITLES, "default")])

    def _scores(self) -> Table:
        """Return a row for each dataset and mean, empty where a measure was not asked for."""
        measures = list(dict.fromkeys(name for scored in self.scored.values() for name in scored.measures))
        columns = [Column("dataset")]
        columns += [Column(name, "right", "number") for name in ("queries", "missing", "self-hits removed", "ties")]
        columns += [Column(measure, "right", "measure") for measure in measures]
        rows = []
        for name, scored in self.scored.items():
            counts = (scored.queries, scored.missing, scored.self_hits_removed, scored.ties)
            rows.append([name, *(f"{count:,}" for count in counts), *_values(scored.measures, measures)])
        for name, means in self.averages.items():
            rows.append([name, "", "", "", "", *_values(means, measures)])
        return Table(columns, rows)

    def _notes(self) -> list[str]:
        notes = [f"{name}: {scored.note}" for name, scored in self.scored.items() if scored.note]
        for name, search in self.searched.items():
            if "index" in search:
                facts = ", ".join(f"{fact} {value}" for fact, value in search.items())
                notes.append(f"{name}: approximate search, {facts}")
        return notes


def _values(scores: dict[str, float], measures: Sequence[str]) -> list[str]:
    return [f"{scores[measure]:.4f}" if measure in scores else "" for measure in measures]


def evaluate(
    model: str,
    datasets: Sequence[str],
    measures: Sequence[str],
    choices: Choices,
    store: Path | None = None,
    index: str = EXACT,
) -> Evaluated:
    """
    Score the encoder `model`, a folder or hub id, on datasets and groups of them (`rules.expand`).

    Without `measures` each dataset's rule names them; `index` is "exact" or a factory string of faiss.
    Vectors and runs are kept in the store, by the model's files, its settings and the texts: what is there is read.
    RetrobenchError for an unknown dataset, measure or choice, and for one without documents, queries or judgements,
    before the model is loaded; for a model that cannot be run, before anything is written.
    """
    for name in measures:
        canonical(name)
    check_index(index)
    check_published(model, choices)
    collections = open_collections({member: None for name in datasets for member in rules.expand(name)})
    for collection in collections.values():
        _check(collection.dataset)
    encoder = load_published(model, choices)
    if index != EXACT:
        check_index(index, encoder.width)
    for name, value, source in encoder.settings.lines():
        say(f"{name}: {value} ({source})")
    artifacts = Store(store or default_root())
    passages: dict[Corpus, Artifact] = {}  # of a corpus, the same for all its query sets
    scored, searched = {}, {}
    for name, collection in collections.items():
        dataset = collection.dataset
        if collection.corpus not in passages:
            passages[collection.corpus] = _embed_passages(encoder, artifacts, collection)
        queries = _embed_queries(encoder, artifacts, collection)
        dataset_measures = tuple(measures) or dataset.rule.measures
        depth = max(DEPTH, deepest(dataset_measures) or DEPTH)
        run = _search(encoder, artifacts, dataset, (queries, passages[collection.corpus]), depth, index)
        searched[name] = search_facts(run.path)
        query_ids, document_ids, ranked = read_run(run.path)
        file = str(run.path / "run.trec")
        scored[name] = score_hits(file, dataset, query_ids, document_ids, ranked, dataset_measures)
    averages = rules.averages({name: result.measures for name, result in scored.items()})
    return Evaluated(model, encoder.key, encoder.settings, scored, averages, searched)


def _check(dataset: Dataset) -> None:
    """Open the dataset, which also downloads it: a fault is told before hours of work on other datasets."""
    parts = {"judgements": dataset.judgements(), "queries": dataset.queries(), "documents": dataset.documents()}
    for name, rows in parts.items():
        if next(iter(rows), None) is None:
            raise RetrobenchError(
                f"Dataset {dataset.id!r} holds no {name}; there is nothing to score. Check its files."
            )


def _search(
    encoder: PublishedEncoder,
    store: Store,
    dataset: Dataset,
    vectors: tuple[Artifact, Artifact],
    depth: int,
    index: str,
) -> Artifact:
    """Return the best `depth` documents of every query; `vectors` are of queries and of passages."""
    queries, passages = vectors
    drop_self = dataset.rule.drop_self

    def make(folder: Path) -> dict[str, float]:
        searcher = Searcher(queries.path, passages.path, index=index)
        retrieve(folder, searcher, depth, dataset.id, Path(encoder.name).name, drop_self)
        return {"queries": float(len(searcher.query_ids)), "documents": float(len(searcher.ids))}

    recipe = {"depth": depth, "drop_self": drop_self, "engine": EXACT if index == EXACT else f"faiss {index}"}
    together, label = index == EXACT, f"search {dataset.id}"
    return store.ensure("retrieve", recipe, [queries, passages], make, together=together, label=label)


def _embed_queries(encoder: PublishedEncoder, store: Store, collection: Collection) -> Artifact:
    total = collection.dataset.query_count()
    return _embed(encoder, store, _Texts(collection.dataset, "query"), total, collection.queries_hash)


def _embed_passages(encoder: PublishedEncoder, store: Store, collection: Collection) -> Artifact:
    corpus = collection.corpus
    return _embed(encoder, store, _Texts(collection.dataset, "passage"), corpus.count, corpus.hash)


def _embed(encoder: PublishedEncoder, store: Store, texts: _Texts, total: int, text_hash: str) -> Artifact:
    """Return the vectors of `total` texts."""
    kind = texts.kind
    label = f"embed {texts.dataset.id} ({'queries' if kind == 'query' else 'passages'})"

    def make(folder: Path) -> dict[str, float]:
        with bar(label, total, "texts") as advance:
            return encoder.write(folder, texts, total, kind, advance, {"texts": text_hash})

    recipe = {**encoder.recipe(kind), "texts": text_hash, "titles": TITLES}
    return store.ensure("embed", recipe, [], make, resumes=True, together=True, label=label)


@dataclass(frozen=True)
class _Texts:
    """Ids and texts, as often as they are asked for."""

    dataset: Dataset
    kind: Kind

    def __iter__(self) -> Iterator[tuple[str, str]]:
        if self.kind == "query":
            return ((query.id, query.text) for query in self.dataset.queries())
        return ((document.id, _passage(document)) for document in self.dataset.documents())


def _passage(document: Document) -> str:
    return f"{document.title} {document.text}".strip() if document.title else document.text
