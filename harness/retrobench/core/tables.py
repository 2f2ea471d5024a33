"""
Tables of all commands and pages.

* Column, Table   columns with their alignment and kind, and rows of values.
* Markdown        a cell that is Markdown source.
* escape_latex, escape_markdown   plain text as LaTeX or Markdown source.

Values come from rows that anybody writes. No value steers a terminal, ends its cell, or is a formula of a spreadsheet.

tabulate pads headers and escapes cells differently from the published pages. Rich takes seconds for the values of
7,000 queries, and breaks words at a terminal's edge. So this module lays out text, Markdown and LaTeX.
"""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from retrobench.core.screen import fit
from retrobench.errors import printable

__all__ = ["Column", "Markdown", "Table", "escape_latex", "escape_markdown"]

Value = str | int | float | None

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # begin a formula in a spreadsheet

Kind = Literal["text", "number", "measure", "marks", "cost"]
"""
text     names and words
number   counts, durations and similar figures
measure  scores
marks    letters that belong to the preceding cell: a column in text, a superscript in Markdown and LaTeX
cost     time, speed and memory, which a terminal shows below the measures
"""

GAP = "  "  # between the columns of text
RULE_LENGTH = 3  # the shortest rule below a Markdown header

LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "<": r"$<$",
        ">": r"$>$",
        **{letter: rf"\{letter}" for letter in "&%$#_{}"},
    }
)


class Markdown(str):
    """A cell that is Markdown source, such as a link, which is not escaped again."""


