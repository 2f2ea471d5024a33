"""
Find installed objectives. A broken or duplicate objective is listed with its reason and never raises.

* discover          list the objectives of the entry-point group `retrobench`, and of given files and folders
* find_objective    return the usable objective of a name
* names_a_path      tell a plugin's path from an objective's name
* parse_objective   split `NAME:PRESET`
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pluggy import HookCaller, PluginManager

from retrobench import objective as contract
from retrobench.config.declaration import HOOK, check_objective_class
from retrobench.config.plugins import Plugin, explain, installed_plugins, plugins_at
from retrobench.errors import RetrobenchError, unknown
from retrobench.objective import Objective

__all__ = ["InstalledObjective", "discover", "find_objective", "names_a_path", "parse_objective"]


@dataclass(frozen=True)
class InstalledObjective:
    """An objective that a plugin provides, or a plugin that failed to provide any."""

    name: str  # the objective's; the entry point's or the file's stem where the objective could not be read
    distribution: str  # the path as given for a `--plugin`
    version: str  # empty for a `--plugin`
    paper: str
    status: Literal["ok", "failed", "duplicate"]
    reason: str  # one line, empty when ok
    objective: type[Objective] | None = None
    code: str = ""  # a hash of the plugin's source and of the helpers that it imports
    file: Path | None = None  # of a `--plugin`: a module, or a package's folder

    @property
    def source(self) -> str:
        """Return the distribution with its version, or the path."""
        return f"{self.distribution} {self.version}".strip()


def discover(paths: Sequence[Path] = ()) -> list[InstalledObjective]:
    """Return every objective installed or defined in files and folders, sorted by name.

    A plugin that cannot be loaded, or whose class breaks the contract, has the status "failed" and one line of reason.
    Objectives of one name all become "duplicate".

    Raises RetrobenchError for a path without a plugin.
    """
    installed: list[InstalledObjective] = []
    for plugin in (*installed_plugins(), *plugins_at(paths)):
        installed += _load_objectives(plugin)
    installed = _mark_duplicates(installed)
    return sorted(installed, key=lambda row: (row.name, row.distribution, row.version))


def find_objective(
    name: str, installed: Iterable[InstalledObjective], baselines: Iterable[str] = ()
) -> InstalledObjective:
    """Return the usable objective called `name`. The error for an unknown name lists the `baselines` too.

    Raises RetrobenchError for an unknown name, for a path in its place, and for a name that a failed or duplicate
    plugin claims.
    """
    if names_a_path(name):
        raise _path_as_name(name)
    rows = list(installed)
    claims = [row for row in rows if row.name == name]
    if not claims:
        raise _unknown_objective(name, rows, baselines)
    faults = dict.fromkeys(_fault(row) for row in claims if row.status != "ok")
    if faults:
        raise RetrobenchError(
            f"Objective {name!r} cannot be used: {'; '.join(faults)}. Mend or remove the plugin; "
            "`retrobench objectives` lists them all."
        )
    return claims[0]


def names_a_path(text: str) -> bool:
    """Return whether a text is a plugin's file or folder: it ends in .py, or has a separator, or is `.`."""
    return text.endswith(".py") or os.sep in text or text in (".", "..")


def _path_as_name(path: str) -> RetrobenchError:
    """Return the error for a path where a name is due, with the names that the path gives."""
    rows = [row for row in discover([Path(path)]) if row.file is not None]
    broken = [f"{row.name} failed: {row.reason}" for row in rows if row.objective is None]
    if broken:
        return RetrobenchError(f"{path!r} is a path, not an objective's name, and {'; '.join(broken)}")
    names = " ".join(f"--objective {row.name}" for row in rows)
    return RetrobenchError(f"{path!r} is a path, not an objective's name. Give --plugin {path} {names}.")


def _unknown_objective(name: str, rows: list[InstalledObjective], baselines: Iterable[str]) -> RetrobenchError:
    failures = [f"{row.name} of {row.source} ({row.reason})" for row in rows if row.status == "failed"]
    hint = "`retrobench objectives` lists them."
    if failures:
        hint = f"Not loaded: {'; '.join(failures)}"
    usable = {row.name for row in rows if row.status == "ok"}
    return unknown("objective", name, usable.union(baselines), hint)


def _fault(row: InstalledObjective) -> str:
    if row.status == "duplicate":
        return row.reason
    return f"{row.source} failed: {row.reason.rstrip('.')}"


def _load_objectives(plugin: Plugin) -> list[InstalledObjective]:
    failed = InstalledObjective(plugin.name, plugin.distribution, plugin.version, "", "failed", "", file=plugin.file)
    try:
        with redirect_stdout(sys.stderr):  # a plugin that prints must not spoil --json
            classes = _call_hook(plugin.load(), f"{failed.source}: {plugin.name}")
            code = plugin.code()
            return [_check_candidate(plugin, failed, candidate, code) for candidate in classes]
    except (Exception, SystemExit) as error:
        return [replace(failed, reason=explain(error, plugin))]


def _call_hook(module: object, label: str) -> list[object]:
    # Each plugin has a manager of its own. pluggy drops the second of two entry points with one name, and a fault in
    # a shared manager could not be traced to a plugin.
    manager = PluginManager("retrobench")
    manager.add_hookspecs(contract)
    manager.register(module, name=label)
    _check_hooks(manager.get_hookcallers(module) or [])
    results = manager.hook.retrobench_objectives()
    classes = results[0] if results else None
    if isinstance(classes, str) or not isinstance(classes, Sequence) or not classes:
        raise RetrobenchError(f"{HOOK}() must return a sequence of classes, not {classes!r}.")
    return list(classes)


def _check_hooks(callers: list[HookCaller]) -> None:
    for caller in callers:
        optional = all(implementation.optionalhook for implementation in caller.get_hookimpls())
        if not caller.has_spec() and not optional:
            raise unknown("hook", caller.name, [HOOK])
    if HOOK not in [caller.name for caller in callers]:
        raise RetrobenchError(f"No hook in it; mark a function {HOOK}() with @retrobench.hookimpl.")


def _check_candidate(plugin: Plugin, failed: InstalledObjective, candidate: object, code: str) -> InstalledObjective:
    """Return the candidate as a usable objective, or `failed` with the reason."""
    name = getattr(candidate, "name", None)
    if isinstance(name, str) and name:
        failed = replace(failed, name=name)
    try:
        objective = check_objective_class(candidate)
    except Exception as error:
        return replace(failed, reason=explain(error, plugin))
    return replace(failed, paper=objective.paper, status="ok", objective=objective, code=code)


def _mark_duplicates(installed: list[InstalledObjective]) -> list[InstalledObjective]:
    sources: defaultdict[str, list[str]] = defaultdict(list)
    for row in installed:
        if row.status == "ok":
            sources[row.name].append(row.source)
    marked = []
    for row in installed:
        providers = sources[row.name]
        if row.status == "ok" and len(providers) > 1:
            names = " and ".join(sorted(set(providers)))
            row = replace(row, status="duplicate", reason=f"provided {len(providers)} times, by {names}")
        marked.append(row)
    return marked


def parse_objective(text: str) -> tuple[str, str | None]:
    """Return name and preset: `dupmae:paper` gives ("dupmae", "paper"), `dupmae` gives ("dupmae", None)."""
    name, colon, preset = text.partition(":")
    if not name or (colon and not preset):
        raise RetrobenchError(f"Objective {text!r} is neither NAME nor NAME:PRESET.")
    return name, preset or None
