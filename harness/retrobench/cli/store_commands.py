"""The commands below `retrobench store`."""

from __future__ import annotations

import typer

from retrobench.cli.options import (
    Archive,
    DryRun,
    Force,
    Leaderboard,
    OneJson,
    ShownRow,
    Store,
    StoreItems,
    ToArchive,
    Wide,
)
from retrobench.cli.process import show_result

__all__ = ["store"]

store = typer.Typer(no_args_is_help=True, help="List, verify, prune and move finished stages.")


@store.command("list")
def store_list(store: Store = None, leaderboard: Leaderboard = None, json: OneJson = False, wide: Wide = False) -> None:
    """List everything in the store: its size, what made it, and the rows that need it."""
    from retrobench import runs

    show_result(runs.list_store(store, leaderboard, json))


@store.command("du")
def store_du(store: Store = None, json: OneJson = False) -> None:
    """Print the size of each stage."""
    from retrobench import runs

    show_result(runs.measure_store(store, json))


@store.command("verify")
def store_verify(store: Store = None) -> None:
    """Hold every file of every entry against its hash. Exit 1 where one differs."""
    from retrobench import runs

    verified = runs.verify_store(store)
    show_result(verified.text())
    raise typer.Exit(verified.exit_code)


@store.command("prune")
def store_prune(
    items: StoreItems = None,
    store: Store = None,
    leaderboard: Leaderboard = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Remove abandoned work, locks, and entries that no row needs; or the named items.

    Every item is named first. An item that a row needs is removed only by its name and with --force.
    """
    from retrobench import runs

    show_result(runs.prune_store(items or (), store, leaderboard, dry_run, force))


@store.command("export")
def store_export(row: ShownRow, to: ToArchive, store: Store = None, leaderboard: Leaderboard = None) -> None:
    """Write a row and everything that it stands on into one archive."""
    from retrobench import runs

    show_result(runs.export_row(row, to, store, leaderboard))


@store.command("import")
def store_import(archive: Archive, store: Store = None, leaderboard: Leaderboard = None) -> None:
    """Read an archive of `store export` into a store and a leaderboard."""
    from retrobench import runs

    show_result(runs.import_archive(archive, store, leaderboard))
