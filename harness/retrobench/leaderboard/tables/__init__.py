"""
Comparisons as tables and sentences.

* formatting    values as text
* cells         compared rows as tables and sentences
* differences   intervals of differences
* footnotes     sentences on data, BM25 and training under a table
* transfer      datasets that a track tests where they are at hand
* variants      the tables that a folder declares, from rows of several tracks
* coverage      term coverage
* probed        coverage and retrieval at the checkpoints of a run
* view          the choices of a reader
* rendering     text, Markdown, CSV, JSON, LaTeX
* side_by_side  two systems, and the questions that differ most
* showing       everything that one row stands on
"""

from retrobench.leaderboard.tables.cells import Block, Commands, Section, entrant_table, notes, sections
from retrobench.leaderboard.tables.coverage import coverage_records, coverage_sections, coverage_text
from retrobench.leaderboard.tables.differences import about_differences, difference_table, format_ranks
from retrobench.leaderboard.tables.formatting import clock, format_number, list_facts, one_line, shell_block, spread
from retrobench.leaderboard.tables.probed import PROBE_VALUES, Probed, probed_sections, read_probed
from retrobench.leaderboard.tables.rendering import (
    FORMATS,
    compare_board,
    lay_out,
    page_sections,
    render,
    show_track,
    summarise_run,
)
from retrobench.leaderboard.tables.showing import show_row
from retrobench.leaderboard.tables.side_by_side import Judged, SideBySide, side_by_side
from retrobench.leaderboard.tables.transfer import transfer_blocks
from retrobench.leaderboard.tables.variants import expectation_sections, read_variants
from retrobench.leaderboard.tables.view import View

__all__ = [
    "FORMATS",
    "PROBE_VALUES",
    "Block",
    "Commands",
    "Judged",
    "Probed",
    "Section",
    "SideBySide",
    "View",
    "about_differences",
    "clock",
    "compare_board",
    "coverage_records",
    "coverage_sections",
    "coverage_text",
    "difference_table",
    "entrant_table",
    "expectation_sections",
    "format_number",
    "format_ranks",
    "lay_out",
    "list_facts",
    "notes",
    "one_line",
    "page_sections",
    "probed_sections",
    "read_probed",
    "read_variants",
    "render",
    "sections",
    "shell_block",
    "show_row",
    "show_track",
    "side_by_side",
    "spread",
    "summarise_run",
    "transfer_blocks",
]
