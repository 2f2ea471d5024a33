"""The commands of `retrobench --help` below headings, and a command with an option that typer lacks."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["GROUPS", "Grouped", "Pairing"]

# Every command stands in one group, in this order.
GROUPS = {
    "Compare objectives": ("run", "leaderboard", "compare", "report", "reproduce"),
    "Trust a number": ("verify", "show", "score", "evaluate", "coverage"),
    "Make a model": ("convert",),
    "Objectives": ("objectives",),
    "Data, tracks, store": ("data", "store"),
    "Machine": ("plan", "bench", "accept"),
}


class Grouped(TyperGroup):
    """The top level of the command line, whose help lists the commands by group."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # of typer's own copy of click, which is private
        """Write a section for each group, with a line of help for each command."""
        width = max(map(len, self.commands))
        for heading, names in GROUPS.items():
            with formatter.section(heading):
                lines = [(name.ljust(width), self.commands[name].get_short_help_str(150)) for name in names]
                formatter.write_dl(lines)


class Pairing(TyperCommand):
    """A command whose option `--pair` takes two values and may be repeated; typer has no type for both at once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for parameter in self.params:
            if parameter.name == "pair":
                parameter.nargs, parameter.multiple = 2, True
