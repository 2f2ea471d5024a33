"""
The values that papers print for one system, where they differ, beside the measured ones.

* Conflict         a system and a column with every value printed for it
* find_conflicts   the conflicts among judged tables
* lay_out_conflicts, conflicts_as_csv, conflicts_as_json

The JSON is {conflicts: [{system, dataset, measure, values}]}, each value
    {published, printed, measured, sd, verdict, table, model, source, setup}
where `printed` is the print of a corrected value. A CSV record is a value with its system, dataset and measure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from retrobench.core import Column, Table
from retrobench.errors import unknown
from retrobench.leaderboard.reproduce.recipes import fixed_texts
from retrobench.leaderboard.reproduce.verdicts import JudgedExcerpt, Outcome
from retrobench.leaderboard.tables import Block, Section, format_number, spread

__all__ = ["Conflict", "conflicts_as_csv", "conflicts_as_json", "find_conflicts", "lay_out_conflicts"]

ROUNDING = 5e-4 + 1e-9  # papers print three or four decimals: .3928 and .393 are one value


class Conflict(NamedTuple):
    """A system and a column, with the outcomes of every number printed for them, the lowest first."""

    system: str
    dataset: str
    measure: str
    outcomes: list[Outcome]

    @property
    def heading(self) -> str:
        return f"{self.system}, {self.dataset} {self.measure}"


def find_conflicts(judged: Iterable[JudgedExcerpt], system: str = "") -> list[Conflict]:
    """Return the systems and columns for which papers print values that differ by more than rounding.

    `system` restricts them to one. Raises RetrobenchError where no table has it.
    """
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    names: dict[str, None] = {}
    for excerpt, outcomes in judged:
        for outcome in outcomes:
            names[outcome.system.name] = None
            if excerpt.fractions and outcome.cell.published is not None:
                column = outcome.cell.column
                groups.setdefault((outcome.system.name, column.dataset, column.measure), []).append(outcome)
    if system and system not in names:
        raise unknown("system", system, names)
    conflicts = []
    for (name, dataset, measure), outcomes in groups.items():
        outcomes = sorted(outcomes, key=_published)
        if system in ("", name) and _published(outcomes[-1]) - _published(outcomes[0]) > ROUNDING:
            conflicts.append(Conflict(name, dataset, measure, outcomes))
    return conflicts


def lay_out_conflicts(conflicts: Sequence[Conflict], refusals: Sequence[str]) -> list[Section]:
    """Return a section for each conflict."""
    sections = [_section(conflict) for conflict in conflicts]
    closing = [f"{len(conflicts)} systems and columns for which papers print different values."]
    closing += [f"Refused: {refusal}" for refusal in refusals]
    return [*sections, Section("Conflicts", tuple(closing))]


def _section(conflict: Conflict) -> Section:
    columns = [Column("published", "right", "measure"), Column("measured", "right", "measure"), Column("verdict")]
    columns += [Column("set-up"), Column("source")]
    rows = []
    corrections = []
    for outcome in conflict.outcomes:
        mark = ""
        if outcome.cell.printed is not None:
            mark = "*"
            corrections.append(f"* Printed as {outcome.cell.printed}; {outcome.cell.note}.")
        rows.append(
            [
                format_number(outcome.cell.published, ".4f") + mark,
                spread(outcome.measured, outcome.deviation),
                outcome.verdict,
                _setup(outcome),
                f"{outcome.excerpt.paper}, {outcome.cell.source}",
            ]
        )
    blocks: list[Block] = [Table(columns, rows), *corrections]
    return Section(conflict.heading, tuple(blocks))


def _setup(outcome: Outcome) -> str:
    """Return how the system was trained, in the words of the table and the keys of the claim."""
    excerpt, system = outcome.excerpt, outcome.system
    texts = [excerpt.title]
    if system.model != system.name:
        texts.append(system.model)
    if system.round:
        texts.append(f"round {system.round}")
    texts += fixed_texts((*excerpt.set, *system.set))
    return "; ".join(texts)


def conflicts_as_csv(conflicts: Sequence[Conflict]) -> str:
    """Return comma-separated values, a record for each printed value."""
    records = []
    for conflict in conflicts:
        for outcome in conflict.outcomes:
            key = {"system": conflict.system, "dataset": conflict.dataset, "measure": conflict.measure}
            records.append(key | _record(outcome))
    return Table.from_records(records).csv()


def conflicts_as_json(conflicts: Sequence[Conflict]) -> str:
    """Return one JSON document of all conflicts."""
    documents = []
    for conflict in conflicts:
        document: dict[str, Any] = conflict._asdict()
        document["values"] = [_record(outcome) for outcome in document.pop("outcomes")]
        documents.append(document)
    return json.dumps({"conflicts": documents}, indent=2, ensure_ascii=False)


def _record(outcome: Outcome) -> dict[str, Any]:
    return {
        "published": outcome.cell.published,
        "printed": outcome.cell.printed,
        "measured": outcome.measured,
        "sd": outcome.deviation,
        "verdict": outcome.verdict,
        "table": outcome.excerpt.id,
        "model": outcome.system.model,
        "source": f"{outcome.excerpt.paper}, {outcome.cell.source}",
        "setup": _setup(outcome),
    }


def _published(outcome: Outcome) -> float:
    return outcome.cell.published or 0.0
