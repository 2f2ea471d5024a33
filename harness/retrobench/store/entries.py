"""`entry.json` in the folder of a finished stage: what it was made of, and what its files hash to.

* Recipe    what a key is made of
* Entry     a finished folder: its recipe, files, cost and date; read, written, compared with what is there
* plain     settings as JSON has them
* sync      files and folders written to the disk, before a name says that they are there
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retrobench.core import KEY_LENGTH, duration, file_hash

__all__ = ["Entry", "Recipe", "plain"]


@dataclass(frozen=True)
class Recipe:
    """Everything a key is made of. `sources` are `stage/key`, which is also where they lie under the root."""

    stage: str
    settings: dict[str, Any]
    sources: list[str]
    version: str
    code: str

    @property
    def key(self) -> str:
        return _digest(asdict(self))[:KEY_LENGTH]

    def ingredients(self) -> dict[str, str]:
        """Name to text, in the order in which a difference is worth telling."""
        flat = {name: json.dumps(value) for name, value in _flat(self.settings)}
        flat |= {"retrobench": self.version, "code": self.code or "none"}
        return flat | {f"source {n}": source[: 8 - KEY_LENGTH] for n, source in enumerate(self.sources, 1)}


@dataclass(frozen=True)
class _File:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Entry:
    """What `entry.json` says, where the recipe's fields lie beside the others, under a seal: its own hash."""

    recipe: Recipe
    files: dict[str, _File]
    cost: dict[str, float]
    date: str  # ISO 8601, UTC

    @classmethod
    def of(cls, folder: Path, recipe: Recipe, cost: dict[str, float]) -> Entry:
        """What a folder holds now."""
        marks = {name: _File(file_hash(path), path.stat().st_size) for name, path in _files(folder).items()}
        return cls(recipe, marks, cost, datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def read(cls, folder: Path) -> Entry | None:
        """None where there is none, or none that can be read."""
        try:
            found = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
            if found.pop("seal") != _digest(found):
                return None
            about = [found[name] for name in ("stage", "settings", "sources", "version", "code")]
            files = {name: _File(**file) for name, file in found["files"].items()}
            return cls(Recipe(*about), files, found["cost"], found["date"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def write(self, folder: Path) -> None:
        rest = {name: value for name, value in asdict(self).items() if name != "recipe"}
        document = {"key": self.recipe.key, **asdict(self.recipe), **rest}
        document["seal"] = _digest(document)
        (folder / "entry.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    @property
    def made(self) -> str:
        day = datetime.fromisoformat(self.date).astimezone()
        return f"made {day:%Y-%m-%d %H:%M} in {duration(self.cost['seconds'])}"

    def fault(self, folder: Path, recipe: Recipe) -> str:
        """The first thing that is not as it was written; empty if all is."""
        if self.recipe != recipe:
            return "entry.json describes another entry"
        there = _files(folder)
        for name, file in self.files.items():
            if name not in there:
                return f"{name} is missing"
            if (size := there[name].stat().st_size) != file.bytes:
                return f"{name} has {size:,} bytes where {file.bytes:,} were written"
            if file_hash(there[name]) != file.sha256:
                return f"{name} does not match its checksum"
        # An added file can change what a folder loads as (other weights); a desktop's dot file cannot.
        added = [name for name in there if name not in self.files and not Path(name).name.startswith(".")]
        return f"{added[0]} was added" if added else ""


def _digest(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def plain(value: Any, where: str) -> Any:
    """`value` as JSON has it; TypeError names the setting whose text might not be the same tomorrow."""
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: plain(inner, f"{where}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, f"{where}[{n}]") for n, inner in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{where} is of {type(value)}, which has no fixed JSON form")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _files(folder: Path) -> dict[str, Path]:
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    found.pop("entry.json", None)
    return found
