"""
Find installed objectives. A broken or duplicate objective is listed with its reason and never raises.

* discover               list the objectives of the entry-point group `retrobench` and of given files
* find_objective         return the usable objective of a name
* check_objective_class  check a class against the contract
* parse_objective        split `NAME:PRESET`
* find_preset            return the settings of a preset
* split_stages           divide settings into the objective's own and those of single stages
* configure_objective    make a frozen objective from settings
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from pluggy import HookCaller, PluginManager

from retrobench import objective as contract
from retrobench.config.baseline import Bm25
from retrobench.config.fingerprint import fingerprint
from retrobench.config.reading import STAGES
from retrobench.core import build_record
from retrobench.errors import RetrobenchError, unknown
from retrobench.objective import Objective

__all__ = [
    "InstalledObjective",
    "check_objective_class",
    "configure_objective",
    "discover",
    "find_objective",
    "find_preset",
    "parse_objective",
    "split_stages",
]

HOOK = "retrobench_objectives"
CONTRACT = 1  # the version of the contract in `objective.py`
MEMBERS: dict[str, tuple[type, str]] = {
    "contract": (int, f"{CONTRACT}"),
    "name": (str, "a text"),
    "paper": (str, "a text"),
    "pretrains": (bool, "True or False"),
    "couples_batch": (bool, "True or False"),
    "representation": (str, "a text"),
    "presets": (Mapping, "a mapping from names to settings"),
}


@dataclass(frozen=True)
class InstalledObjective:
    """An objective that a plugin provides, or a plugin that failed to provide any."""

    name: str  # the objective's; the entry point's or the file's stem where the objective could not be read
    distribution: str  # the path as given for a `--plugin` file
    version: str  # empty for a `--plugin` file
    paper: str
    status: Literal["ok", "failed", "duplicate"]
    reason: str  # one line, empty when ok
    objective: type[Objective] | None = None
    code: str = ""  # a hash of the plugin's source and of the helpers that it imports
    file: Path | None = None  # of a `--plugin`

    @property
    def source(self) -> str:
        """Return the distribution with its version, or the file."""
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class _Plugin:
    """A source of objectives that has not been imported yet."""

    name: str
    distribution: str
    version: str
    load: Callable[[], object]
    code: Callable[[], str]
    file: Path | None = None


def discover(files: Sequence[Path] = ()) -> list[InstalledObjective]:
    """Return every objective installed or defined in `files`, sorted by name.

    A plugin that cannot be loaded, or whose class breaks the contract, has the status "failed" and one line of reason.
    Objectives of one name all become "duplicate".

    Raises RetrobenchError for a file that does not exist or has another suffix than `.py`.
    """
    installed: list[InstalledObjective] = []
    for plugin in (*_installed_plugins(), *_file_plugins(files)):
        installed += _load_objectives(plugin)
    installed = _mark_duplicates(installed)
    return sorted(installed, key=lambda row: (row.name, row.distribution, row.version))


def find_objective(
    name: str, installed: Iterable[InstalledObjective], baselines: Iterable[str] = ()
) -> InstalledObjective:
    """Return the usable objective called `name`. The error for an unknown name lists the `baselines` too.

    Raises RetrobenchError for an unknown name, and for a name that a failed or duplicate plugin claims.
    """
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


def _installed_plugins() -> Iterator[_Plugin]:
    for point in entry_points(group="retrobench"):
        distribution = cast(Distribution, point.dist)
        name, version = _release(distribution)
        code = partial(_code, point, distribution)
        yield _Plugin(point.name, name, version, point.load, code)


def _release(distribution: Distribution) -> tuple[str, str]:
    """Return a distribution's name and version, "unknown" where its metadata cannot be read."""
    try:
        return distribution.name or "unknown", distribution.version or "unknown"
    except Exception:  # metadata may be damaged in more ways than importlib names
        return "unknown", "unknown"


def _code(point: EntryPoint, distribution: Distribution) -> str:
    """Return a hash of the plugin's source: a version may stay while the source changes."""
    top_name = point.module.partition(".")[0]
    source = _source_path(sys.modules[top_name])
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable", False):
        return fingerprint(source)
    # An installed module stands among other distributions, which do not count. Nor does retrobench,
    # whose version counts.
    names = {file.parts[0].removesuffix(".py") for file in distribution.files or ()}
    return fingerprint(source, names - {"retrobench"})


def _source_path(module: ModuleType) -> Path:
    """Return a package's folder, or a module's file."""
    for folder in getattr(module, "__path__", ()):
        return Path(folder)
    return Path(cast(str, module.__file__))


def _file_plugins(files: Sequence[Path]) -> Iterator[_Plugin]:
    paths: dict[Path, Path] = {}  # as given on the command line, by resolved path
    for path in files:
        paths.setdefault(path.resolve(), path)
    for file, path in paths.items():
        if file.suffix != ".py" or not file.is_file():
            raise RetrobenchError(f"Plugin file {str(path)!r} is missing or no .py file. Give --plugin another.")
        yield _Plugin(path.stem, str(path), "", partial(_load_file, file), partial(fingerprint, file), file)


