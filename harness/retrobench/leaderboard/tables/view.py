"""The choices of a reader of tables: measures, columns, baseline, and the label and caption of a LaTeX table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from retrobench.core import Table
from retrobench.errors import RetrobenchError, unknown
from retrobench.leaderboard.tables.cells import Section

__all__ = ["View", "select_columns"]


@dataclass(frozen=True)
class View:
    """A reader's choices. The empty ones show everything under the default names."""

    measures: Sequence[str] = ()  # the first ranks the lines and is tested
    columns: Sequence[str] = ()  # beside the measures
    baseline: str | None = None
    label: str = ""
    caption: str = ""

    def check(self, format: str) -> None:
        """Raise RetrobenchError for a choice that a format does not have."""
        if self.columns and format in ("csv", "json"):
            raise RetrobenchError(f"--columns is for tables, and {format} holds every column. Leave it out.")
        if (self.label or self.caption) and format != "latex":
            raise RetrobenchError(f"--label and --caption are LaTeX's, and the format is {format}. Add --format latex.")


def select_columns(section: Section, names: Sequence[str]) -> Section:
    """Return a section whose first table has only these columns beside its measures. Empty `names` keep all."""
    table = section.blocks[0]
    if not names or not isinstance(table, Table):
        return section
    choices = [column.name for column in table.columns if column.name and column.kind not in ("measure", "marks")]
    for name in names:
        if name not in choices:
            raise unknown("column", name, choices)
    indices = []
    for index, column in enumerate(table.columns):
        if column.name in ("", *names) or column.kind in ("measure", "marks"):
            indices.append(index)
    rows = [[row[index] for index in indices] for row in table.rows]
    selected = Table([table.columns[index] for index in indices], rows)
    return replace(section, blocks=(selected, *section.blocks[1:]))
