"""
Rows of a leaderboard, and the tables and pages made of them.

* folders      where tracks are looked up and rows go
* rows         append and read rows
* comparison   rows that may stand together
* cells        rows that were compared, as tables and sentences
* tables       text, Markdown, CSV, JSON, LaTeX
* claims       the papers' printed numbers
* reproduce    claims beside rows, with verdicts
* performance  results of benchmarks
* pages        the rendered page of a track, and the check that it is current
"""

from retrobench.leaderboard import claims, performance
from retrobench.leaderboard.folders import locate, places, rows_folder, track_name
from retrobench.leaderboard.performance import Result
from retrobench.leaderboard.reproduce import reproduce
from retrobench.leaderboard.rows import PerQuery, Row, append, read
from retrobench.leaderboard.tables import loader, show, summary

__all__ = [
    "PerQuery",
    "Result",
    "Row",
    "append",
    "claims",
    "loader",
    "locate",
    "performance",
    "places",
    "read",
    "reproduce",
    "rows_folder",
    "show",
    "summary",
    "track_name",
]
