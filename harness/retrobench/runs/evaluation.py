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

from retrobench.core import bar, say
from retrobench.data import Dataset, Document, load, rules
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
        """A line for each setting and dataset, means of complete groups, and where the runs lie."""
        settings = [*self.settings.lines(), ("titles", TITLES, "default")]
        parts = [
            f"Model {self.model}, files {self.key}",
            _laid([["setting", "value", "from"], *map(list, settings)], 3),
            self._table(),
        ]
        notes = [f"{name}: {scored.note}" for name, scored in self.scored.items() if scored.note]
        for name, how in self.searched.items():
            if "index" in how:
                notes.append(f"{name}: approximate search, " + ", ".join(f"{what} {how[what]}" for what in how))
        runs = _laid([["run of", ""], *([name, scored.run] for name, scored in self.scored.items())], 2)
        return "\n\n".join([*parts, *(["\n".join(notes)] if notes else []), runs])

    def _table(self) -> str:
        names = list(dict.fromkeys(name for scored in self.scored.values() for name in scored.measures))
        rows = [["dataset", "queries", "missing", "self-hits removed", "ties", *names]]
        for name, scored in self.scored.items():
            counts = (scored.queries, scored.missing, scored.self_hits_removed, scored.ties)
            rows.append([name, *(f"{count:,}" for count in counts), *_values(scored.measures, names)])
        rows += [[name, "", "", "", "", *_values(means, names)] for name, means in self.averages.items()]
        return _laid(rows, 1)


def _values(measures: dict[str, float], names: Sequence[str]) -> list[str]:
    return [f"{measures[name]:.4f}" if name in measures else "" for name in names]


def _laid(rows: Sequence[Sequence[str]], texts: int) -> str:
    """Rows under their header, in columns: the first `texts` to the left, the rest to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    places = [*[str.ljust] * texts, *[str.rjust] * (len(widths) - texts)]
    lines = ([put(cell, width) for put, cell, width in zip(places, row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


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
    wanted = {dataset.id: dataset for name in datasets for dataset in map(load, rules.expand(name))}
    check_index(index)
    check_published(model, choices)
    for dataset in wanted.values():
        _look(dataset)
    encoder = load_published(model, choices)
    if index != EXACT:
        check_index(index, encoder.width)
    for name, value, source in encoder.settings.lines():
        say(f"{name}: {value} ({source})")
    kept = Store(store or default_root())
    scored, how = {}, {}
    for name, dataset in wanted.items():
        asked = tuple(measures) or dataset.rule.measures
        run = _run(encoder, kept, dataset, max(DEPTH, deepest(asked) or DEPTH), index)
        how[name] = search_facts(run.path)
        queries, ids, found = read_run(run.path)
        scored[name] = score_hits(str(run.path / "run.trec"), dataset, queries, ids, found, asked)
    averages = rules.averages({name: of.measures for name, of in scored.items()})
    return Evaluated(model, encoder.key, encoder.settings, scored, averages, how)


def _look(dataset: Dataset) -> None:
    """Open what will be read, which also downloads it: better now than after hours of other datasets."""
    parts = {"judgements": dataset.judgements(), "queries": dataset.queries(), "documents": dataset.documents()}
    for what, rows in parts.items():
        if next(iter(rows), None) is None:
            raise RetrobenchError(
                f"Dataset {dataset.id!r} holds no {what}; there is nothing to score. Check its files."
            )


def _run(encoder: PublishedEncoder, store: Store, dataset: Dataset, depth: int, index: str) -> Artifact:
    """The best `depth` documents of every query, as `stages.search.write_run` writes them."""
    asked, passages = (_embedded(encoder, store, dataset, kind) for kind in ("query", "passage"))
    drop_self = dataset.rule.drop_self

    def make(folder: Path) -> dict[str, float]:
        searcher = Searcher(asked.path, passages.path, index=index)
        retrieve(folder, searcher, depth, dataset.id, Path(encoder.name).name, drop_self)
        return {"queries": float(len(searcher.query_ids)), "documents": float(len(searcher.ids))}

    recipe = {"depth": depth, "drop_self": drop_self, "engine": EXACT if index == EXACT else f"faiss {index}"}
    together, label = index == EXACT, f"search {dataset.id}"
    return store.ensure("retrieve", recipe, [asked, passages], make, together=together, label=label)


def _embedded(encoder: PublishedEncoder, store: Store, dataset: Dataset, kind: Kind) -> Artifact:
    """The vectors of a dataset's queries or passages; those of a collection are the same for all its query sets."""
    label = f"embed {dataset.id} ({'queries' if kind == 'query' else 'passages'})"

    def make(folder: Path) -> dict[str, float]:
        total = dataset.query_count() if kind == "query" else dataset.document_count()
        with bar(label, total, "texts") as advance:
            return encoder.write(folder, _Texts(dataset, kind), total, kind, advance, {"texts": texts})

    texts = dataset.queries_fingerprint() if kind == "query" else dataset.corpus_fingerprint()
    recipe = {**encoder.recipe(kind), "texts": texts, "titles": TITLES}
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