@dataclass(frozen=True)
class Column:
    """A column: its header, its alignment and the kind of its values."""

    name: str
    align: Literal["left", "right"] = "left"
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """Columns and rows. None is an empty cell. A table without column names has no header as text."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Value]]) -> Table:
        """Return a table with a column for every key, in the order of appearance."""
        keys: dict[str, None] = {}
        for record in records:
            keys |= dict.fromkeys(record)
        names = list(keys)
        rows = []
        for record in records:
            rows.append([record.get(name) for name in names])
        return cls([Column(name) for name in names], rows)

    def only(self, *kinds: Kind) -> Table:
        """Return the columns of these kinds."""
        indices = [index for index, column in enumerate(self.columns) if column.kind in kinds]
        rows = []
        for row in self.rows:
            rows.append([row[index] for index in indices])
        return Table([self.columns[index] for index in indices], rows)

    def without(self, kind: Kind) -> Table:
        """Return the columns of every other kind."""
        return self.only(*{column.kind for column in self.columns} - {kind})

    def text(self) -> str:
        """Return plain lines. Each column is as wide as its widest cell, and the table no wider than the terminal.

        A last line names the columns that a narrow terminal has no room for.
        """
        body = [_shown(row) for row in self.rows]
        header = _shown([column.name for column in self.columns])
        lines = [header, *body] if any(header) else body
        widths = _widths(lines, len(header))
        kept, folded = fit([column.kind for column in self.columns], widths, len(GAP))
        columns = [self.columns[index] for index in kept]
        texts = []
        for line in lines:
            for part in _folded([line[index] for index in kept], [folded.get(index) for index in kept]):
                cells = _aligned(part, [folded.get(index, widths[index]) for index in kept], columns)
                texts.append(GAP.join(cells).rstrip())
        omitted = [column.name for index, column in enumerate(self.columns) if index not in kept and column.name]
        if omitted:
            texts += ["", f"Too narrow for {', '.join(omitted)}: --wide prints every column."]
        return "\n".join(texts)

    def markdown(self) -> str:
        """Return a Markdown table, padded so that its source is readable."""
        columns, header, body = self._with_superscripts(escape_markdown, "<sup>{}</sup>")
        widths = _widths([header, *body], len(header), least=RULE_LENGTH)
        rule = [_rule(width, column) for width, column in zip(widths, columns, strict=True)]
        lines = [_aligned(header, widths, columns), rule]
        lines += [_aligned(line, widths, columns) for line in body]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def latex(self) -> str:
        r"""Return a `tabular` of LaTeX with the rules of booktabs."""
        columns, header, body = self._with_superscripts(escape_latex, r"$^{{\mathrm{{{}}}}}$")
        layout = "".join(column.align[0] for column in columns)
        head, *lines = [rf"{_begin_latex(' & '.join(cells))} \\" for cells in (header, *body)]
        return "\n".join(
            [
                rf"\begin{{tabular}}{{{layout}}}",
                r"\toprule",
                head,
                r"\midrule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}",
            ]
        )

    def csv(self) -> str:
        """Return comma-separated values below the names of the columns."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([_without_formula(column.name) for column in self.columns])
        for row in self.rows:
            writer.writerow([_without_formula(value) for value in row])
        return out.getvalue().rstrip("\n")

    def records(self) -> list[dict[str, Value]]:
        """Return every row by the names of the columns, ready for JSON."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]

    def _with_superscripts(
        self, escape: Callable[[str], str], superscript: str
    ) -> tuple[list[Column], list[str], list[list[str]]]:
        """Return columns, header and rows, escaped, with marks appended to the cells before them."""
        columns = [column for column in self.columns if column.kind != "marks"]
        body = []
        for row in self.rows:
            cells: list[str] = []
            for column, cell in zip(self.columns, _shown(row), strict=True):
                if column.kind != "marks":
                    cells.append(escape(cell))
                elif cell:
                    cells[-1] += superscript.format(escape(cell))
            body.append(cells)
        return columns, [escape(name) for name in _shown([column.name for column in columns])], body


def escape_latex(text: str) -> str:
    """Return LaTeX source that prints the text as it is, in one paragraph."""
    return re.sub(r"\s*\n\s*", " ", printable(text)).translate(LATEX)


def _begin_latex(line: str) -> str:
    r"""Return a line that LaTeX does not take for an option of the `\\\\` before it."""
    return f"{{}}{line}" if line.startswith(("[", "*")) else line


def escape_markdown(text: str) -> str:
    """Return Markdown source without tags, links and ends of cells, for a text of any origin."""
    if isinstance(text, Markdown):
        return text
    without_tags = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)  # "p < 0.05" begins no tag
    return without_tags.replace("|", "\\|").replace("](", "]\\(")


def _shown(row: Sequence[Value]) -> list[str]:
    """Return the cells of a row as printable texts of one line."""
    cells: list[str] = []
    for value in row:
        if isinstance(value, Markdown):
            cells.append(value)
        else:
            cells.append("" if value is None else re.sub(r"[\n\t]+", " ", printable(str(value))))
    return cells


def _without_formula(value: Value) -> Value:
    """Return a value that a spreadsheet shows as it is: a text that would be a formula gets an apostrophe."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    if text.startswith(FORMULA) and not re.fullmatch(r"-|[-+]?[\d.]+", text):
        return f"'{text}"
    return text


def _folded(cells: Sequence[str], widths: Sequence[int | None]) -> list[list[str]]:
    """Return a line of cells as several, where a cell is folded at words to its width."""
    parts = [
        [cell] if width is None else textwrap.wrap(cell, width) or [""]
        for cell, width in zip(cells, widths, strict=True)
    ]
    height = max(map(len, parts), default=0)
    lines = []
    for number in range(height):
        lines.append([part[number] if number < len(part) else "" for part in parts])
    return lines


def _widths(lines: Sequence[Sequence[str]], columns: int, least: int = 0) -> list[int]:
    """Return the width of every column in terminal cells. An East Asian letter takes two."""
    from rich.cells import cell_len

    widths = [least] * columns
    for line in lines:
        for index, cell in enumerate(line):
            widths[index] = max(widths[index], cell_len(cell))
    return widths


def _aligned(line: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> list[str]:
    """Return the cells of a line, padded to the widths of their columns."""
    from rich.cells import cell_len

    cells: list[str] = []
    for cell, width, column in zip(line, widths, columns, strict=True):
        padding = " " * (width - cell_len(cell))
        cells.append(padding + cell if column.align == "right" else cell + padding)
    return cells


def _rule(width: int, column: Column) -> str:
    if column.align == "right":
        return "-" * (width - 1) + ":"
    return "-" * width
