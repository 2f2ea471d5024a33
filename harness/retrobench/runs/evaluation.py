"""
Scores of a published encoder on any dataset, with the settings of its publication.

* evaluate    return scores by dataset and means of complete groups.
* Evaluated   the scores, as JSON and as text.
* Choices     settings on the command line that replace the model's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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

DEPTH = 1000  # documents per query in every stored run, so that most measures need no second search
TITLES = "joined to the text by a space"  # BEIR's convention


@dataclass(frozen=True)
class Evaluated:
    """Scores by dataset id, and means by the name of their group."""

    model: str
    key: str  # hash of its files
    settings: Settings
    scored: dict[str, Scored]
    averages: dict[str, dict[str, float]]
    searched: dict[str, dict[str, Any]]  # facts about the search, by dataset id

    def json(self) -> str:
        """Return the document of `evaluate --json`."""
        document = {
            "model": self.model,
            "settings": self.settings.values(),
            "datasets": {name: scored.document(per_query=False) for name, scored in self.scored.items()},
            "averages": self.averages,
        }
        approximate = self._approximate_searches()
        if approximate:
            document["searched"] = approximate
        return json.dumps(document, indent=2, ensure_ascii=False)

    def text(self) -> str:
        """Return the settings, the scores of datasets and complete groups, notes, and the paths of the runs."""
        paragraphs = [f"Model {self.model}, files {self.key}"]
        paragraphs.append(self._settings().text())
        paragraphs.append(self._scores().text())
        notes = self._notes()
        if notes:
            paragraphs.append("\n".join(notes))
        runs = [(name, scored.run) for name, scored in self.scored.items()]
        paragraphs.append(Table([Column("run of"), Column("")], runs).text())
        return "\n\n".join(paragraphs)

    def _approximate_searches(self) -> dict[str, dict[str, Any]]:
        return {name: search for name, search in self.searched.items() if "index" in search}

    def _settings(self) -> Table:
        columns = [Column("setting"), Column("value"), Column("from")]
        return Table(columns, [*self.settings.lines(), ("titles", TITLES, "default")])

    def _scores(self) -> Table:
        """Return a row for each dataset and mean. The cell of an absent measure is empty."""
        names: dict[str, None] = {}
        for scored in self.scored.values():
            names |= dict.fromkeys(scored.measures)
        measures = list(names)
        columns = [Column("dataset")]
        columns += [Column(name, "right", "number") for name in ("queries", "missing", "self-hits removed", "ties")]
        columns += [Column(measure, "right", "measure") for measure in measures]
        rows = []
        for name, scored in self.scored.items():
            counts = (scored.queries, scored.missing, scored.self_hits_removed, scored.ties)
            texts = [f"{count:,}" for count in counts]
            rows.append([name, *texts, *_format(scored.measures, measures)])
        for name, means in self.averages.items():
            rows.append([name, "", "", "", "", *_format(means, measures)])
        return Table(columns, rows)

    def _notes(self) -> list[str]:
        notes = [f"{name}: {scored.note}" for name, scored in self.scored.items() if scored.note]
        for name, search in self._approximate_searches().items():
            facts = ", ".join(f"{fact} {value}" for fact, value in search.items())
            notes.append(f"{name}: approximate search, {facts}")
        return notes


def _format(scores: dict[str, float], measures: Sequence[str]) -> list[str]:
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
    Score the encoder `model`, a folder or hub id, on datasets and groups of datasets (`rules.expand`).

    Without `measures`, each dataset's rule names them. `index` is "exact" or a factory string of faiss. The store keeps
    vectors and runs under the model's files, its settings and the texts.

    RetrobenchError for an unknown dataset, measure or choice, and for an empty dataset, before the model is loaded. For
    an unusable model before anything is written.
    """
    for name in measures:
        canonical(name)
    check_index(index)
    check_published(model, choices)
    members: list[str] = []
    for name in datasets:
        members += rules.expand(name)
    collections = open_collections(dict.fromkeys(members))
    for collection in collections.values():
        _check_dataset(collection.dataset)
    encoder = load_published(model, choices)
    if index != EXACT:
        check_index(index, encoder.width)
    for name, value, source in encoder.settings.lines():
        say(f"{name}: {value} ({source})")
    runner = _Runner(encoder, Store(store or default_root()), index)
    scored = {}
    searched = {}
    for name, collection in collections.items():
        dataset = collection.dataset
        dataset_measures = tuple(measures) or dataset.rule.measures
        depth = max(DEPTH, deepest(dataset_measures) or DEPTH)
        run = runner.search(collection, depth)
        searched[name] = search_facts(run.path)
        query_ids, document_ids, ranked = read_run(run.path)
        file = str(run.path / "run.trec")
        scored[name] = score_hits(file, dataset, query_ids, document_ids, ranked, dataset_measures)
    averages = rules.averages({name: result.measures for name, result in scored.items()})
    return Evaluated(model, encoder.key, encoder.settings, scored, averages, searched)


