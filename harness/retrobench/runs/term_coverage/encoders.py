"""
The encoders to measure: those of a row, before and after fine-tuning, or a model of one's own.

* Target         a row or model with its encoders
* open_row       the encoders of a row, from the store
* open_model     a folder or hub id
* control_row    the row of `mlm` that shares everything but the objective
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrobench.config import Reading
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import CONTROL, Row, load_track, read, row_name
from retrobench.retrieval import vector_with_words
from retrobench.stages import open_base
from retrobench.store import Source, entry_fault, read_settings

__all__ = ["Target", "control_row", "open_model", "open_row"]

PASSAGE_LENGTH = 144  # tokens, as the papers read MS MARCO's passages


@dataclass(frozen=True)
class Target:
    """A row or a model: its encoders by state, and the form in which they read texts."""

    name: str
    encoders: Mapping[str, Source]
    base: Source | None  # whose head projects every encoder
    vector: str  # cls or mean
    reading: Reading
    row: Row | None = None


def open_row(folder: Path, row: Row, store: Path) -> Target:
    """Return the encoders of a row from the store. RetrobenchError where one is absent or changed."""
    if row.encoder == "-":
        raise RetrobenchError(f"Row {row_name(row)} has no encoder, so its vectors hold no words. Name another row.")
    track = load_track(folder, row.identity)
    if track is None:
        raise RetrobenchError(
            f"{folder} lacks tracks/{row.identity}.toml, the track of row {row_name(row)}. Restore it."
        )
    base = open_base(track["model"]["base"]).model
    pretrained = base
    if row.checkpoint is not None:
        pretrained = open_base(row.checkpoint["name"]).model
    for stage in ("pretrain", "adapt"):
        if stage in row.artifacts:
            pretrained = _entry(store, stage, row.artifacts[stage], row)
    tuned = _entry(store, "finetune", row.encoder, row)
    settings = read_settings(tuned.path)
    return Target(
        row_name(row),
        {"pre-trained": pretrained, "fine-tuned": tuned},
        base,
        vector_with_words(row.representation),
        Reading(**settings["reading"]),
        row,
    )


def _entry(store: Path, stage: str, key: str, row: Row) -> Source:
    folder = store / stage / key
    if not folder.is_dir():
        raise RetrobenchError(f"{folder} of row {row_name(row)} is not in the store. Make it again: {row.command}")
    fault = entry_fault(folder)
    if fault:
        raise RetrobenchError(f"{folder} was changed ({fault}). Delete it and make it again: {row.command}")
    return Source(stage, key, folder)


def open_model(name: str, vector: str, max_length: int | None, head: str | None) -> Target:
    """Return a folder or hub id as the one encoder of its target. `head` names the model whose head projects it too."""
    model = open_base(name)
    base = open_base(head).model if head else None
    length = min(max_length or PASSAGE_LENGTH, model.positions)
    reading = Reading(query_length=length, passage_length=length)
    return Target(name, {"published": model.model}, base, vector, reading)


def control_row(folder: Path, row: Row) -> Row | None:
    """Return the row of `mlm` with the track and the seed of `row`, None without it."""
    for candidate in read(folder):
        facts: tuple[Any, ...] = (candidate.entrant, candidate.representation, candidate.identity, candidate.seed)
        if facts == (CONTROL, "cls", row.identity, row.seed):
            return candidate
    return None
