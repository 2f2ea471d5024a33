"""A plugin of pytest: the tests of `rehearsal_plan.LEFT_OUT` are deselected."""

from __future__ import annotations

import pytest
from rehearsal_plan import LEFT_OUT

__all__ = ["pytest_collection_modifyitems"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = []
    left_out = []
    for item in items:
        if item.nodeid.startswith(tuple(LEFT_OUT)):
            left_out.append(item)
        else:
            chosen.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = chosen
