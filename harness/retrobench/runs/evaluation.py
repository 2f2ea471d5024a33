"""
Scores of an encoder on any dataset, with the settings of its publication or of its training here.

* evaluate    return scores by dataset and means of complete groups.
* Evaluated   the scores, as JSON and as text.
* Choices     settings on the command line that replace the model's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrobench.core import Column, Table, bar, processes, say
from retrobench.data import Collection, Corpus, Dataset, groups, open_collections
from retrobench.errors import RetrobenchError
from retrobench.retrieval import (
    EXACT,
    TITLES,
    Choices,
    Kind,
    PublishedEncoder,
    Searcher,
    Settings,
    TrainedEncoder,
    check_index,
    check_published,
    check_trained,
    is_trained,
    load_published,
    load_trained,
    retrieve,
    search_facts,
)
from retrobench.scoring import Scored, canonical, deepest, read_run, score_hits, write_metadata
from retrobench.store import Artifact, Store, default_root

__all__ = ["Choices", "Evaluated", "evaluate"]

DEPTH = 1000  # documents per query in every stored run, so that most measures need no second search


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
        lines = self.settings.lines()
        if "titles" not in self.settings.values():
            lines.append(("titles", TITLES, "default"))
        return Table(columns, lines)

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
        notes = []
        for name, scored in self.scored.items():
            rules = [f"{rule}." for rule in scored.rules]
            sentences = [*rules, *scored.dangling(), *scored.bounds_in_words(), scored.note]
            notes += [f"{name}: {sentence}" for sentence in sentences if sentence]
        for group, missing in groups.incomplete(self.scored).items():
            notes.append(f"{group}: no mean, because {len(missing)} members are missing: {', '.join(missing)}")
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
    bounds: bool = False,
) -> Evaluated:
    """
    Score the encoder `model`, a folder or hub id, on datasets and groups of datasets (`groups.expand`).

    A folder that `run` fine-tuned is read as its row was scored; any other model as its files say.

    Without `measures`, each dataset's rule names them. `index` is "exact" or a factory string of faiss. The store keeps
    vectors and runs under the model's files, its settings and the texts. With `bounds`, the measures are computed
    without unjudged hits too.

    RetrobenchError for an unknown dataset, measure or choice, and for an empty dataset, before the model is loaded. For
    an unusable model before anything is written.
    """
    for name in measures:
        canonical(name)
    check_index(index)
    folder = Path(model).expanduser()
    if is_trained(folder):
        check_trained(folder, choices)
    else:
        check_published(model, choices)
    members: list[str] = []
    for name in datasets:
        members += groups.expand(name)
    collections = open_collections(dict.fromkeys(members))
    for collection in collections.values():
        _check_dataset(collection)
    encoder = _load(model, folder, choices)
    if index != EXACT:
        if encoder.settings.values().get("terms"):
            raise RetrobenchError(
                f"--index is {index!r}, which is for dense vectors, and {model} has terms. Leave it out."
            )
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
        scored[name] = score_hits(file, dataset, query_ids, document_ids, ranked, dataset_measures, bounds=bounds)
    averages = groups.averages({name: result.measures for name, result in scored.items()})
    return Evaluated(model, encoder.key, encoder.settings, scored, averages, searched)


def _load(model: str, folder: Path, choices: Choices) -> PublishedEncoder | TrainedEncoder:
    """Load an encoder: as it was trained here, or as its publication says."""
    if is_trained(folder):
        return load_trained(folder, choices)
    return load_published(model, choices)


def _check_dataset(collection: Collection) -> None:
    """Download and read the dataset, so that a fault is reported before hours of work on other datasets."""
    dataset = collection.dataset
    contents = {"judgements": dataset.judgements(), "queries": dataset.queries(), "documents": dataset.documents()}
    for name, rows in contents.items():
        if next(iter(rows), None) is None:
            raise RetrobenchError(
                f"Dataset {dataset.id!r} holds no {name}; there is nothing to score. Check its files."
            )
    collection.check()


@dataclass(frozen=True)
class _Runner:
    """An encoder, and the store of its vectors and runs."""

    encoder: PublishedEncoder | TrainedEncoder
    store: Store
    index: str
    passages: dict[Corpus, Artifact] = field(default_factory=dict)  # vectors; a corpus may have several query sets

    def search(self, collection: Collection, depth: int) -> Artifact:
        """Return a run of the best `depth` documents of every query."""
        dataset = collection.dataset
        exclusions = dataset.exclusions()
        corpus = collection.corpus
        if corpus not in self.passages:
            self.passages[corpus] = self._embed(dataset, "passage", corpus.count, corpus.hash)
        passages = self.passages[corpus]
        queries = self._embed(dataset, "query", dataset.query_count(), collection.queries_hash)

        engine = EXACT if self.index == EXACT else f"faiss {self.index}"

        def make(folder: Path) -> dict[str, float]:
            searcher = Searcher(queries.path, passages.path, self.encoder.scale, self.index)
            tag = Path(self.encoder.name).name
            retrieve(folder, searcher, depth, dataset.id, tag, exclusions)
            if processes.leads():
                hashes = {"corpus": corpus.hash, "queries": collection.queries_hash}
                method = {"name": tag, "settings": self.encoder.settings.values(), "depth": depth, "engine": engine}
                write_metadata(folder, tag, dataset, method, hashes, {})
            return {"queries": float(len(searcher.query_ids)), "documents": float(len(searcher.ids))}

        return self.store.ensure(
            "retrieve",
            {"depth": depth, "engine": engine, "scale": self.encoder.scale, **exclusions.settings()},
            [queries, passages],
            make,
            together=self.index == EXACT,
            label=f"search {dataset.id}",
        )

    def _embed(self, dataset: Dataset, kind: Kind, count: int, text_hash: str) -> Artifact:
        """Return the vectors of the `count` queries or documents of a dataset."""
        plural = "queries" if kind == "query" else "passages"
        label = f"embed {dataset.id} ({plural})"
        texts: Iterable[Any] = self.encoder.texts(dataset, kind)

        def make(folder: Path) -> dict[str, float]:
            with bar(label, count, "texts") as advance:
                return self.encoder.write(folder, texts, count, kind, advance, {"texts": text_hash})

        recipe = {**self.encoder.recipe(kind), "texts": text_hash}
        return self.store.ensure("embed", recipe, [], make, resumes=True, together=True, label=label)
