"""The check of objectives on every family of backbones, as the command line shows it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from retrobench.config import InstalledObjective, configure_objective, discover, find_objective, names_a_path
from retrobench.core import quiet_transformers, width_for
from retrobench.errors import RetrobenchError
from retrobench.model import Backbone
from retrobench.objective import Objective
from retrobench.testing.checking import check_objective, make_training
from retrobench.testing.families import FAMILIES
from retrobench.testing.steps import check_processes
from retrobench.training import deterministic

__all__ = ["Checked", "check_target"]

UNFOLDED = 10_000  # letters in a line, where there is no terminal


class Checked(NamedTuple):
    """The report as the terminal shows it, and exit code 1 where an objective breaks the contract."""

    text: str
    exit_code: int


def check_target(target: str, plugins: Sequence[Path] = ()) -> Checked:
    """Check the objective of a name, or every objective of a file or folder, on BERT, RoBERTa and ModernBERT.

    A folder is told from a name by a separator, as in `./folder`. RetrobenchError for an unknown name or path.
    """
    quiet_transformers()
    lines = []
    exit_code = 0
    for row in _find(target, plugins):
        lines.append(f"{row.name} ({row.source})")
        faults = 0
        files = plugins if row.file is None else [*plugins, row.file]
        for family, report in _check(row, files):
            lines.append(_folded(f"  {family:<12}{report.text}"))
            faults += report.exit_code
        exit_code = max(exit_code, min(faults, 1))
    return Checked("\n".join(lines), exit_code)


def _folded(line: str) -> str:
    """Return a line folded to a terminal, below its text; as it is in a pipe."""
    indent = " " * len("  modernbert  ok     ")
    width = width_for(UNFOLDED)
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _find(target: str, plugins: Sequence[Path]) -> list[InstalledObjective]:
    if not names_a_path(target):
        return [find_objective(target, discover(plugins))]
    return [row for row in discover([Path(target)]) if row.file is not None]


def _check(row: InstalledObjective, plugins: Sequence[Path]) -> list[tuple[str, Checked]]:
    """Return a report for each family; a single one where there is nothing to train."""
    if row.status != "ok" or row.objective is None:
        return [("contract", Checked(f"FAULT  {row.reason}", 1))]
    if not row.objective.pretrains:
        return [("contract", _report(row.objective, None))]
    reports = [(family, _report(row.objective, make())) for family, make in FAMILIES.items()]
    if not any(report.exit_code for _, report in reports):
        reports.append(("processes", _report_processes(row, plugins)))
    return reports


def _report_processes(row: InstalledObjective, plugins: Sequence[Path]) -> Checked:
    """Return whether two processes train as one that takes two shards in turn."""
    assert row.objective is not None
    try:
        with deterministic():
            check_processes(row.name, make_training(configure_objective(row.objective, {})), plugins)
    except (AssertionError, RetrobenchError) as fault:
        return Checked(f"FAULT  {fault}", 1)
    return Checked("ok     two processes train as one with two shards", 0)


def _report(objective: type[Objective], backbone: Backbone | None) -> Checked:
    """Return the batch and losses of a sound objective, or the fault."""
    try:
        seen = check_objective(objective, backbone)
    except (AssertionError, RetrobenchError) as fault:
        return Checked(f"FAULT  {fault}", 1)
    if seen is None:
        return Checked("ok     nothing to pre-train", 0)
    batch = ", ".join(f"{name} {shape}" for name, shape in seen.shapes.items())
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in seen.losses.items())
    return Checked(f"ok     losses {losses}; batch {batch}", 0)
