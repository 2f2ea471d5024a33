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

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from retrobench.leaderboard.claims import Part, Table
from retrobench.leaderboard.reproduce.report import commands, derived
from retrobench.leaderboard.reproduce.verdicts import VERDICTS, Judged, kind

__all__ = ["Listed", "as_csv", "as_json", "listed_csv", "listed_json"]

ROW = ("seed", "date", "commit", "version", "identity", "hardware", "command", "facts")


class Listed(NamedTuple):
    """A table in the list of all, with how many cells have each verdict."""

    table: Table
    counts: tuple[Counter[str], ...]  # by part
    refused: str = ""


def as_csv(judged: Sequence[Judged]) -> str:
    """A record for each cell."""
    return _csv([{**_record(each), "beats": "; ".join(each.beats)} for each in judged])


def as_json(table: Table, found: Sequence[tuple[Part, Sequence[Judged]]], unclaimed: Sequence[str] = ()) -> str:
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


def listed_csv(lines: Sequence[Listed]) -> str:
    """A record for each table, a column for each verdict."""
    documents = [_listed(line) for line in lines]
    return _csv([{**doc, "tracks": " ".join(doc["tracks"]), **doc.pop("verdicts")} for doc in documents])


def listed_json(lines: Sequence[Listed]) -> str:
    """One document."""
    return json.dumps({"tables": [_listed(line) for line in lines]}, indent=2, ensure_ascii=False)


def _listed(line: Listed) -> dict[str, Any]:
    return {
        "table": line.table.id,
        "title": line.table.title,
        "paper": line.table.parts[0].paper,
        "tracks": list(dict.fromkeys(part.track for part in line.table.parts if part.track)),
        "cells": line.table.cells,
        "verdicts": {verdict: sum(counts[verdict] for counts in line.counts) for verdict in VERDICTS},
        "refused": line.refused or None,
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


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().rstrip("\n")
