"""The commands below `retrobench objectives`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from retrobench.cli.options import (
    AsDistribution,
    AsJson,
    NewName,
    ObjectiveOrPath,
    OneJson,
    Plugins,
    ShownObjective,
    Wide,
)
from retrobench.cli.process import show_result
from retrobench.core import Column, Table
from retrobench.errors import RetrobenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrobench.config import InstalledObjective

__all__ = ["objectives"]

LISTED_FIELDS = ("name", "distribution", "version", "paper", "status", "reason")  # of an installed objective

objectives = typer.Typer(
    invoke_without_command=True,
    help="List the installed objectives and their faults; show, check or begin one.",
)


@objectives.callback()
def objectives_group(context: typer.Context, plugin: Plugins, json: AsJson = False, wide: Wide = False) -> None:
    """List the installed objectives and their faults; show, check or begin one."""
    if context.invoked_subcommand is None:
        objectives_list(plugin, json)
    elif plugin or json:
        raise RetrobenchError(f"Give --plugin and --json behind `objectives {context.invoked_subcommand}`.")


@objectives.command("list")
def objectives_list(plugin: Plugins, json: AsJson = False, wide: Wide = False) -> None:
    """List the installed objectives and their faults, as `objectives` alone does."""
    from retrobench.config import discover

    installed = discover(plugin)
    show_result(_as_json(installed) if json else _table(installed))


@objectives.command("show")
def objectives_show(objective: ShownObjective, plugin: Plugins, json: OneJson = False, wide: Wide = False) -> None:
    """Print an objective's idea, settings and presets, and measure its cost beside mlm's."""
    from retrobench import testing

    description = testing.describe_objective(objective, plugin)
    show_result(description.json() if json else description.text())


@objectives.command("new")
def objectives_new(name: NewName, distribution: AsDistribution = False) -> None:
    """Write a working objective to begin with: ./NAME.py, or a folder ./retrobench-NAME that pip installs."""
    from retrobench import testing

    show_result(testing.write_objective(name, distribution))


@objectives.command("check")
def objectives_check(target: ObjectiveOrPath, plugin: Plugins) -> None:
    """Check that an objective keeps the contract, on BERT, RoBERTa and ModernBERT. Exit 1 at a fault."""
    from retrobench import testing

    checked = testing.check_target(target, plugin)
    show_result(checked.text)
    raise typer.Exit(checked.exit_code)


def _as_json(installed: Sequence[InstalledObjective]) -> str:
    import json

    return json.dumps(_list(installed, LISTED_FIELDS).records(), indent=2, ensure_ascii=False)


def _table(installed: Sequence[InstalledObjective]) -> str:
    """Return the objectives as a table. The column of reasons is dropped where it is empty."""
    fields = ["name", "status", "version", "paper", "distribution"]  # what a narrow terminal leaves out comes last
    if any(row.reason for row in installed):
        fields.insert(2, "reason")
    return _list(installed, fields).text()


def _list(installed: Sequence[InstalledObjective], fields: Sequence[str]) -> Table:
    rows = []
    for row in installed:
        rows.append([getattr(row, name) or None for name in fields])
    return Table([Column(name) for name in fields], rows)
