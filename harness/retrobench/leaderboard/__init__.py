"""
Rows of a leaderboard, and the tables and pages rendered from them.

* folders      where tracks are looked up and where rows go
* rows         rows, appended and read
* evidence     the files beside the rows: values by query, resolved tracks, plugins
* comparison   means, spreads and tests of rows that may share a table
* cells        compared rows as tables and sentences
* tables       text, Markdown, CSV, JSON, LaTeX
* claims       the papers' printed numbers
* reproduce    claims beside rows, with verdicts
* performance  results of benchmarks
* pages        the README of a track's folder, and the check that it is current
"""

from retrobench.leaderboard import claims, performance
from retrobench.leaderboard.evidence import PerQuery, keep_plugin, keep_track
from retrobench.leaderboard.folders import check_writable, locate, rows_folder, track_folders, track_name
from retrobench.leaderboard.performance import BenchmarkResult
from retrobench.leaderboard.reproduce import RunFiles, reproduce
from retrobench.leaderboard.rows import Row, append, read
from retrobench.leaderboard.tables import show_track, summarise_run

__all__ = [
    "BenchmarkResult",
    "PerQuery",
    "Row",
    "RunFiles",
    "append",
    "check_writable",
    "claims",
    "keep_plugin",
    "keep_track",
    "locate",
    "performance",
    "read",
    "reproduce",
    "rows_folder",
    "show_track",
    "summarise_run",
    "track_folders",
    "track_name",
]
