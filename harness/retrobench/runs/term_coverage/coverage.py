"""
Term coverage of encoders: measured text by text, kept in the store, and beside the rows for rows.

* coverage          measure rows and models on datasets
* Covered           the records, as JSON and as text
* CoverageChoices   options of the command line
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from retrobench.core import provenance, retrobench_version
from retrobench.data import Collection, open_collections
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import (
    ABOVE,
    COVERAGE_FILE,
    LESS,
    CoverageRecord,
    append_coverage,
    coverage_text,
    find_row,
    rows_folder,
)
from retrobench.model import load_tokenizer, load_with_head
from retrobench.retrieval import Kind, Texts, draw_texts, measure_encoder, word_groups
from retrobench.runs.term_coverage.encoders import Target, control_row, open_model, open_row
from retrobench.scoring import CUTOFFS, bootstrap_mean
from retrobench.store import Source, Store, default_root

__all__ = ["CoverageChoices", "Covered", "coverage"]

REVISION = 2  # increased when equal settings begin to give other values
FILE = "values.safetensors"
ROW = re.compile(r"[0-9a-f]{4,}|.*:.*")  # a row's id or TRACK:ENTRANT:SEED, which no hub id is

Values = Mapping[str, np.ndarray]  # "PROJECTION/MEASURE" -> [n]


@dataclass(frozen=True)
class CoverageChoices:
    """Options of the command line. The last three are for models, since a row states its own."""

    queries: bool = False  # instead of documents
    pooling: str | None = None
    max_length: int | None = None
    head: str | None = None


@dataclass(frozen=True)
class Covered:
    """The measured records, and the file that keeps those of rows."""

    records: tuple[CoverageRecord, ...]
    files: tuple[Path, ...]

    def json(self) -> str:
        """Return the array of `coverage --json`."""
        return json.dumps([asdict(record) for record in self.records], indent=2, ensure_ascii=False)

    def text(self) -> str:
        """Return tables, and the files of the records."""
        return "\n\n".join([coverage_text(self.records), *(f"Kept in {file}." for file in self.files)])


def coverage(
    models: Sequence[str],
    datasets: Sequence[str],
    choices: CoverageChoices,
    store: Path | None = None,
    leaderboard: Path | None = None,
) -> Covered:
    """
    Measure the term coverage of rows and models on datasets.

    A model is a row's name, a folder or a hub id. A row is measured before and after fine-tuning, beside the row of
    `mlm` with its track and seed, and its record is kept in `coverage.jsonl` of the track.

    RetrobenchError for an unknown model or dataset, and for an encoder that is not in the store.
    """
    root = (store or default_root()).expanduser().absolute()
    targets = [_open(model, choices, root, leaderboard) for model in models]
    collections = open_collections(dict.fromkeys(datasets))
    records = []
    files: dict[Path, None] = {}
    with TemporaryDirectory() as tokens:
        measurer = _Measurer(Store(root), "query" if choices.queries else "passage", Path(tokens))
        for collection in collections.values():
            for target, control in targets:
                record = measurer.record(collection, target, control)
                records.append(record)
                if target.row is not None:
                    folder = rows_folder(target.row.track, leaderboard)
                    append_coverage(folder, record)
                    files[folder / COVERAGE_FILE] = None
    return Covered(tuple(records), tuple(files))


def _open(model: str, choices: CoverageChoices, store: Path, leaderboard: Path | None) -> tuple[Target, Target | None]:
    """Return a row or model, and the row of `mlm` beside a row."""
    if Path(model).expanduser().is_dir() or not ROW.fullmatch(model):
        return _open_model(model, choices), None
    folder, line = find_row(model, leaderboard)
    given = {"--pooling": choices.pooling, "--max-length": choices.max_length, "--head": choices.head}
    for option, value in given.items():
        if value is not None:
            raise RetrobenchError(f"{option} is {value}, and {model} is a row, which states its own. Leave it out.")
    assert line.row is not None, "find_row returns only lines with a row"
    target = open_row(folder, line.row, store)
    control = control_row(folder, line.row)
    if control is None or control.id == line.row.id:
        return target, None
    return target, open_row(folder, control, store)


def _open_model(model: str, choices: CoverageChoices) -> Target:
    pooling = choices.pooling or "cls"
    if pooling not in ("cls", "mean"):
        raise RetrobenchError(f"--pooling must be cls or mean here, got {pooling!r}.")
    return open_model(model, pooling, choices.max_length, choices.head)


@dataclass
class _Measurer:
    """The store of values by text, and the tokenised texts of datasets."""

    store: Store
    kind: Kind
    tokens: Path  # a folder for tokenised texts
    texts: dict[tuple[Any, ...], Texts] = field(default_factory=dict)

    def record(self, collection: Collection, target: Target, control: Target | None) -> CoverageRecord:
        """Return the record of a target on a dataset."""
        measures: dict[str, dict[str, Any]] = {}
        facts: dict[str, Any] = {}
        for state, encoder in target.encoders.items():
            values, facts = self._values(collection, target, encoder)
            controls: Values = {}
            if control is not None:
                controls, _ = self._values(collection, control, control.encoders[state])
            measures[state] = dict(_summarise(values, controls))
        row = target.row
        name = row.id if row else target.name
        return CoverageRecord(
            row=name,
            entrant=row.entrant if row else target.name,
            representation=row.representation if row else "",
            seed=row.seed if row else None,
            dataset=collection.id,
            kind=self.kind,
            vector=target.vector,
            encoders={state: f"{encoder.stage}/{encoder.key}" for state, encoder in target.encoders.items()},
            measures=measures,
            control=control.row.id if control and control.row else "",
            version=retrobench_version(),
            commit=provenance.commit(),
            command=self._command(name, collection.id),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            **facts,
        )

    def _command(self, name: str, dataset: str) -> str:
        words = ["retrobench", "coverage", name, "--dataset", dataset]
        if self.kind == "query":
            words.append("--queries")
        return shlex.join(words)

    def _values(self, collection: Collection, target: Target, encoder: Source) -> tuple[Values, dict[str, Any]]:
        """Return the values of an encoder by text, and facts about the texts, from the store where it has them."""
        reading = target.reading
        max_length = reading.query_length if self.kind == "query" else reading.passage_length
        texts_hash = collection.queries_hash if self.kind == "query" else collection.corpus.hash
        recipe = {
            "revision": REVISION,
            "kind": self.kind,
            "texts": texts_hash,
            "max_length": max_length,
            "titles": reading.titles,
            "vector": target.vector,
        }
        sources = [encoder]
        if target.base is not None:
            sources.append(target.base)

        def make(folder: Path) -> None:
            self._measure(folder, collection, target, encoder, max_length)

        label = f"coverage of {target.name} ({encoder.stage}) on {collection.id}"
        entry = self.store.ensure("coverage", recipe, sources, make, label=label)
        facts = json.loads((entry.path / "facts.json").read_text("utf-8"))
        return load_file(entry.path / FILE), {**facts, "max_length": max_length, "corpus": texts_hash}

    def _measure(self, folder: Path, collection: Collection, target: Target, encoder: Source, max_length: int) -> None:
        """Write the values of an encoder by text into a folder."""
        tokenizer = load_tokenizer(encoder.path)
        texts = self._texts(collection, tokenizer, target.reading.titles, max_length)
        backbone, has_head = load_with_head(encoder.path)
        base = load_with_head(target.base.path)[0] if target.base is not None else None
        groups = word_groups(texts, tokenizer)
        save_file(measure_encoder(backbone, has_head, base, target.vector, texts, groups), folder / FILE)
        (folder / "facts.json").write_text(json.dumps(_facts(texts)), encoding="utf-8")

    def _texts(self, collection: Collection, tokenizer: Any, titles: Any, max_length: int) -> Texts:
        """Return the tokenised texts of a dataset. Encoders with one tokenizer and one reading share them."""
        key = (collection.id, tokenizer.backend_tokenizer.to_str(), titles, max_length)
        if key not in self.texts:
            folder = self.tokens / str(len(self.texts))
            folder.mkdir()
            rows = draw_texts(collection, self.kind)
            self.texts[key] = Texts.write(folder, rows, tokenizer, titles, max_length)
        return self.texts[key]


def _facts(texts: Texts) -> dict[str, Any]:
    """Return facts about the measured texts that have words."""
    sizes = np.array([len(bag) for bag in texts.bags[: texts.measured] if len(bag)])
    words = float(sizes.mean())
    ceilings = {}
    for cutoff in CUTOFFS:
        ceilings[f"coverage@{cutoff}"] = float(np.minimum(1, cutoff / sizes).mean())
    return {"texts": len(sizes), "words": words, "chance": words / int(texts.is_word.sum()), "ceilings": ceilings}


def _summarise(values: Values, controls: Values) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
    """Yield each projection with the mean and interval of each measure, and of the differences from controls."""
    by_projection: dict[str, dict[str, np.ndarray]] = {}
    for name, by_text in values.items():
        projection, _, measure = name.partition("/")
        by_projection.setdefault(projection, {})[measure] = by_text
    for projection, measures in sorted(by_projection.items()):
        differences = {}
        if "shuffled" in measures:
            differences[ABOVE] = measures["R-coverage"] - measures["shuffled"]
            if f"{projection}/R-coverage" in controls:
                control = controls[f"{projection}/R-coverage"] - controls[f"{projection}/shuffled"]
                differences[LESS] = differences[ABOVE] - control
        means = {}
        for measure, by_text in {**measures, **differences}.items():
            mean = bootstrap_mean(by_text)
            if mean is not None:
                means[measure] = asdict(mean)
        yield projection, means
