"""
Finds installed objectives. A broken or duplicate one is a row with its reason, never a crash.

* discover          every objective of the entry-point group `retrobench`, and of the files named
* get               the one asked for, or the line that says why it cannot be used
* checked           a class when it keeps the contract, or the line that says what it breaks
* parse_objective   `NAME:PRESET` taken apart
* preset            the settings that a preset stands for
* configure         settings to a frozen objective
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, cast

from pluggy import PluginManager

from retrobench import objective as contract
from retrobench.config.fingerprint import fingerprint
from retrobench.core import build
from retrobench.errors import RetrobenchError, unknown
from retrobench.objective import Objective

__all__ = ["Found", "checked", "configure", "discover", "get", "parse_objective", "preset"]

HOOK = "retrobench_objectives"
MEMBERS: dict[str, tuple[type, str]] = {
    "name": (str, "a text"),
    "paper": (str, "a text"),
    "pretrains": (bool, "True or False"),
    "couples_batch": (bool, "True or False"),
    "representation": (str, "a text"),
    "presets": (Mapping, "a mapping from names to settings"),
}


@dataclass(frozen=True)
class Found:
    """One objective that some plugin provides, or one plugin that could not provide any."""

    name: str  # the objective's; the entry point's, or the file's stem, where none could be read
    distribution: str  # the path as given for a `--plugin` file
    version: str  # empty for a `--plugin` file
    paper: str
    status: Literal["ok", "failed", "duplicate"]
    reason: str  # one line, empty when ok
    objective: type[Objective] | None = None
    code: str = ""  # for cache keys: distribution and version, or a hash of source that may change under them

    @property
    def source(self) -> str:
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class _Plugin:
    """Where objectives may come from, before anything of it has been imported."""

    name: str
    distribution: str
    version: str
    load: Callable[[], object]
    code: Callable[[], str]


def discover(files: Sequence[Path] = ()) -> list[Found]:
    """Every objective installed or defined in `files`, sorted by name.

    A plugin that cannot be loaded, or whose class breaks the contract, is a row of status "failed" with one
    line of reason; a name provided more than once makes each of its rows a "duplicate".

    Raises RetrobenchError for a file that is not there or is no `.py` file.
    """
    plugins = [*_installed(), *_from_files(files)]
    rows = _mark_duplicates([row for plugin in plugins for row in _rows(plugin)])
    return sorted(rows, key=lambda row: (row.name, row.distribution, row.version))


def get(name: str, found: Iterable[Found], others: Iterable[str] = ()) -> Found:
    """Return the usable objective called `name`. An error for a wrong name lists `others` beside the objectives.

    Raises RetrobenchError when there is none, and when a failed or duplicate plugin claims the name.
    """
    rows = list(found)
    claims = [row for row in rows if row.name == name]
    if not claims:
        lost = [f"{row.name} of {row.source} ({row.reason})" for row in rows if row.status == "failed"]
        hint = f"Not loaded: {'; '.join(lost)}" if lost else "`retrobench objectives` lists them."
        raise unknown("objective", name, {*others, *(row.name for row in rows if row.status == "ok")}, hint)
    faults = dict.fromkeys(_fault(row) for row in claims if row.status != "ok")
    if faults:
        raise RetrobenchError(
            f"Objective {name!r} cannot be used: {'; '.join(faults)}. Mend or remove the plugin; "
            "`retrobench objectives` lists them all."
        )
    return claims[0]


def _fault(row: Found) -> str:
    return row.reason if row.status == "duplicate" else f"{row.source} failed: {row.reason.rstrip('.')}"


def _installed() -> Iterator[_Plugin]:
    for point in entry_points(group="retrobench"):
        distribution = cast(Distribution, point.dist)
        name = version = "unknown"
        with suppress(Exception):  # metadata may be damaged in more ways than importlib names
            name, version = distribution.name or name, distribution.version or version
        yield _Plugin(point.name, name, version, point.load, partial(_code, point, distribution, f"{name} {version}"))


def _code(point: EntryPoint, distribution: Distribution, released: str) -> str:
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable", False):
        return released
    top = sys.modules[point.module.partition(".")[0]]
    return fingerprint(Path(next(iter(getattr(top, "__path__", ())), None) or cast(str, top.__file__)))


def _from_files(files: Sequence[Path]) -> Iterator[_Plugin]:
    for file, path in {path.resolve(): path for path in reversed(files)}.items():
        if file.suffix != ".py" or not file.is_file():
            raise RetrobenchError(f"Plugin file {str(path)!r} is missing or no .py file. Give --plugin another.")
        yield _Plugin(path.stem, str(path), "", partial(_load_file, file), partial(fingerprint, file))


def _load_file(file: Path) -> object:
    # The path is in the module's name so that two files of one stem, or a stem like `json`, cannot collide.
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _rows(plugin: _Plugin) -> list[Found]:
    failed = Found(plugin.name, plugin.distribution, plugin.version, "", "failed", "")
    try:
        with redirect_stdout(sys.stderr):  # a plugin that prints must not spoil --json
            classes = _hook_result(plugin.load(), f"{failed.source}: {plugin.name}")
            code = plugin.code()
            return [_row(failed, candidate, code) for candidate in classes]
    except (Exception, SystemExit) as error:
        return [replace(failed, reason=_one_line(error))]


def _hook_result(module: object, label: str) -> list[object]:
    # A manager for each plugin: pluggy drops the second of two entry points with one name, and a fault found
    # in a manager shared by all could not be laid at one plugin's door.
    manager = PluginManager("retrobench")
    manager.add_hookspecs(contract)
    manager.register(module, name=label)
    callers = manager.get_hookcallers(module) or []
    for caller in callers:
        if not caller.has_spec() and not all(impl.optionalhook for impl in caller.get_hookimpls()):
            raise unknown("hook", caller.name, [HOOK])
    if HOOK not in {caller.name for caller in callers}:
        raise RetrobenchError(f"No hook in it; mark a function {HOOK}() with @retrobench.hookimpl.")
    returned = next(iter(manager.hook.retrobench_objectives()), None)
    if isinstance(returned, str) or not isinstance(returned, Sequence) or not returned:
        raise RetrobenchError(f"{HOOK}() must return a sequence of classes, not {returned!r}.")
    return list(returned)


def _row(failed: Found, candidate: object, code: str) -> Found:
    name = getattr(candidate, "name", None)
    failed = replace(failed, name=name) if isinstance(name, str) and name else failed
    try:
        objective = checked(candidate)
    except Exception as error:
        return replace(failed, reason=_one_line(error))
    return replace(failed, paper=objective.paper, status="ok", objective=objective, code=code)


def checked(candidate: object) -> type[Objective]:
    """`candidate` when it keeps the contract; else RetrobenchError names the first member that does not."""
    if not isinstance(candidate, type):
        raise RetrobenchError(f"{HOOK}() must return classes; {candidate!r} is none.")
    label = candidate.__name__
    params = vars(candidate).get("__dataclass_params__")  # a parent's would not cover the fields added here
    if params is None or not params.frozen:
        raise RetrobenchError(f"{label} is not a frozen dataclass; decorate it with @dataclass(frozen=True).")
    objective = cast("type[Objective]", candidate)
    settings = {field.name: field for field in dataclasses.fields(cast(Any, candidate))}
    for member, (kind, text) in MEMBERS.items():
        if member in settings or not isinstance(getattr(candidate, member, None), kind):
            raise RetrobenchError(f"{label}.{member} must be {text}, declared as a ClassVar.")
    if not re.fullmatch(r"[\w.+-]+", objective.name) or objective.name.endswith(".toml"):
        raise RetrobenchError(f"{label}.name is {objective.name!r}; use letters, digits and . _ + - (no .toml).")
    for method in ("collate", "wrap") if objective.pretrains else ():
        if getattr(candidate, method, None) in (None, getattr(Objective, method)):
            raise RetrobenchError(f"{label}.{method}() is missing; an objective that pre-trains needs it.")
    for key, field in settings.items():
        if field.default is field.default_factory is dataclasses.MISSING:
            raise RetrobenchError(f"{label}.{key} has no default; every setting needs one.")
    defaults = configure(objective, {})
    configure(objective, {key: getattr(defaults, key) for key in settings})
    for name in objective.presets:
        configure(objective, preset(objective, name))
    return objective


def _mark_duplicates(rows: list[Found]) -> list[Found]:
    providers: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.status == "ok":
            providers[row.name].append(row.source)

    def marked(row: Found) -> Found:
        sources = providers[row.name]
        if row.status != "ok" or len(sources) == 1:
            return row
        who = " and ".join(sorted(set(sources)))
        return replace(row, status="duplicate", reason=f"provided {len(sources)} times, by {who}")

    return [marked(row) for row in rows]


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, RetrobenchError) else f"{type(error).__name__}: {text}"


def parse_objective(text: str) -> tuple[str, str | None]:
    """`dupmae:paper` to ("dupmae", "paper"), `dupmae` to ("dupmae", None)."""
    name, colon, chosen = text.partition(":")
    if not name or (colon and not chosen):
        raise RetrobenchError(f"Objective {text!r} is neither NAME nor NAME:PRESET.")
    return name, chosen or None


def preset(objective: type[Objective], name: str | None) -> dict[str, Any]:
    """The settings that the preset `name` stands for, none for None."""
    if name is None:
        return {}
    if name not in objective.presets:
        raise unknown(f"{objective.name} preset", name, objective.presets)
    return dict(objective.presets[name])


def configure(objective: type[Objective], settings: Mapping[str, Any]) -> Objective:
    """The frozen objective with `settings` in place of its defaults; errors as in `settings.build`."""
    return build(objective, settings, objective.name, "objective.")
