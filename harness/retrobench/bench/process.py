"""
Work in a process of its own, whose results are lines of JSON on its standard output; its log goes to standard error.

* Worker   a process at work: its objects as they come, its exit code, and whether it was stopped at the deadline
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from threading import Timer
from typing import Any

__all__ = ["GRACE", "Worker"]

GRACE = 20.0  # seconds after the deadline, in which a worker ends by itself


class Worker:
    """Runs `python -m MODULE WORDS`. A GPU is out of its sight on device "cpu"."""

    def __init__(self, module: str, words: Sequence[str], device: str, deadline: float | None = None) -> None:
        """`deadline` is a time of `time.time`; the process is killed `GRACE` seconds later."""
        self.command = [sys.executable, "-m", module, *words]
        self.deadline = deadline
        self.environment = dict(os.environ)
        if device == "cpu":
            self.environment["CUDA_VISIBLE_DEVICES"] = ""  # our side would use a visible GPU
        self.exit_code = 0
        self.stopped = False

    def run(self) -> Iterator[dict[str, Any]]:
        """Run the process, and yield every object that it prints."""
        with subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True, env=self.environment) as process:
            watch = self._watch(process)
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    yield json.loads(line)
            except BaseException:
                process.kill()  # an interrupted or failing parent leaves no worker behind
                raise
            finally:
                watch.cancel()
        self.exit_code = process.returncode

    def _watch(self, process: subprocess.Popen[str]) -> Timer:
        """Return the timer that kills the process; without a deadline it never starts."""

        def stop() -> None:
            self.stopped = True
            process.kill()

        if self.deadline is None:
            return Timer(0, stop)
        watch = Timer(max(0.0, self.deadline + GRACE - time.time()), stop)
        watch.daemon = True
        watch.start()
        return watch
