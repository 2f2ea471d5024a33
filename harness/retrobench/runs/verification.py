"""
Rows held against everything that they stand on.

* verify         check every row of a track, or of all tracks
* Verification   the checked rows, as JSON and as text
* Verified       one checked row

A row's own line and its kept files are always checked. What else is here is checked too: every file of its artifacts
against the hashes in the store, documents and judgements against the row's facts, and the run scored again by ranx,
trec_eval's code and BEIR's `EvaluateRetrieval`. Nothing is downloaded and nothing is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrobench.core import Column, Table, bar
from retrobench.data import groups
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import Inspected, PerQuery, Row, inspect_tracks, load_per_query, missing_files, row_name
from retrobench.runs.checks import Datasets, Entries, Finding, absence, difference
from retrobench.scoring import Rescored, rescore
from retrobench.store import default_root

__all__ = ["Verification", "Verified", "verify"]

TOLERANCE = 1e-9  # between a value in a row and the same value computed here
NAMED = 3  # queries in a sentence


@dataclass(frozen=True)
class Verified:
    """One row with everything that differs from it, and everything that is missing here."""

    row: str  # its id; FILE:LINE of a line that cannot be read
    status: Literal["ok", "missing", "differs"]
    what: str
    name: str = ""  # TRACK:ENTRANT:SEED


@dataclass(frozen=True)
class Verification:
    """The checked rows of one or several tracks."""

    rows: tuple[Verified, ...]

    @property
    def exit_code(self) -> int:
        """Return 1 where a row differs, else 0."""
        return int(self._count("differs") > 0)

    def json(self) -> str:
        """Return the array of `verify --json`."""
        records = [{"row": row.row, "status": row.status, "what": row.what} for row in self.rows]
        return json.dumps(records, indent=2, ensure_ascii=False)

    def text(self) -> str:
        """Return a line for each row, and the number of rows with each status."""
        lines = []
        for row in self.rows:
            lines.append((row.row, row.name, row.status.upper(), row.what))
        table = Table([Column(""), Column(""), Column(""), Column("")], lines)
        counts = f"{self._count('ok')} OK, {self._count('missing')} MISSING, {self._count('differs')} DIFFER"
        return f"{table.text()}\n\n{counts}."

    def _count(self, status: str) -> int:
        return sum(row.status == status for row in self.rows)


def verify(track: str = "", store: Path | None = None, leaderboard: Path | None = None) -> Verification:
    """Return every row of a track, or of all tracks with rows, held against everything that it stands on."""
    tracks = inspect_tracks(track, leaderboard)
    verifier = _Verifier(Entries((store or default_root()).expanduser().absolute()), Datasets())
    verified = []
    with bar("verify", sum(map(len, tracks.values())), "rows") as advance:
        for folder, lines in tracks.items():
            for line in lines:
                verified.append(_judge(line, list(verifier.check(folder, line))))
                advance(1)
    return Verification(tuple(verified))


def _judge(line: Inspected, findings: list[Finding]) -> Verified:
    differences = [finding.text for finding in findings if finding.status == "differs"]
    missing = [finding.text for finding in findings if finding.status == "missing"]
    parts = differences.copy()
    if missing:
        parts.append(f"not here: {', '.join(missing)}")
    status: Literal["ok", "missing", "differs"] = "ok"
    if differences:
        status = "differs"
    elif missing:
        status = "missing"
    if line.row is None:
        return Verified(line.location, status, "; ".join(parts))
    return Verified(line.row.id, status, "; ".join(parts), row_name(line.row))


@dataclass(frozen=True)
class _Verifier:
    """The checks of one row, with the things that rows share."""

    entries: Entries
    datasets: Datasets

    def check(self, folder: Path, line: Inspected) -> Iterator[Finding]:
        """Yield every finding about a row in `folder`."""
        for fault in line.faults:
            yield difference(f"{line.location}: {fault}")
        if line.row is None:
            return
        yield from map(absence, missing_files(folder, line.row))
        yield from self.entries.check(line.row.artifacts)
        measured = _measured(line.row)
        for dataset in measured:
            yield from self.datasets.check(dataset, line.row.facts.get(dataset, {}))
        values = _kept_values(folder, line.row)
        for dataset in measured:
            yield from self._rescore(dataset, line.row, values)

    def _rescore(self, dataset: str, row: Row, values: PerQuery) -> Iterator[Finding]:
        """Yield the differences of a dataset's run from the row's means and values by query."""
        role = f"search {dataset}"
        if role not in row.artifacts:
            yield absence(f"the row's key of the run of {dataset}")
            return
        run = self.entries.folder(role, row.artifacts[role]) / "run.trec"
        judgements = self.datasets.judgements(dataset, row.facts.get(dataset, {}))
        if judgements is None or not run.is_file():
            return  # the entry, or the dataset, has its own finding
        try:
            rescored = rescore(run, judgements, list(row.measures[dataset]))
        except RetrobenchError as error:
            yield difference(str(error).rstrip("."))
            return
        yield from map(difference, _differences(dataset, row, rescored))
        yield from map(difference, _query_differences(dataset, values, rescored))


def _measured(row: Row) -> list[str]:
    """Return the datasets that the row measures, without the means of groups."""
    means = groups.averages(row.measures)
    return [name for name in row.measures if name not in means]


def _kept_values(folder: Path, row: Row) -> PerQuery:
    """Return the values by query; none where their file is missing or faulty, which has a finding of its own."""
    if not (folder / row.per_query).is_file():
        return {}
    try:
        return load_per_query(folder, row)
    except RetrobenchError:
        return {}


def _differences(dataset: str, row: Row, rescored: Rescored) -> Iterator[str]:
    for measure, value in row.measures[dataset].items():
        mean = rescored.means[measure]
        if abs(mean - value) > TOLERANCE:
            yield f"the run gives {measure} {mean:.10g} on {dataset}, and the row has {value:.10g}"
    for disagreement in rescored.disagreements:
        yield f"{dataset}: {disagreement}"


def _query_differences(dataset: str, values: PerQuery, rescored: Rescored) -> Iterator[str]:
    """Yield a sentence for each measure whose kept values are not those of the run."""
    for measure, kept in values.get(dataset, {}).items():
        computed = rescored.values.get(measure, {})
        queries = []
        for query in sorted(kept.keys() | computed.keys()):
            value = kept.get(query)
            expected = computed.get(query)
            if value is None or expected is None or abs(value - expected) > TOLERANCE:
                queries.append(query)
        if queries:
            named = ", ".join(queries[:NAMED])
            more = f" and {len(queries) - NAMED} more" if len(queries) > NAMED else ""
            yield f"the run gives other values of {measure} on {dataset} than those kept, for {named}{more}"
