"""Sentences under a table: what the training read of the test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from retrobench.leaderboard.comparison import Comparison

__all__ = ["overlap_notes"]


def overlap_notes(comparison: Comparison) -> list[str]:
    """Return sentences on test questions and test passages that the training read, each sentence once."""
    sentences: dict[str, None] = {}
    for line in comparison.lines:
        for row in line.rows:
            for dataset, facts in row.facts.items():
                sentences |= dict.fromkeys(_sentences(dataset, facts))
    return list(sentences)


def _sentences(dataset: str, facts: Mapping[str, Any]) -> Iterator[str]:
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
