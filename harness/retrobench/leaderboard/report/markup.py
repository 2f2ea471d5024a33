"""Tables and blocks of sections as HTML. Every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

from retrobench.core import Column, Table
from retrobench.errors import printable
from retrobench.leaderboard.tables import Block, Commands

__all__ = ["render_block", "render_paragraph", "render_table"]


def render_table(table: Table, caption: str = "") -> Markup:
    """Return a table with column headers and, where it has one, a caption. Marks stand behind the cell before them."""
    parts = [Markup("<table>")]
    if caption:
        parts.append(Markup("<caption>{}</caption>").format(caption))
    parts.append(Markup("<thead><tr>"))
    for column in table.columns:
        if column.kind != "marks":
            parts.append(_header(column))
    parts.append(Markup("</tr></thead><tbody>"))
    for row in table.rows:
        parts.append(Markup("<tr>{}</tr>").format(Markup("").join(_cells(table, row))))
    parts.append(Markup("</tbody></table>"))
    return Markup("").join(parts)


def _cells(table: Table, row: Iterable[object]) -> list[Markup]:
    cells: list[Markup] = []
    contents: list[tuple[Column, Markup]] = []
    for column, value in zip(table.columns, row, strict=True):
        text = "" if value is None else escape(printable(str(value)))
        if column.kind == "marks":
            if text:
                previous, content = contents[-1]
                contents[-1] = previous, Markup("{}<sup>{}</sup>").format(content, text)
        else:
            contents.append((column, Markup(text)))
    for column, content in contents:
        cells.append(Markup("<td{}>{}</td>").format(_side(column), content))
    return cells


def _header(column: Column) -> Markup:
    """Return the header of a column; a screen reader has nothing to say of an empty one."""
    if not column.name:
        return Markup("<td></td>")
    return Markup('<th scope="col"{}>{}</th>').format(_side(column), column.name)


def _side(column: Column) -> Markup:
    return Markup(' class="right"') if column.align == "right" else Markup("")


def render_paragraph(text: str) -> Markup:
    """Return a paragraph, with words between backticks as code."""
    parts = []
    for number, part in enumerate(printable(text).split("`")):
        parts.append(Markup("<code>{}</code>").format(part) if number % 2 else escape(part))
    return Markup("<p>{}</p>").format(Markup("").join(parts))


def render_block(block: Block, label: str) -> Markup:
    """Return a table, a paragraph, or commands, as HTML. Each table of a page needs another label."""
    if isinstance(block, Table):
        region = '<div class="scroll" tabindex="0" role="region" aria-label="{}">{}</div>'
        return Markup(region).format(label, render_table(block))
    if isinstance(block, Commands):
        return Markup("<pre>{}</pre>").format(printable("\n".join(block.lines)))
    return render_paragraph(block)
