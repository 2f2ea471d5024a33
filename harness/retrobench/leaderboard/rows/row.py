"""One measured entrant, and the error for rows that may not share a table."""

from __future__ import annotations

import hashlib
import json
import typing
from dataclasses import dataclass, field, fields, replace
from typing import Any

from retrobench.errors import RetrobenchError

__all__ = ["Row", "UnlikeError", "full_entrant"]


class UnlikeError(RetrobenchError):
    """Raised where rows were measured on different data, or on other data than a table needs."""

    exit_code = 3


def full_entrant(entrant: str, representation: str) -> str:
    """Return ENTRANT (REPRESENTATION), which names a line in any table."""
    return f"{entrant} ({representation})"


SCHEMA = 1  # of rows; a reader refuses rows of another
ORDERED = ("measures", "cost", "selection")  # fields whose keys have an order with a meaning
ROUNDS = ("in-batch", "mined", "distilled")  # in the order of training


@dataclass(frozen=True, kw_only=True)
class Row:
    """One entrant measured once. The first dataset and measure in `measures` are the track's main ones."""

    track: str
    identity: str  # hash of the resolved track: everything but the objective
    track_toml: str  # hash of `tracks/IDENTITY.toml` beside the rows, the resolved track
    overrides: dict[str, Any]  # the track's keys changed by `--set`
    content: dict[str, str]  # the base and the training collections as read: name -> hash
    entrant: str  # as shown: "dupmae", "dupmae:paper", "bm25"
    objective: str
    settings: dict[str, Any]  # of the objective
    objective_source: str  # hash of the plugin's source; empty for a baseline
    representation: str
    # A model that was fine-tuned instead of pre-training: name, label, hash, and revision on the hub.
    checkpoint: dict[str, str] | None
    seed: int | None  # None where nothing is drawn at random
    round: str  # the fine-tuning round measured, where a track measures every one: in-batch, mined, distilled
    processes: int  # that shared the work
    measures: dict[str, dict[str, float]]  # dataset id -> measure -> fraction, unrounded
    # Dataset id -> its identity: counts and hashes of documents and judgements, titles, lengths, similarity.
    facts: dict[str, dict[str, Any]]
    selection: dict[str, float]  # round -> validation measure
    artifacts: dict[str, str]  # role, such as `finetune mined` -> key in the store
    cost: dict[str, dict[str, float]]  # stage -> seconds, tokens_per_second, peak_memory_bytes
    energy: dict[str, float] | None = None  # sums of joules; None where a stage was not measured
    negatives: float  # passages that a training query of that round competed with, on average
    hardware: dict[str, str | int | float]
    libraries: dict[str, str]
    plugin: dict[str, str]  # distribution and version that gave the objective, or its file kept beside the rows
    version: str
    commit: str
    command: str  # reruns this row
    date: str  # UTC, ISO 8601
    schema: int = SCHEMA
    per_query: str = ""  # relative to the track's folder; `append` fills it in
    id: str = ""  # hash of all other fields; `append` fills it in
    later: dict[str, Any] = field(default_factory=dict)  # fields that a later version added, kept as read

    @property
    def chosen(self) -> str:
        """Return the round that was measured: the best on the validation questions, or the last without them."""
        if self.round:
            return self.round
        if self.selection:
            return max(reversed(self.selection), key=lambda name: self.selection[name])
        trained = [name for name in ROUNDS if f"finetune {name}" in self.artifacts]
        return trained[-1] if trained else ""

    @property
    def encoder(self) -> str:
        """Return the key of the row's own encoder in the store, "-" without one."""
        return self.artifacts.get(f"finetune {self.chosen}", "-")

    @property
    def run(self) -> str:
        """Return the key of the run on the row's first dataset in the store, "-" without one."""
        return self.artifacts.get(f"search {next(iter(self.facts), '')}", "-")

    def to_json(self) -> str:
        """Return one line of JSON. Keys are sorted, except in `measures`, `cost` and `selection`."""
        values = {name: getattr(self, name) for name in FIELDS} | self.later
        members = []
        for name in sorted(values):
            value = json.dumps(values[name], sort_keys=name not in ORDERED, allow_nan=False)
            members.append(f'"{name}": {value}')
        return "{" + ", ".join(members) + "}"

    def digest(self) -> str:
        """Return the row's id, a hash of all its other fields."""
        content = replace(self, id="").to_json()
        return hashlib.sha256(content.encode()).hexdigest()[:16]


FIELDS = tuple(member.name for member in fields(Row) if member.name != "later")
TYPES = typing.get_type_hints(Row)
