"""The checks of one name, as `python -m retrobench.bench.acceptance.worker LOCATION NAME SETTING`.

LOCATION is `module:function` within this package, and SETTING is JSON. Every result is a line of JSON on standard
output.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from retrobench.bench.acceptance.check import Check, CheckResult, SkippedError, Status
from retrobench.bench.setting import Setting
from retrobench.core import keep_freed_memory, quiet_transformers
from retrobench.errors import RetrobenchError

__all__ = ["main"]


def main(words: Sequence[str]) -> int:
    """Run every check of a name; return the exit code."""
    location, name, setting_text = words
    setting = Setting(**json.loads(setting_text))
    quiet_transformers()
    keep_freed_memory()
    module_name, _, function = location.partition(":")
    module = importlib.import_module(f"retrobench.bench.acceptance.{module_name}")
    checks: Callable[[Setting], Iterator[Check]] = getattr(module, function)
    for check in checks(setting):
        result = CheckResult(name, check.case, "not reached")
        if not setting.is_over():
            result = _run(name, check)
        print(json.dumps(asdict(result)), flush=True)
    return 0


def _run(name: str, check: Check) -> CheckResult:
    """Run a check. An exception is a fault, whose first line is the fact; a traceback goes to the log."""
    start = time.perf_counter()
    status: Status = "ok"
    try:
        facts = check.run()
    except SkippedError as reason:
        status, facts = "skipped", str(reason)
    except Exception as error:
        if not isinstance(error, RetrobenchError):
            traceback.print_exc()
        lines = str(error).splitlines() or [""]
        status, facts = "fault", f"{type(error).__name__}: {lines[0]}"
    return CheckResult(name, check.case, status, facts, time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
