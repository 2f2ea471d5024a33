"""
The beginning and the end of a command.

* prepare       set up this process
* show_result   print a result
"""

from __future__ import annotations

import sys

from retrobench.core import processes

__all__ = ["prepare", "show_result"]


def prepare(encodes: bool = False, trains: bool = False) -> None:
    """Set up this process to read datasets, and to encode texts or train. Call it before torch is loaded."""
    from retrobench import core, data

    if encodes:
        core.sleep_when_busy()
    data.register()
    data.quiet_ir_datasets()
    if encodes:
        core.quiet_transformers()
    if trains:
        core.keep_freed_memory()


def show_result(result: object) -> None:
    """Print a text or a table of Rich on standard output. Only rank 0 prints."""
    if not processes.leads():
        return
    if isinstance(result, str):
        print(result)
        return
    from rich.console import Console

    width = None if sys.stdout.isatty() else 10_000  # a pipe or a file has no edge for folding
    Console(width=width, highlight=False).print(result)
