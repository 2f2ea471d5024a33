"""
Rows compared: the lines that may share a table, and the tests of their differences.

* board       the rows of a track from all its folders, with the files beside them
* declared    the tables that a folder declares
* lines       an entrant over its seeds
* comparison  lines in order of the main measure, with a pair for every two
* compare     rows -> comparisons
"""

from retrobench.leaderboard.comparison.board import Board
from retrobench.leaderboard.comparison.compare import (
    BASELINES,
    add_tests,
    check_same_data,
    check_same_queries,
    compare,
    compare_lines,
    compare_pairs,
    tested_on,
    transfer_columns,
)
from retrobench.leaderboard.comparison.comparison import Comparison, DatasetMeasure, opponent
from retrobench.leaderboard.comparison.declared import Across, Expectation, Grid
from retrobench.leaderboard.comparison.lines import OWN, Line, find_namesakes, format_override, group_lines

__all__ = [
    "BASELINES",
    "OWN",
    "Across",
    "Board",
    "Comparison",
    "DatasetMeasure",
    "Expectation",
    "Grid",
    "Line",
    "add_tests",
    "check_same_data",
    "check_same_queries",
    "compare",
    "compare_lines",
    "compare_pairs",
    "find_namesakes",
    "format_override",
    "group_lines",
    "opponent",
    "tested_on",
    "transfer_columns",
]
