"""A plugin of pytest: the tests of `rehearsal_plan.LEFT_OUT` are deselected."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from rehearsal_plan import LEFT_OUT

__all__ = ["pytest_collection_modifyitems"]

PATTERNS = [pattern.replace("[", "[[]") for pattern in LEFT_OUT]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that make no sense on the pretend device."""
    chosen = []
    left_out = []
    for item in items:
        if any(fnmatchcase(item.nodeid, pattern) for pattern in PATTERNS):
            left_out.append(item)
        else:
            chosen.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = chosen
