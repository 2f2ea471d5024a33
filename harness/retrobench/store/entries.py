"""`entry.json` in the folder of a finished stage: the entry's recipe, and the hashes of its files.

* Recipe           the content of a cache key.
* Entry            a finished folder: recipe, files, cost and date.
* entry_fault      the difference of a finished folder from its own record.
* read_entries     the finished entries of a stage.
* read_objective   the objective that trained the model of a finished folder.
* read_settings    the settings of a finished folder.
* read_stage       the stage of a finished folder.
* to_json_values   settings as JSON values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from retrobench.core import KEY_LENGTH, atomic_write, duration, file_hash

__all__ = [
    "CHECKPOINTS",
    "Entry",
    "Recipe",
    "entry_fault",
    "read_entries",
    "read_objective",
    "read_settings",
    "read_stage",
    "to_json_values",
]

CHECKPOINTS = "step-*"  # folders of a training, which are no part of its entry


@dataclass(frozen=True)
class Recipe:
    """The content of a cache key. A source is `stage/key`, which is also its path under the root."""

    stage: str
    settings: dict[str, Any]
    sources: list[str]
    version: str
    code: str

    @property
    def key(self) -> str:
        return _digest(asdict(self))[:KEY_LENGTH]

    def ingredients(self) -> dict[str, str]:
        """Return texts by name, the most informative ones first."""
        texts = {}
        for name, value in _flatten(self.settings):
            texts[name] = json.dumps(value)
        texts["retrobench"] = self.version
        texts["code"] = self.code or "none"
        for number, source in enumerate(self.sources, 1):
            texts[f"source {number}"] = source[: 8 - KEY_LENGTH]  # the stage and 8 digits of the key
        return texts


@dataclass(frozen=True)
class _File:
    sha256: str
    bytes: int

    def fault(self, path: Path | None) -> str:
        """Return the difference of a file on the disk from this record; empty where they agree."""
        if path is None:
            return "is missing"
        size = path.stat().st_size
        if size != self.bytes:
            return f"has {size:,} bytes where {self.bytes:,} were written"
        if file_hash(path) != self.sha256:
            return "does not match its checksum"
        return ""


@dataclass(frozen=True)
class Entry:
    """The content of `entry.json`. A hash of the document, the seal, is stored with it."""

    recipe: Recipe
    files: dict[str, _File]
    cost: dict[str, float]
    date: str  # ISO 8601, UTC

    @classmethod
    def describe(cls, folder: Path, recipe: Recipe, cost: dict[str, float]) -> Entry:
        """Return the entry of a folder with its present files."""
        files = {}
        for name, path in _files(folder).items():
            files[name] = _File(file_hash(path), path.stat().st_size)
        return cls(recipe, files, cost, datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def read(cls, folder: Path) -> Entry | None:
        """Return the entry of a folder, or None where it is missing or unreadable."""
        try:
            document = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
            seal = document.pop("seal")
            if seal != _digest(document):
                return None
            ingredients = {field.name: document[field.name] for field in fields(Recipe)}
            files = {}
            for name, file in document["files"].items():
                files[name] = _File(**file)
            return cls(Recipe(**ingredients), files, document["cost"], document["date"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def write(self, folder: Path) -> None:
        settings = asdict(self)
        recipe = settings.pop("recipe")
        document = {"key": self.recipe.key, **recipe, **settings}
        document["seal"] = _digest(document)
        atomic_write(folder / "entry.json", json.dumps(document, indent=1) + "\n")

    @property
    def history(self) -> str:
        """Return the date and the duration of the work, for messages."""
        day = datetime.fromisoformat(self.date).astimezone()
        return f"made {day:%Y-%m-%d %H:%M} in {duration(self.cost['seconds'])}"

    def fault(self, folder: Path, recipe: Recipe) -> str:
        """Return the first change since the entry was written; empty where there is none."""
        if self.recipe != recipe:
            return "entry.json describes another entry"
        paths = _files(folder)
        for name, file in self.files.items():
            fault = file.fault(paths.get(name))
            if fault:
                return f"{name} {fault}"
        for name in paths:
            # An added file, such as other weights, can change the model of a folder. A desktop's dot file cannot.
            hidden = Path(name).name.startswith(".")
            if name not in self.files and not hidden:
                return f"{name} was added"
        return ""


def entry_fault(folder: Path) -> str:
    """Return the first difference of a finished folder from its own record; empty where every file is as written."""
    entry = Entry.read(folder)
    if entry is None:
        return "entry.json is missing or broken"
    if entry.recipe.key != folder.name:
        return "entry.json describes another entry"
    return entry.fault(folder, entry.recipe)


def read_entries(folder: Path) -> Iterator[tuple[str, Entry]]:
    """Yield the key and the record of each finished entry in the folder of a stage, which may not exist yet."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if len(path.name) != KEY_LENGTH:
            continue
        entry = Entry.read(path)
        if entry is not None:
            yield path.name, entry


def read_objective(folder: Path) -> str:
    """Return the name of the objective that pre-trained the model of an entry; empty for any other folder."""
    entry = Entry.read(folder)
    while entry is not None:
        objective = entry.recipe.settings.get("objective")
        if isinstance(objective, str):
            return objective
        if not entry.recipe.sources:
            return ""
        folder = folder.parents[1] / entry.recipe.sources[0]  # fine-tuning starts from its first source
        entry = Entry.read(folder)
    return ""


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings behind the key of a finished folder; none for any other folder."""
    entry = Entry.read(folder)
    if entry is None:
        return {}
    return entry.recipe.settings


def read_stage(folder: Path) -> str:
    """Return the stage that made a finished folder; empty for any other folder."""
    entry = Entry.read(folder)
    if entry is None:
        return ""
    return entry.recipe.stage


def _digest(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def to_json_values(value: Any, name: str) -> Any:
    """Return `value` as JSON has it. TypeError names a setting without a fixed text, which would change its key."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        settings = {}
        for key, inner in value.items():
            settings[key] = to_json_values(inner, f"{name}.{key}")
        return settings
    if isinstance(value, list | tuple):
        items = []
        for number, inner in enumerate(value):
            items.append(to_json_values(inner, f"{name}[{number}]"))
        return items
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{name} is of {type(value)}, which has no fixed JSON form")


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings by dotted name."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of an entry but `entry.json`, by relative path."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not fnmatch(name.parts[0], CHECKPOINTS):
            files[name.as_posix()] = path
    files.pop("entry.json", None)
    return files
