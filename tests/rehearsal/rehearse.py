"""
Run tests on the pretend device: `python tests/rehearsal/rehearse.py [ARGUMENTS OF PYTEST]`.

Without arguments the suites of `rehearsal_plan.py` run. Where the device cannot be built, the rehearsal is skipped with
exit code 0.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pretend_build import CannotBuildError, build
from rehearsal_plan import SUITES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def main(arguments: list[str]) -> int:
    try:
        library = build()
    except CannotBuildError as reason:
        print(f"The rehearsal is skipped: {reason}.")
        return 0
    os.environ["RETROBENCH_REHEARSAL"] = str(library)
    searched = [str(HERE), str(ROOT / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, searched))
    os.chdir(ROOT)
    chosen = arguments or ["-n", "2", "--dist", "loadfile", "-m", "not slow", *SUITES]
    command = [sys.executable, "-m", "pytest", "-p", "rehearsal_plugin", *chosen]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
