"""
A row and everything that it stands on, as one archive for another machine.

* export_row       write the archive
* import_archive   read an archive into a store and a leaderboard

The archive is a plain tar of `leaderboard/` (the row's line and its kept files) and `store/STAGE/KEY/` (its entries).
An archive comes from anybody: only regular files below these folders are read, and every entry is held against its
hashes.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
from pathlib import Path

from retrobench.core import atomic_write, follow_umask, move, sync
from retrobench.errors import RetrobenchError, clip, quote
from retrobench.leaderboard import Row, append, find_row, inspect, kept_files, load_per_query, row_name, rows_folder
from retrobench.runs.keeping import needed_entries, open_root
from retrobench.store import default_root, entry_fault, list_items, read_stage

__all__ = ["export_row", "import_archive"]

ROWS = "leaderboard/rows.jsonl"
MEMBER = re.compile(r"(leaderboard|store/[^/]+/[^/]+)/[^\0]+")


def export_row(name: str, to: Path, store: Path | None = None, leaderboard: Path | None = None) -> str:
    """Write the row of this name, its kept files and its entries into the archive `to`, and return a summary.

    RetrobenchError for an unknown row, a damaged entry, and an entry of the row that the store lacks.
    """
    root = open_root(store)
    folder, line = find_row(name, leaderboard)
    row = line.row
    if row is None or line.faults:
        raise RetrobenchError(f"{line.location} cannot be exported: {'; '.join(line.faults)}. Restore the line.")
    entries = needed_entries(row, list_items(root))
    missing = {f"{role.partition(' ')[0]}/{key}" for role, key in row.artifacts.items()} - {e.name for e in entries}
    if missing:
        raise RetrobenchError(f"The store {root} lacks {', '.join(sorted(missing))}. Name another with --store DIR.")
    for entry in entries:
        fault = entry_fault(entry.path)
        if fault:
            raise RetrobenchError(f"{entry.name} is damaged: {fault}. Run the row's command again: {clip(row.command)}")
    with tempfile.TemporaryDirectory() as scratch:
        line_file = Path(scratch) / "rows.jsonl"
        line_file.write_text(row.to_json() + "\n", encoding="utf-8")
        partial = to.with_name(f"{to.name}.partial")
        with tarfile.open(partial, "w", dereference=True) as archive:
            archive.add(line_file, ROWS)
            for kept in kept_files(folder, row):
                archive.add(folder / kept, f"leaderboard/{kept}")
            for entry in entries:
                archive.add(entry.path, f"store/{entry.name}")
    move(partial, to)
    return f"{row_name(row)} and {len(entries)} entries are in {to}: {to.stat().st_size:,} bytes."


def import_archive(archive: Path, store: Path | None = None, leaderboard: Path | None = None) -> str:
    """Read an archive of `export_row` into a store and a leaderboard, and return a summary.

    Entries and rows that are there already stay. RetrobenchError for an archive of other content, and for an entry
    or a row that differs from its own hashes; nothing is kept of such an archive.
    """
    root = (store or default_root()).expanduser().absolute()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix="import-") as scratch:
        unpacked = Path(scratch)
        _unpack(archive, unpacked)
        row = _read_row(archive, unpacked)
        folders = sorted(unpacked.glob("store/*/*"))
        for folder in folders:
            fault = entry_fault(folder)
            if not fault and read_stage(folder) != folder.parent.name:
                fault = "it is of another stage"
            if fault:
                raise RetrobenchError(f"{archive} holds a damaged {folder.parent.name}/{folder.name}: {fault}.")
        follow_umask(unpacked)
        made = [folder for folder in folders if _place(folder, root / folder.parent.name / folder.name)]
        target = rows_folder(row.track, leaderboard)
        append(target, row, load_per_query(unpacked / "leaderboard", row) if row.per_query else {})
        _copy_kept(unpacked / "leaderboard", target, row)
    return f"{row_name(row)} is in {target}, and {len(made)} of its {len(folders)} entries are new in {root}."


def _unpack(archive: Path, into: Path) -> None:
    """Write the members of an archive into a folder. RetrobenchError for a member that belongs elsewhere."""
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                is_below = MEMBER.fullmatch(member.name) and ".." not in Path(member.name).parts
                if not member.isreg() or not is_below:
                    raise RetrobenchError(f"{archive} holds {quote(member.name)}, which is no file of a row.")
                tar.extract(member, into, filter="data")
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and archive.is_file():
            raise  # of the disk that is written
        raise RetrobenchError(f"{archive} cannot be read ({clip(error)}). Give a file of `store export`.") from error


def _read_row(archive: Path, unpacked: Path) -> Row:
    file = unpacked / ROWS
    lines = inspect(file) if file.is_file() else []
    if len(lines) != 1:
        raise RetrobenchError(f"{archive} holds {len(lines)} rows, and must hold one. Give a file of `store export`.")
    row, faults = lines[0].row, lines[0].faults
    if row is None or faults:
        raise RetrobenchError(f"{archive} holds no sound row: {'; '.join(faults)}. Export it again.")
    if not re.fullmatch(r"\w[\w.-]*", row.track):
        raise RetrobenchError(f"{archive} holds a row of {quote(row.track)}, which names no folder of a track.")
    return row


def _place(folder: Path, target: Path) -> bool:
    """Move an unpacked entry into the store, and tell whether it is new there."""
    from filelock import FileLock

    target.parent.mkdir(exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        if target.exists():
            return False
        sync(folder)
        move(folder, target)
    return True


def _copy_kept(source: Path, target: Path, row: Row) -> None:
    for name in kept_files(source, row):
        if not (target / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target / name, (source / name).read_bytes())
