"""
The existing tests that a rehearsal runs, and those it leaves out.

* SUITES       folders and files
* LEFT_OUT     the start of a test's id -> the reason why it makes no sense on the pretend device
"""

from __future__ import annotations

__all__ = ["LEFT_OUT", "SUITES"]

SUITES = ("tests/rehearsal", "tests/model", "tests/training", "tests/retrieval", "tests/test_pipeline.py")

LEFT_OUT: dict[str, str] = {}
