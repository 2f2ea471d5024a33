"""
Rows, and the files beside them: everything that a track's folder holds.

* row            one measured entrant
* file           rows appended to `rows.jsonl`, and read with their checks
* values         the values that a row may hold
* evidence       values by query, resolved tracks, plugins
* clusters       queries that depend on each other
* curves         the logs of trainings
* corridors      the losses of a healthy seed, from those logs
* term_coverage  the words that vectors name, one line for each row and dataset
* folders        where tracks are looked up and where rows go
* naming         rows by name
"""

from retrobench.leaderboard.rows.clusters import (
    Clusters,
    LoadClusters,
    read_clusters,
    write_clusters,
    write_missing_clusters,
)
from retrobench.leaderboard.rows.corridors import Bounds, Corridor, read_corridors
from retrobench.leaderboard.rows.curves import curve_roles, keep_curve, read_curve, write_missing_curves
from retrobench.leaderboard.rows.evidence import (
    Load,
    PerQuery,
    has_values,
    keep_per_query,
    keep_plugin,
    keep_track,
    kept_faults,
    kept_files,
    load_per_query,
    load_track,
    missing_files,
    per_query_loader,
)
from retrobench.leaderboard.rows.file import Inspected, append, find_duplicate, inspect, read, read_file
from retrobench.leaderboard.rows.folders import (
    check_writable,
    folders_with_rows,
    locate,
    nearest_files,
    rows_folder,
    track_folders,
    track_name,
)
from retrobench.leaderboard.rows.naming import find_row, inspect_tracks, row_name
from retrobench.leaderboard.rows.row import Row, UnlikeError, full_entrant
from retrobench.leaderboard.rows.term_coverage import (
    ABOVE,
    CONTROL,
    COVERAGE_FILE,
    LESS,
    PRIOR,
    STATES,
    CoverageRecord,
    append_coverage,
    read_coverage,
)

__all__ = [
    "ABOVE",
    "CONTROL",
    "COVERAGE_FILE",
    "LESS",
    "PRIOR",
    "STATES",
    "Bounds",
    "Clusters",
    "Corridor",
    "CoverageRecord",
    "Inspected",
    "Load",
    "LoadClusters",
    "PerQuery",
    "Row",
    "UnlikeError",
    "append",
    "append_coverage",
    "check_writable",
    "curve_roles",
    "find_duplicate",
    "find_row",
    "folders_with_rows",
    "full_entrant",
    "has_values",
    "inspect",
    "inspect_tracks",
    "keep_curve",
    "keep_per_query",
    "keep_plugin",
    "keep_track",
    "kept_faults",
    "kept_files",
    "load_per_query",
    "load_track",
    "locate",
    "missing_files",
    "nearest_files",
    "per_query_loader",
    "read",
    "read_clusters",
    "read_corridors",
    "read_coverage",
    "read_curve",
    "read_file",
    "row_name",
    "rows_folder",
    "track_folders",
    "track_name",
    "write_clusters",
    "write_missing_clusters",
    "write_missing_curves",
]
