"""Run `retrobench` with the arguments behind a pattern; die by SIGKILL before a file of that pattern is opened."""

from __future__ import annotations

import fnmatch
import os
import signal
import sys

from retrobench.cli import main


def run() -> None:
    """Run the command line behind the pattern, and die in its first process that opens such a file."""
    pattern = sys.argv.pop(1)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and fnmatch.fnmatch(str(arguments[0]), pattern):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    main()


if __name__ == "__main__":
    run()
