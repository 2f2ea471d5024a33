"""
Rows of a leaderboard, and the tables and pages rendered from them.

* rows         rows, and the files beside them
* comparison   lines that may share a table, with the tests of their differences
* tables       comparisons as tables and sentences: text, Markdown, CSV, JSON, LaTeX
* claims       the papers' printed numbers
* reproduce    claims beside rows, with verdicts
* performance  results of benchmarks
* report       a page that opens from disk
* guide        the generated parts of the guide
* pages        the README of a track's folder, and the check that it is current
"""

from retrobench.leaderboard import claims, performance
from retrobench.leaderboard.comparison import format_override
from retrobench.leaderboard.performance import BenchmarkResult
from retrobench.leaderboard.report import NamedPair, Report, write_report
from retrobench.leaderboard.reproduce import RunFiles, reproduce
from retrobench.leaderboard.rows import (
    ABOVE,
    CONTROL,
    COVERAGE_FILE,
    LESS,
    Bounds,
    Corridor,
    CoverageRecord,
    Inspected,
    PerQuery,
    Row,
    append,
    append_coverage,
    check_writable,
    find_row,
    inspect,
    inspect_tracks,
    keep_curve,
    keep_plugin,
    keep_track,
    kept_files,
    load_per_query,
    load_track,
    locate,
    missing_files,
    read,
    read_corridors,
    row_name,
    rows_folder,
    track_folders,
    track_name,
    write_clusters,
)
from retrobench.leaderboard.tables import (
    Judged,
    SideBySide,
    View,
    coverage_text,
    show_row,
    show_track,
    side_by_side,
    summarise_run,
)

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
