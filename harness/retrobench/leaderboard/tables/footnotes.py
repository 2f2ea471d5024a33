"""Sentences under a table: the rules of its datasets, the words of BM25, the machines, and what the training read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from retrobench.config import BASELINES
from retrobench.leaderboard.comparison import Comparison
from retrobench.leaderboard.rows import Row
from retrobench.leaderboard.tables.formatting import list_facts

__all__ = ["data_notes", "machine_notes"]


def data_notes(comparison: Comparison) -> list[str]:
    """Return the sentences on the datasets of a comparison's rows, each sentence once."""
    sentences: dict[str, None] = {}
    for line in comparison.lines:
        for row in line.rows:
            for dataset, facts in row.facts.items():
                sentences |= dict.fromkeys(_about_data(dataset, facts))
                sentences |= dict.fromkeys(_about_baseline(row, dataset, facts))
                sentences |= dict.fromkeys(_about_training(dataset, facts))
    return list(sentences)


def machine_notes(comparison: Comparison) -> list[str]:
    """Return a sentence on the machines of a comparison's rows, where there are several."""
    machines: dict[str, list[str]] = {}
    for index, line in enumerate(comparison.lines):
        for machine in dict.fromkeys(list_facts(row.hardware) for row in line.rows):
            machines.setdefault(machine, []).append(comparison.letter(index))
    if len(machines) < 2:
        return []
    shares = [f"{', '.join(letters)} on {machine}" for machine, letters in machines.items()]
    return [f"Times and memory compare within a machine only: {'; '.join(shares)}."]


def _about_data(dataset: str, facts: Mapping[str, Any]) -> Iterator[str]:
    rules = facts.get("rules")
    if rules:
        yield f"Rules of {dataset}: {'; '.join(rules)}."
    if facts.get("dangling_documents"):
        yield f"{facts['dangling_documents']:,} judgements of {dataset} name documents that its corpus lacks."
    if facts.get("dangling_queries"):
        yield f"{facts['dangling_queries']:,} judged queries of {dataset} have no text; each counts 0."


def _about_baseline(row: Row, dataset: str, facts: Mapping[str, Any]) -> Iterator[str]:
    if row.objective not in BASELINES or "stemmer" not in facts:
        return
    settings = {"k1": "", "b": "", **row.settings, "stemmer": facts["stemmer"], "stop_words": facts["stop_words"]}
    version = row.libraries.get("bm25s", "")
    yield (
        f"{row.entrant} on {dataset}: bm25s {version}, Lucene's formula, k1 {settings['k1']}, b {settings['b']}, "
        f"stemmer {settings['stemmer']}, stop words {settings['stop_words']}."
    )


def _about_training(dataset: str, facts: Mapping[str, Any]) -> Iterator[str]:
    training = facts.get("overlap", {})
    validation = facts.get("overlap_validation", {})
    total = f"Of the {facts.get('queries', 0):,} questions of {dataset}"
    if training.get("questions"):
        yield (
            f"{total}, {training['questions']:,} are training questions too ({training['train']}): "
            "its numbers are not zero-shot."
        )
    if validation.get("questions"):
        yield (
            f"{total}, {validation['questions']:,} are validation questions too ({validation['validation']}): "
            "the round was chosen on them."
        )
    if training.get("texts"):
        yield (
            f"{total}, {training['texts']:,} have the text of a training question about other passages: "
            "they are counted as other questions."
        )
    if training.get("documents"):
        yield f"{training['documents']:,} passages that answer questions of {dataset} answer training questions too."
    if facts.get("pretrained_on"):
        yield f"Pre-training read the passages of {dataset}, but none of its questions."
