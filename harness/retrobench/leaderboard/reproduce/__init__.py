"""
The papers' tables beside what was measured here.

* reproduce   the whole of `retrobench reproduce`: one table, or the list of all
* section     the tables of one folder in Markdown, for its README
* Report      the text, and what the shell sees: 1 where a claim failed, 3 where rows are of something else
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from retrobench.errors import unknown
from retrobench.leaderboard.claims import ClaimedTable, Part, claims, read_claims
from retrobench.leaderboard.reproduce import records, report
from retrobench.leaderboard.reproduce.matching import Offer, checked, offered, unclaimed
from retrobench.leaderboard.reproduce.verdicts import Judged, Tally, judge
from retrobench.leaderboard.rows import UnlikeError
from retrobench.leaderboard.tables import FORMATS, lay_out

__all__ = ["Report", "reproduce", "section"]


class Report(NamedTuple):
    """What is printed, and the exit code."""

    text: str
    exit_code: int


def reproduce(
    table: str = "", format: str = "text", rows: Path | None = None, leaderboard: Path | None = None
) -> Report:
    """One paper's table, published beside measured, or the list of all tables if none is named.

    Measured are the rows of the tables' own tracks, or those in the file `rows`, whatever their track. Raises
    UnlikeError, exit code 3, for a row measured on anything but what the table is about.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    known = {each.id: each for each in claims(leaderboard)}
    if not table:
        return _listed(known.values(), format, leaderboard)
    if table not in known:
        raise unknown("table", table, known, "`retrobench reproduce` lists them.")
    found = _judged(known[table], rows, leaderboard)
    unused = unclaimed(known[table].parts, Offer.named_by(rows)) if rows else []
    judged = [each for _, of in found for each in of]
    code = int(any(each.verdict == "FAIL" for each in judged))
    if format == "csv":
        return Report(records.as_csv(judged), code)
    if format == "json":
        return Report(records.as_json(known[table], found, unused), code)
    sections = [report.section(part, of) for part, of in found]
    sections = [report.wrapped(each) for each in sections] if format == "text" else sections
    return Report(f"{lay_out(sections, format)}\n\n{report.closing(judged, code, format, unused)}", code)


def section(folder: Path) -> str:
    """What a folder's claims say beside what its own rows measured, in Markdown; empty without claims."""
    if not (folder / "claims.toml").is_file():
        return ""
    parts = read_claims(folder / "claims.toml")
    offer = offered(folder)
    found = [(part, judge(part, checked(part.id, [part], offer))) for part in parts]
    text = lay_out([report.section(part, of) for part, of in found], "md")
    return f"{text}\n\n{report.closing([each for _, of in found for each in of], None, 'md')}"


def _judged(table: ClaimedTable, rows: Path | None, leaderboard: Path | None) -> list[tuple[Part, list[Judged]]]:
    if rows is not None:
        offer = checked(table.id, table.parts, Offer.named_by(rows))
        return [(part, judge(part, offer)) for part in table.parts]
    offers = [(part, offered(part.track, leaderboard)) for part in table.parts]
    return [(part, judge(part, checked(table.id, [part], offer))) for part, offer in offers]


def _listed(tables: Iterable[ClaimedTable], format: str, leaderboard: Path | None) -> Report:
    tallies, code = [], 0
    for table in tables:
        try:
            found = _judged(table, None, leaderboard)
        except UnlikeError as error:
            tallies.append(Tally(table, tuple(Counter() for _ in table.parts), str(error)))
            code = UnlikeError.exit_code
            continue
        counts = tuple(Counter(each.verdict for each in of) for _, of in found)
        tallies.append(Tally(table, counts))
        code = code or int(any(of["FAIL"] for of in counts))
    if format == "csv":
        return Report(records.listed_csv(tallies), code)
    if format == "json":
        return Report(records.listed_json(tallies), code)
    return Report(lay_out(report.listed(tallies), format), code)
