"""
The store beside the rows that need it.

* list_store      the items of a store, what made them and which rows need them
* measure_store   the size of each stage
* verify_store    every finished entry held against its own record
* prune_store     remove abandoned work, locks and entries that no row needs
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrobench.core import Column, Table, bar, say
from retrobench.errors import RetrobenchError, quote, unknown
from retrobench.leaderboard import Row, inspect_tracks, row_name
from retrobench.store import Item, default_root, entry_fault, list_items, remove

__all__ = [
    "StoreVerification",
    "list_store",
    "measure_store",
    "needed_entries",
    "open_root",
    "prune_store",
    "verify_store",
]

NAMED = 2  # rows in a cell
UNITS = ("KiB", "MiB", "GiB", "TiB")
REASONS = {"checkpoint": "last checkpoint", "partial": "unfinished work", "old": "replaced"}


def open_root(store: Path | None) -> Path:
    """Return the folder of a store that exists."""
    root = (store or default_root()).expanduser().absolute()
    if not root.is_dir():
        raise RetrobenchError(f"No store at {root}. Name one with --store DIR, or set RETROBENCH_HOME.")
    return root


def rows_by_entry(items: Sequence[Item], leaderboard: Path | None) -> dict[str, list[Row]]:
    """Return STAGE/KEY -> the rows that need the entry. A row needs its artifacts, and the sources of their stages."""
    sources = {item.name: item.entry.recipe.sources for item in items if item.entry is not None}
    needing: dict[str, dict[str, Row]] = {}
    for lines in inspect_tracks("", leaderboard).values():
        for line in lines:
            if line.row is not None:
                for name in _closure(line.row, sources):
                    needing.setdefault(name, {})[line.row.id] = line.row
    return {name: list(rows.values()) for name, rows in needing.items()}


def needed_entries(row: Row, items: Sequence[Item]) -> list[Item]:
    """Return the entries that a row needs and that are in the store."""
    sources = {item.name: item.entry.recipe.sources for item in items if item.entry is not None}
    names = _closure(row, sources)
    return [item for item in items if item.kind == "entry" and item.name in names]


def _closure(row: Row, sources: Mapping[str, Sequence[str]]) -> set[str]:
    names: set[str] = set()
    waiting = [f"{role.partition(' ')[0]}/{key}" for role, key in row.artifacts.items()]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += sources.get(name, ())
    return names


def list_store(store: Path | None = None, leaderboard: Path | None = None, as_json: bool = False) -> str:
    """Return the items of a store as a table, without its locks, or all as JSON: kind, size, date, settings, rows."""
    root = open_root(store)
    items = list_items(root)
    needing = rows_by_entry(items, leaderboard)
    if as_json:
        return json.dumps([_record(item, needing.get(item.name, [])) for item in items], indent=2)
    columns = [Column("item"), Column("size", "right"), Column("made"), Column("from"), Column("needed by")]
    lines = []
    for item in items:
        if item.kind == "lock":
            continue  # empty, and one for each entry
        made = item.entry.date[:10] if item.entry else "-"
        lines.append((item.name, _bytes(item.bytes), made, _origin(item), _names(needing.get(item.name, []))))
    return f"{Table(columns, lines).text()}\n\n{_total(items)} in {root}."


def _record(item: Item, rows: Sequence[Row]) -> dict[str, object]:
    record: dict[str, object] = {"item": item.name, "kind": item.kind, "bytes": item.bytes}
    if item.entry is not None:
        recipe = item.entry.recipe
        record |= {"date": item.entry.date, "settings": recipe.settings, "sources": recipe.sources}
        record |= {"cost": item.entry.cost, "version": recipe.version}
    return record | {"rows": [row.id for row in rows]}


def _origin(item: Item) -> str:
    """Return what made an item: the first settings of an entry, or the kind of any other item."""
    if item.kind != "entry":
        return REASONS[item.kind]
    if item.entry is None:
        return "unreadable entry.json"
    ingredients = item.entry.recipe.ingredients()
    return ", ".join(f"{name} {text}" for name, text in list(ingredients.items())[:2])[:60]


def _names(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(map(row_name, rows)))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more or "-"


def measure_store(store: Path | None = None, as_json: bool = False) -> str:
    """Return the bytes of each stage of a store, finished and unfinished, as a table or as JSON."""
    root = open_root(store)
    items = list_items(root)
    records: dict[str, dict[str, int]] = {}
    for item in items:
        record = records.setdefault(item.stage, {"entries": 0, "bytes": 0, "other_bytes": 0})
        if item.kind == "entry":
            record["entries"] += 1
            record["bytes"] += item.bytes
        else:
            record["other_bytes"] += item.bytes
    if as_json:
        return json.dumps(records, indent=2)
    columns = [Column("stage"), *(Column(name, "right") for name in ("entries", "size", "unfinished"))]
    lines = []
    for stage, record in records.items():
        lines.append((stage, record["entries"], _bytes(record["bytes"]), _bytes(record["other_bytes"])))
    return f"{Table(columns, lines).text()}\n\n{_total(items)} in {root}."


@dataclass(frozen=True)
class StoreVerification:
    """The difference of each finished entry from its own record, by STAGE/KEY; empty where they agree."""

    faults: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """Return 1 where an entry differs, else 0."""
        return int(any(self.faults.values()))

    def text(self) -> str:
        """Return a line for each entry that differs, and their number."""
        lines = [f"{name}: {fault}" for name, fault in self.faults.items() if fault]
        return "\n".join([*lines, f"{len(self.faults)} entries, {len(lines)} DIFFER."])


def verify_store(store: Path | None = None) -> StoreVerification:
    """Hash every file of every finished entry. Nothing is written."""
    entries = [item for item in list_items(open_root(store)) if item.kind == "entry"]
    faults = {}
    with bar("verify", len(entries), "entries") as advance:
        for item in entries:
            faults[item.name] = entry_fault(item.path)
            advance(1)
    return StoreVerification(faults)


def prune_store(
    names: Sequence[str] = (),
    store: Path | None = None,
    leaderboard: Path | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> str:
    """Remove the named items, or all abandoned work and all entries that no row needs, and return a summary.

    Every item is named before any is removed. RetrobenchError for an item that a row needs, and for a store that no
    row needs at all, unless `force`. An item that a process works on stays.
    """
    root = open_root(store)
    items = list_items(root)
    needing = rows_by_entry(items, leaderboard)
    chosen = _choose(items, names)
    if names:
        _refuse_needed(chosen, needing, force)
    else:
        chosen = [item for item in chosen if item.name.removesuffix(".checkpoint") not in needing]
        entries = [item for item in items if item.kind == "entry"]
        if entries and not force and not any(item.name in needing for item in entries):
            raise RetrobenchError(
                f"No row needs any entry of {root}. Name the folder of its rows with --leaderboard DIR, or add --force."
            )
    _announce("would remove" if dry_run else "removes", chosen, needing)
    if dry_run:
        return f"{_total(chosen)} would be removed from {root}."
    removed = [item for item in chosen if _is_removed(item)]
    return f"{_total(removed)} removed from {root}."


def _choose(items: Sequence[Item], names: Sequence[str]) -> list[Item]:
    by_name = {item.name: item for item in items}
    for name in names:
        if name not in by_name:
            raise unknown("item of the store", name, by_name, "`retrobench store list` prints them.")
    return [by_name[name] for name in names] or list(items)


def _refuse_needed(chosen: Sequence[Item], needing: Mapping[str, Sequence[Row]], force: bool) -> None:
    for item in chosen:
        if item.name in needing and not force:
            raise RetrobenchError(
                f"{quote(item.name)} is needed by {_names(needing[item.name])}. Add --force to remove it all the same."
            )


def _announce(verb: str, items: Sequence[Item], needing: Mapping[str, Sequence[Row]]) -> None:
    """Print the items that are removed, and the number of their locks, which are empty."""
    for item in items:
        if item.kind != "lock":
            say(f"{verb} {item.name}: {_bytes(item.bytes)}, {_reason(item, needing)}")
    locks = sum(item.kind == "lock" for item in items)
    if locks:
        say(f"{verb} {locks} {'lock' if locks == 1 else 'locks'}")


def _reason(item: Item, needing: Mapping[str, Sequence[Row]]) -> str:
    if item.kind != "entry":
        return REASONS[item.kind]
    return f"needed by {_names(needing[item.name])}" if item.name in needing else "no row needs it"


def _is_removed(item: Item) -> bool:
    is_gone = remove(item)
    if not is_gone:
        say(f"keeps {item.name}: a process works on it")
    return is_gone


def _total(items: Sequence[Item]) -> str:
    locks = sum(item.kind == "lock" for item in items)
    size = _bytes(sum(item.bytes for item in items))
    return f"{len(items) - locks} items and {locks} locks, {size}"


def _bytes(number: float) -> str:
    """Return a size in a readable unit."""
    unit = "B"
    for larger in UNITS:
        if number < 1024:
            break
        number /= 1024
        unit = larger
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