def _load_file(file: Path) -> object:
    # The path is in the module's name so that two files of one stem, or a stem like `json`, cannot collide.
    path_hash = hashlib.sha256(str(file).encode()).hexdigest()
    name = f"{file.stem}_{path_hash[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_objectives(plugin: _Plugin) -> list[InstalledObjective]:
    failed = InstalledObjective(plugin.name, plugin.distribution, plugin.version, "", "failed", "", file=plugin.file)
    try:
        with redirect_stdout(sys.stderr):  # a plugin that prints must not spoil --json
            classes = _call_hook(plugin.load(), f"{failed.source}: {plugin.name}")
            code = plugin.code()
            return [_check_candidate(failed, candidate, code) for candidate in classes]
    except (Exception, SystemExit) as error:
        return [replace(failed, reason=_one_line(error))]


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


def _check_candidate(failed: InstalledObjective, candidate: object, code: str) -> InstalledObjective:
    """Return the candidate as a usable objective, or `failed` with the reason."""
    name = getattr(candidate, "name", None)
    if isinstance(name, str) and name:
        failed = replace(failed, name=name)
    try:
        objective = check_objective_class(candidate)
    except Exception as error:
        return replace(failed, reason=_one_line(error))
    return replace(failed, paper=objective.paper, status="ok", objective=objective, code=code)


def check_objective_class(candidate: object) -> type[Objective]:
    """Return `candidate` if it keeps the contract. RetrobenchError names the first member that breaks it."""
    if not isinstance(candidate, type):
        raise RetrobenchError(f"{HOOK}() must return classes, not {candidate!r}.")
    params = vars(candidate).get("__dataclass_params__")  # a parent's would not cover the fields added here
    if params is None or not params.frozen:
        raise RetrobenchError(
            f"{candidate.__name__} is not a frozen dataclass; decorate it with @dataclass(frozen=True)."
        )
    objective = cast("type[Objective]", candidate)
    fields = dataclasses.fields(cast(Any, candidate))
    _check_members(objective, fields)
    _check_methods(objective)
    _check_settings(objective, fields)
    return objective


def _check_members(objective: type[Objective], fields: tuple[dataclasses.Field[Any], ...]) -> None:
    label = objective.__name__
    keys = [field.name for field in fields]
    for member, (kind, words) in MEMBERS.items():
        if member in keys or not isinstance(getattr(objective, member, None), kind):
            raise RetrobenchError(f"{label}.{member} must be {words}, declared as a ClassVar.")
    if objective.contract != CONTRACT:
        raise RetrobenchError(
            f"{label}.contract is {objective.contract}, and this version of retrobench keeps contract {CONTRACT}. "
            "Install the versions of both that belong together."
        )
    if not re.fullmatch(r"[\w.-]+", objective.name) or objective.name.endswith(".toml"):
        raise RetrobenchError(f"{label}.name is {objective.name!r}; use letters, digits and . _ - (no .toml).")


def _check_methods(objective: type[Objective]) -> None:
    if not objective.pretrains:
        return
    for method in ("collate", "wrap"):
        if getattr(objective, method, None) in (None, getattr(Objective, method)):
            raise RetrobenchError(f"{objective.__name__}.{method}() is missing; an objective that pre-trains needs it.")
    names = list(inspect.signature(objective.wrap).parameters)
    if len(names) != 3:
        raise RetrobenchError(
            f"{objective.__name__}.wrap() must take (self, backbone, context), not {', '.join(names)}."
        )


def _check_settings(objective: type[Objective], fields: tuple[dataclasses.Field[Any], ...]) -> None:
    """Check that every setting has a default, and that defaults and presets keep their types and bounds."""
    for field in fields:
        if field.default is field.default_factory is dataclasses.MISSING:
            raise RetrobenchError(f"{objective.__name__}.{field.name} has no default; every setting needs one.")
    defaults = configure_objective(objective, {})
    configure_objective(objective, {field.name: getattr(defaults, field.name) for field in fields})
    for name in objective.presets:
        own, by_stage = split_stages(find_preset(objective, name))
        configure_objective(objective, own)
        for settings in by_stage.values():
            if "objective" not in settings:
                configure_objective(objective, {**own, **settings})


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


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, RetrobenchError):
        return text
    return f"{type(error).__name__}: {text}"


def parse_objective(text: str) -> tuple[str, str | None]:
    """Return name and preset: `dupmae:paper` gives ("dupmae", "paper"), `dupmae` gives ("dupmae", None)."""
    name, colon, preset = text.partition(":")
    if not name or (colon and not preset):
        raise RetrobenchError(f"Objective {text!r} is neither NAME nor NAME:PRESET.")
    return name, preset or None


def find_preset(objective: type[Objective] | type[Bm25], name: str | None) -> dict[str, Any]:
    """Return the settings of the preset `name` of an objective or a baseline; None has none."""
    if name is None:
        return {}
    if name not in objective.presets:
        raise unknown(f"{objective.name} preset", name, objective.presets)
    return dict(objective.presets[name])


def split_stages(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return an objective's own settings, and the settings of each stage, which stand as `pretrain.KEY` or `adapt.KEY`.

    The key `objective` of a stage names another objective.
    """
    own: dict[str, Any] = {}
    by_stage: dict[str, dict[str, Any]] = {stage: {} for stage in STAGES}
    for key, value in settings.items():
        stage, dot, stage_key = key.partition(".")
        if dot and stage in by_stage:
            by_stage[stage][stage_key] = value
        else:
            own[key] = value
    return own, by_stage


def configure_objective(objective: type[Objective], settings: Mapping[str, Any]) -> Objective:
    """Return the frozen objective with `settings` in place of its defaults. Errors are those of `build_record`."""
    return build_record(objective, settings, objective.name, "objective.")
