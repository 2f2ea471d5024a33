"""
Judged tables for other programs: CSV and JSON, numbers unrounded, what is missing empty or null.

A cell is a record of
    table, track, model, entrant, dataset, measure, header (the paper's, where it is wrong), published (corrected),
    printed (where that is something else), source, measured, sd, delta (measured minus published), tolerance,
    tolerance_reason, verdict (PASS, PASS (+), FAIL, NOT RUN, N/A), reason (of the last two), kind, seeds (how many),
    queries, beats (models that it beats significantly), note.
The JSON of one table is `{table, paper, verdicts: {verdict: count}, unclaimed: [row given that measures nothing here],
parts: [{title, source, track, set, note, reason,
needs: {dataset: {name: value}}, commands, derived: [{model, published, measured}], cells: [record and
rows: [{seed, date, commit, version, identity, hardware, command, facts}]]}]}`, of the list
`{tables: [{table, title, paper, tracks, cells, verdicts, refused}]}`; `refused` says why rows were, else it is null.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from retrobench.core import Table
from retrobench.leaderboard.claims import ClaimedTable, Part
from retrobench.leaderboard.reproduce.report import commands, derived
from retrobench.leaderboard.reproduce.verdicts import VERDICTS, Judged, Tally, kind

__all__ = ["as_csv", "as_json", "listed_csv", "listed_json"]

ROW = ("seed", "date", "commit", "version", "identity", "hardware", "command", "facts")


def as_csv(judged: Sequence[Judged]) -> str:
    """Return comma-separated values, a record for each cell."""
    records = [{**_record(each), "beats": "; ".join(each.beats)} for each in judged]
    return Table.from_records(records).csv()


def as_json(table: ClaimedTable, found: Sequence[tuple[Part, Sequence[Judged]]], unclaimed: Sequence[str] = ()) -> str:
    """One document."""
    counts = Counter(each.verdict for _, judged in found for each in judged)
    document = {
        "table": table.id,
        "paper": table.parts[0].paper,
        "verdicts": {verdict: counts[verdict] for verdict in VERDICTS},
        "unclaimed": list(unclaimed),
        "parts": [
            {
                "title": part.title,
                "source": part.source,
                "track": part.track or None,
                "set": part.set,
                "note": part.note,
                "reason": part.reason or None,
                "needs": {name: known.needs for name, known in part.datasets.items() if part.track and known.needs},
                "commands": commands(part),
                "derived": [mean._asdict() for mean in derived(part, judged)],
                "cells": [{**_record(each), "rows": _rows(each)} for each in judged],
            }
            for part, judged in found
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def listed_csv(tallies: Sequence[Tally]) -> str:
    """Return comma-separated values, a record for each table and a column for each verdict."""
    records = []
    for tally in tallies:
        record = _listed(tally)
        records.append({**record, "tracks": " ".join(record["tracks"]), **record["verdicts"]})
    return Table.from_records(records).csv()


def listed_json(tallies: Sequence[Tally]) -> str:
    """Return one JSON document of all tables."""
    return json.dumps({"tables": [_listed(tally) for tally in tallies]}, indent=2, ensure_ascii=False)


def _listed(tally: Tally) -> dict[str, Any]:
    table = tally.table
    return {
        "table": table.id,
        "title": table.title,
        "paper": table.parts[0].paper,
        "tracks": list(dict.fromkeys(part.track for part in table.parts if part.track)),
        "cells": table.cells,
        "verdicts": {verdict: sum(counts[verdict] for counts in tally.counts) for verdict in VERDICTS},
        "refused": tally.refused or None,
    }


def _record(each: Judged) -> dict[str, Any]:
    cell, line = each.cell, each.line
    return {
        "table": each.part.id,
        "track": each.part.track or None,
        "model": each.system.model,
        "entrant": each.system.entrant or None,
        "dataset": cell.column.dataset,
        "measure": cell.column.measure,
        "header": cell.column.header or None,
        "published": cell.published,
        "printed": cell.printed,
        "source": cell.source,
        "measured": each.measured,
        "sd": each.deviation,
        "delta": each.delta,
        "tolerance": each.tolerance.value if each.tolerance else None,
        "tolerance_reason": each.tolerance.reason if each.tolerance else None,
        "verdict": each.verdict,
        "reason": each.reason or None,
        "kind": kind(line) if line else None,
        "seeds": len(line.rows) if line else None,
        "queries": each.queries,
        "beats": each.beats,
        "note": each.note or None,
    }


def _rows(each: Judged) -> list[dict[str, Any]]:
    return [{name: getattr(row, name) for name in ROW} for row in (each.line.rows if each.line else ())]
