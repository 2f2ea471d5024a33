"""
The beginning and the end of a command.

* prepare       set up this process
* show_result   print a result
* exit_at_limit   print a limit of the machine as one line
* end_interrupted   print the command that resumes, and exit
* measure_screen   state the terminal's width
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from typing import NoReturn

from retrobench.core import processes, signals
from retrobench.errors import RetrobenchError, clip, printable

__all__ = ["end_interrupted", "exit_at_limit", "measure_screen", "prepare", "show_result"]


def prepare(encodes: bool = False, trains: bool = False) -> None:
    """Set up this process to read datasets, and to encode texts or train. Call it before torch is loaded."""
    from retrobench import core, data

    processes.check_address()
    if encodes:
        core.sleep_when_busy()
    data.register()
    data.quiet_ir_datasets()
    if encodes:
        core.quiet_transformers()
    if trains:
        core.keep_freed_memory()


def show_result(result: str) -> None:
    """Print a text on standard output, its sentences folded at the terminal's edge. Only rank 0 prints."""
    if processes.leads():
        from retrobench.core import fold_text

        print(fold_text(printable(result)))


def exit_at_limit(error: Exception) -> None:
    """Print a limit of the disk, of memory or of open files as one line and exit; return for any other exception."""
    from retrobench.core import describe_limit

    limit = describe_limit(error)
    if limit is not None:
        line = RetrobenchError(f"{limit[0]} ({clip(error)}). {limit[1]} and run the same command again.")
        print(f"Error: {line}", file=sys.stderr)
        sys.exit(line.exit_code)


def end_interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    """Print one line with the command that resumes, and exit with 128 and the signal's number. Only rank 0 prints."""
    stop = signals.Stop(signal.SIGINT)
    if isinstance(interrupt, signals.Stop):
        stop = interrupt
    if processes.leads():
        command = processes.launch_command(["retrobench", *sys.argv[1:]])
        state = stop.state or "Finished stages are kept"
        print(f"Interrupted by {signal.Signals(stop.number).name}. {state}. Resume: {command}", file=sys.stderr)
    if processes.size() > 1:
        # torch's groups take many seconds to end, and a launcher may kill what has not ended by then.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + stop.number)
    sys.exit(128 + stop.number)


def measure_screen(wide: bool = False) -> None:
    """State the terminal's width, which tables keep to. A pipe and `--wide` have no edge."""
    from retrobench.core import set_width

    if not wide and sys.stdout.isatty():
        set_width(shutil.get_terminal_size().columns)
    else:
        set_width(None)
