"""
Judged tables for other programs: CSV and JSON. Numbers are unrounded; a missing value is empty or null.

A cell is a record of
    table, track, model, entrant, dataset, measure
    header             as the paper prints it, where that is wrong
    published          corrected, where the print is wrong
    printed            the wrong print
    source, measured, sd
    delta              measured minus published
    tolerance, tolerance_reason
    low, high          ends of the interval of the mean over seeds
    verdict            one of VERDICTS
    reason             of TOO UNCERTAIN, NOT RUN and N/A
    seeds_needed       of TOO UNCERTAIN: the seeds that would do
    kind               replication or reproduction
    seeds, queries     their numbers
    beats              the models that it beats significantly
    note

The JSON of one table is
    {table, paper, verdicts: {verdict: count}, unclaimed: [location of a row that measures nothing here], parts}
and each of its parts, an excerpt that one track measures,
    {title, source, track, set, note, reason, needs: {dataset: {name: value}}, commands,
     derived: [{model, published, measured}], cells}
where each of the cells also has
    rows: [{seed, date, commit, version, identity, hardware, command, facts}].
The JSON of the list is
    {tables: [{table, title, paper, tracks, cells, verdicts, refused}]}
where `refused` is the reason for refusing rows, or null.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from retrobench.core import Table
from retrobench.leaderboard.claims import ClaimedTable
from retrobench.leaderboard.reproduce.derived import derive_means, measuring_commands
from retrobench.leaderboard.reproduce.verdicts import (
    VERDICTS,
    JudgedExcerpt,
    Outcome,
    Tally,
    count_verdicts,
    describe_kind,
)

__all__ = ["as_csv", "as_json", "tallies_as_csv", "tallies_as_json"]

ROW_FIELDS = ("seed", "date", "commit", "version", "identity", "hardware", "command", "facts")


def as_csv(outcomes: Sequence[Outcome]) -> str:
    """Return comma-separated values, a record for each outcome."""
    records = []
    for outcome in outcomes:
        record = _record(outcome)
        record["beats"] = "; ".join(outcome.beats)
        records.append(record)
    return Table.from_records(records).csv()


def as_json(table: ClaimedTable, judged: Sequence[JudgedExcerpt], unused: Sequence[str] = ()) -> str:
    """Return the JSON of one table."""
    outcomes: list[Outcome] = []
    for excerpt in judged:
        outcomes += excerpt.outcomes
    counts = count_verdicts(outcomes)
    document = {
        "table": table.id,
        "paper": table.paper,
        "verdicts": {verdict: counts[verdict] for verdict in VERDICTS},
        "unclaimed": list(unused),
        "parts": [_excerpt_document(excerpt) for excerpt in judged],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def _excerpt_document(judged: JudgedExcerpt) -> dict[str, Any]:
    excerpt = judged.excerpt
    needs = {}
    for name, claimed in excerpt.datasets.items():
        if excerpt.track and claimed.needs:
            needs[name] = claimed.needs
    cells = []
    for outcome in judged.outcomes:
        cells.append({**_record(outcome), "rows": _rows(outcome)})
    return {
        "title": excerpt.title,
        "source": excerpt.source,
        "track": excerpt.track or None,
        "set": excerpt.set,
        "note": excerpt.note,
        "reason": excerpt.reason or None,
        "needs": needs,
        "commands": measuring_commands(excerpt),
        "derived": [mean._asdict() for mean in derive_means(judged)],
        "cells": cells,
    }


def tallies_as_csv(tallies: Sequence[Tally]) -> str:
    """Return comma-separated values, a record for each table and a column for each verdict."""
    records = []
    for tally in tallies:
        record = _tally_record(tally)
        record["tracks"] = " ".join(record["tracks"])
        record |= record.pop("verdicts")
        records.append(record)
    return Table.from_records(records).csv()


def tallies_as_json(tallies: Sequence[Tally]) -> str:
    """Return one JSON document of all tables."""
    return json.dumps({"tables": [_tally_record(tally) for tally in tallies]}, indent=2, ensure_ascii=False)


def _tally_record(tally: Tally) -> dict[str, Any]:
    table = tally.table
    tracks = dict.fromkeys(excerpt.track for excerpt in table.excerpts if excerpt.track)
    verdicts = {}
    for verdict in VERDICTS:
        verdicts[verdict] = sum(counts[verdict] for counts in tally.counts)
    return {
        "table": table.id,
        "title": table.title,
        "paper": table.paper,
        "tracks": list(tracks),
        "cells": table.cells,
        "verdicts": verdicts,
        "refused": tally.refusal or None,
    }


def _record(outcome: Outcome) -> dict[str, Any]:
    cell = outcome.cell
    line = outcome.line
    tolerance = outcome.tolerance
    interval = outcome.interval
    return {
        "table": outcome.excerpt.id,
        "track": outcome.excerpt.track or None,
        "model": outcome.system.model,
        "entrant": outcome.system.entrant or None,
        "dataset": cell.column.dataset,
        "measure": cell.column.measure,
        "header": cell.column.header or None,
        "published": cell.published,
        "printed": cell.printed,
        "source": cell.source,
        "measured": outcome.measured,
        "sd": outcome.deviation,
        "delta": outcome.delta,
        "tolerance": tolerance.value if tolerance else None,
        "tolerance_reason": tolerance.reason if tolerance else None,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "verdict": outcome.verdict,
        "reason": outcome.reason or None,
        "seeds_needed": outcome.seeds_needed,
        "kind": describe_kind(line) if line else None,
        "seeds": outcome.seeds,
        "queries": outcome.queries,
        "beats": outcome.beats,
        "note": outcome.note or None,
    }


def _rows(outcome: Outcome) -> list[dict[str, Any]]:
    if outcome.line is None:
        return []
    documents = []
    for row in outcome.line.rows:
        documents.append({name: getattr(row, name) for name in ROW_FIELDS})
    return documents
