"""
The kit of an objective's author.

* check_objective      raise AssertionError for a broken part of the contract
* check_target         check the objectives of a name or a path on every family, for the command line
* describe_objective   show an objective: its idea, settings, presets and cost
* write_objective      write a working objective to begin with
"""

import typing

from retrobench.testing.writing import write_objective

if typing.TYPE_CHECKING:
    from retrobench.testing.checking import check_objective
    from retrobench.testing.description import describe_objective
    from retrobench.testing.report import check_target

__all__ = ["check_objective", "check_target", "describe_objective", "write_objective"]

_MODULES = {"check_objective": "checking", "check_target": "report", "describe_objective": "description"}


def __getattr__(name: str) -> typing.Any:
    # These load torch, which takes seconds, and writing an objective does not need it.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"retrobench.testing.{_MODULES[name]}"), name)
