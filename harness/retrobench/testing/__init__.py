"""
A test of the contract, for authors of objectives.

* check_objective   raise AssertionError for a broken part of the contract
* check_target      check the objectives of a name or a file on every family, for the command line
"""

from retrobench.testing.checking import check_objective
from retrobench.testing.report import check_target

__all__ = ["check_objective", "check_target"]
