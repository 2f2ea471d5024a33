"""
The papers' tables beside the rows measured here.

* reproduce       the text of `retrobench reproduce`: a table, the list of all, conflicts, or a run beside the authors'
* RunFiles        the files of a run and of the authors' run
* render_claims   the tables of one folder in Markdown, for its README
* published_sections   every table and every conflict, for a page
* Reproduction    a text, and the exit code: 1 where a claim failed, 3 where rows were refused
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from retrobench.errors import RetrobenchError, unknown
from retrobench.leaderboard.claims import ClaimedTable, read_excerpts, read_tables
from retrobench.leaderboard.reproduce import records, report
from retrobench.leaderboard.reproduce.conflicts import (
    conflicts_as_csv,
    conflicts_as_json,
    find_conflicts,
    lay_out_conflicts,
)
from retrobench.leaderboard.reproduce.matching import RowFile, check_rows, find_unused
from retrobench.leaderboard.reproduce.replicas import RunFiles, compare_runs
from retrobench.leaderboard.reproduce.verdicts import JudgedExcerpt, Outcome, Tally, count_verdicts, judge
from retrobench.leaderboard.rows import UnlikeError
from retrobench.leaderboard.tables import FORMATS, Section, lay_out

__all__ = ["Reproduction", "RunFiles", "published_sections", "render_claims", "reproduce"]


class Reproduction(NamedTuple):
    """The text to print, and the exit code."""

    text: str
    exit_code: int


def reproduce(
    table: str = "",
    format: str = "text",
    rows: Path | None = None,
    leaderboard: Path | None = None,
    conflicts: bool = False,
    files: RunFiles | None = None,
) -> Reproduction:
    """Return one paper's table, published beside measured, or the list of all tables without a name.

    The measured rows are those of the tables' own tracks, or those in the file `rows`, of any track. With `conflicts`,
    return the differing prints instead, of all systems or of the one that `table` names; with `files`, our run beside
    the authors'. Raises UnlikeError, exit code 3, for a row that was measured on other data than the table's.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if files and files.given:
        if table or rows or conflicts:
            raise RetrobenchError("--run compares two runs. Leave out the table, --rows and --conflicts.")
        return Reproduction(compare_runs(files, format), 0)
    if conflicts:
        if rows:
            raise RetrobenchError("--conflicts reads the rows of every track. Leave out --rows.")
        return _reproduce_conflicts(table, format, leaderboard)
    tables = {claimed.id: claimed for claimed in read_tables(leaderboard)}
    if not table:
        return _reproduce_list(tables.values(), format, leaderboard)
    if table not in tables:
        raise unknown("table", table, tables, "`retrobench reproduce` lists them.")
    chosen = RowFile.read(rows) if rows else None
    unused = find_unused(tables[table].excerpts, chosen) if chosen else []
    return _reproduce_table(tables[table], _judge_table(tables[table], chosen, leaderboard), unused, format)


def _reproduce_conflicts(system: str, format: str, leaderboard: Path | None) -> Reproduction:
    judged, refusals = _judge_all(leaderboard)
    conflicts = find_conflicts(judged, system)
    exit_code = UnlikeError.exit_code if refusals else 0
    if format == "csv":
        return Reproduction(conflicts_as_csv(conflicts), exit_code)
    if format == "json":
        return Reproduction(conflicts_as_json(conflicts), exit_code)
    return Reproduction(lay_out(lay_out_conflicts(conflicts, refusals), format), exit_code)


def _judge_all(leaderboard: Path | None) -> tuple[list[JudgedExcerpt], list[str]]:
    """Judge every table by its tracks' rows, and without rows where they are refused; return the refusals too."""
    judged: list[JudgedExcerpt] = []
    refusals = []
    for table in read_tables(leaderboard):
        try:
            judged += _judge_table(table, None, leaderboard)
        except UnlikeError as error:
            refusals.append(str(error))
            judged += [judge(excerpt, RowFile()) for excerpt in table.excerpts]
    return judged, refusals


def published_sections(leaderboard: Path | None = None) -> tuple[list[Section], list[Section]]:
    """Return a section for every excerpt of a paper's table beside measured rows, and one for every conflict."""
    judged, refusals = _judge_all(leaderboard)
    excerpts = [report.lay_out_excerpt(excerpt) for excerpt in judged]
    return excerpts, lay_out_conflicts(find_conflicts(judged, ""), refusals)


def _reproduce_table(table: ClaimedTable, judged: list[JudgedExcerpt], unused: list[str], format: str) -> Reproduction:
    outcomes = _outcomes(judged)
    exit_code = int(count_verdicts(outcomes)["FAIL"] > 0)
    if format == "csv":
        return Reproduction(records.as_csv(outcomes), exit_code)
    if format == "json":
        return Reproduction(records.as_json(table, judged, unused), exit_code)
    sections = [report.lay_out_excerpt(excerpt) for excerpt in judged]
    if format == "text":
        sections = [report.fold_sentences(section) for section in sections]
    summary = report.summarise(outcomes, exit_code, format, unused)
    return Reproduction(f"{lay_out(sections, format)}\n\n{summary}", exit_code)


def render_claims(folder: Path) -> str:
    """Return a folder's claims beside its own rows, in Markdown."""
    file = RowFile.in_folder(folder)
    judged = []
    for excerpt in read_excerpts(folder / "claims.toml"):
        judged.append(judge(excerpt, check_rows(excerpt.id, [excerpt], file)))
    text = lay_out([report.lay_out_excerpt(excerpt) for excerpt in judged], "md")
    return f"{text}\n\n{report.summarise(_outcomes(judged), None, 'md')}"


def _judge_table(table: ClaimedTable, chosen: RowFile | None, leaderboard: Path | None) -> list[JudgedExcerpt]:
    """Judge a table by the rows that the user chose, or each excerpt by its track's own."""
    if chosen:
        check_rows(table.id, table.excerpts, chosen)
        return [judge(excerpt, chosen) for excerpt in table.excerpts]
    files = [RowFile.of_track(excerpt.track, leaderboard) for excerpt in table.excerpts]
    judged = []
    for excerpt, file in zip(table.excerpts, files, strict=True):
        judged.append(judge(excerpt, check_rows(table.id, [excerpt], file)))
    return judged


def _outcomes(judged: Iterable[JudgedExcerpt]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for excerpt in judged:
        outcomes += excerpt.outcomes
    return outcomes


def _reproduce_list(tables: Iterable[ClaimedTable], format: str, leaderboard: Path | None) -> Reproduction:
    tallies = []
    exit_code = 0
    for table in tables:
        tally = _tally(table, leaderboard)
        tallies.append(tally)
        if tally.refusal:
            exit_code = UnlikeError.exit_code
        elif any(counts["FAIL"] for counts in tally.counts):
            exit_code = exit_code or 1
    if format == "csv":
        return Reproduction(records.tallies_as_csv(tallies), exit_code)
    if format == "json":
        return Reproduction(records.tallies_as_json(tallies), exit_code)
    return Reproduction(lay_out(report.lay_out_tallies(tallies), format), exit_code)


def _tally(table: ClaimedTable, leaderboard: Path | None) -> Tally:
    try:
        judged = _judge_table(table, None, leaderboard)
    except UnlikeError as error:
        return Tally(table, tuple(Counter() for _ in table.excerpts), str(error))
    return Tally(table, tuple(count_verdicts(excerpt.outcomes) for excerpt in judged))
