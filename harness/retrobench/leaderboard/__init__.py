"""
Rows of a leaderboard, and the tables and pages rendered from them.

* folders      where tracks are looked up and where rows go
* rows         rows, appended and read
* evidence     the files beside the rows: values by query, resolved tracks, plugins
* curves       the logs of trainings
* corridors    the losses of a healthy seed, from those logs
* clusters     queries that depend on each other, in files beside the rows
* board        the rows of a track from all its folders, with the files beside them
* naming       rows by name
* showing      everything that one row stands on
* lines        an entrant over its seeds
* comparison   lines that may share a table, with the tests of their differences
* compare      rows -> comparisons
* differences  intervals of differences, as a table and sentences
* footnotes    sentences on data, BM25 and training under a table
* formatting   values as text
* cells        compared rows as tables and sentences
* view         the choices of a reader of tables
* tables       text, Markdown, CSV, JSON, LaTeX
* side_by_side two systems, and the questions that differ most
* transfer     datasets that a track tests where they are at hand
* declared     the tables that a folder declares
* variants     those tables, from rows of several tracks
* term_coverage    the words that vectors name, beside the rows
* coverage_tables  their tables
* probed           coverage and retrieval at the checkpoints of a run
* claims       the papers' printed numbers
* reproduce    claims beside rows, with verdicts
* performance  results of benchmarks
* report       a page that opens from disk
* pages        the README of a track's folder, and the check that it is current
"""

from retrobench.leaderboard import claims, performance
from retrobench.leaderboard.clusters import write_clusters
from retrobench.leaderboard.corridors import Bounds, Corridor, read_corridors
from retrobench.leaderboard.coverage_tables import coverage_text
from retrobench.leaderboard.curves import keep_curve
from retrobench.leaderboard.evidence import (
    PerQuery,
    keep_plugin,
    keep_track,
    kept_files,
    load_per_query,
    load_track,
    missing_files,
)
from retrobench.leaderboard.folders import check_writable, locate, rows_folder, track_folders, track_name
from retrobench.leaderboard.lines import format_override
from retrobench.leaderboard.naming import find_row, inspect_tracks, row_name
from retrobench.leaderboard.performance import BenchmarkResult
from retrobench.leaderboard.report import NamedPair, Report, write_report
from retrobench.leaderboard.reproduce import RunFiles, reproduce
from retrobench.leaderboard.rows import Inspected, Row, append, inspect, read
from retrobench.leaderboard.showing import show_row
from retrobench.leaderboard.side_by_side import Judged, SideBySide, side_by_side
from retrobench.leaderboard.tables import show_track, summarise_run
from retrobench.leaderboard.term_coverage import ABOVE, CONTROL, COVERAGE_FILE, LESS, CoverageRecord, append_coverage
from retrobench.leaderboard.view import View

__all__ = [
    "ABOVE",
    "CONTROL",
    "COVERAGE_FILE",
    "LESS",
    "BenchmarkResult",
    "Bounds",
    "Corridor",
    "CoverageRecord",
    "Inspected",
    "Judged",
    "NamedPair",
    "PerQuery",
    "Report",
    "Row",
    "RunFiles",
    "SideBySide",
    "View",
    "append",
    "append_coverage",
    "check_writable",
    "claims",
    "coverage_text",
    "find_row",
    "format_override",
    "inspect",
    "inspect_tracks",
    "keep_curve",
    "keep_plugin",
    "keep_track",
    "kept_files",
    "load_per_query",
    "load_track",
    "locate",
    "missing_files",
    "performance",
    "read",
    "read_corridors",
    "reproduce",
    "row_name",
    "rows_folder",
    "show_row",
    "show_track",
    "side_by_side",
    "summarise_run",
    "track_folders",
    "track_name",
    "write_clusters",
    "write_report",
]