def _check_dataset(dataset: Dataset) -> None:
    """Download and open the dataset, so that a fault is reported before hours of work on other datasets."""
    contents = {"judgements": dataset.judgements(), "queries": dataset.queries(), "documents": dataset.documents()}
    for name, rows in contents.items():
        if next(iter(rows), None) is None:
            raise RetrobenchError(
                f"Dataset {dataset.id!r} holds no {name}; there is nothing to score. Check its files."
            )


@dataclass(frozen=True)
class _Runner:
    """An encoder, and the store of its vectors and runs."""

    encoder: PublishedEncoder
    store: Store
    index: str
    passages: dict[Corpus, Artifact] = field(default_factory=dict)  # vectors; a corpus may have several query sets

    def search(self, collection: Collection, depth: int) -> Artifact:
        """Return a run of the best `depth` documents of every query."""
        dataset = collection.dataset
        drop_self = dataset.rule.drop_self
        corpus = collection.corpus
        if corpus not in self.passages:
            self.passages[corpus] = self._embed(_Texts(dataset, "passage"), corpus.count, corpus.hash)
        passages = self.passages[corpus]
        queries = self._embed(_Texts(dataset, "query"), dataset.query_count(), collection.queries_hash)

        def make(folder: Path) -> dict[str, float]:
            searcher = Searcher(queries.path, passages.path, index=self.index)
            retrieve(folder, searcher, depth, dataset.id, Path(self.encoder.name).name, drop_self)
            return {"queries": float(len(searcher.query_ids)), "documents": float(len(searcher.ids))}

        engine = EXACT if self.index == EXACT else f"faiss {self.index}"
        return self.store.ensure(
            "retrieve",
            {"depth": depth, "drop_self": drop_self, "engine": engine},
            [queries, passages],
            make,
            together=self.index == EXACT,
            label=f"search {dataset.id}",
        )

    def _embed(self, texts: _Texts, count: int, text_hash: str) -> Artifact:
        """Return the vectors of `count` texts."""
        plural = "queries" if texts.kind == "query" else "passages"
        label = f"embed {texts.dataset.id} ({plural})"

        def make(folder: Path) -> dict[str, float]:
            with bar(label, count, "texts") as advance:
                return self.encoder.write(folder, texts, count, texts.kind, advance, {"texts": text_hash})

        recipe = {**self.encoder.recipe(texts.kind), "texts": text_hash, "titles": TITLES}
        return self.store.ensure("embed", recipe, [], make, resumes=True, together=True, label=label)


@dataclass(frozen=True)
class _Texts:
    """Ids and texts, iterable more than once."""

    dataset: Dataset
    kind: Kind

    def __iter__(self) -> Iterator[tuple[str, str]]:
        if self.kind == "query":
            for query in self.dataset.queries():
                yield query.id, query.text
            return
        for document in self.dataset.documents():
            yield document.id, _join_title(document)


def _join_title(document: Document) -> str:
    if not document.title:
        return document.text
    return f"{document.title} {document.text}".strip()
