"""What every test relies on."""

from __future__ import annotations

import os
from pathlib import Path

# Processes that tests start find the helpers, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent / "helpers"), os.environ.get("PYTHONPATH")])
)
# The processes that tests start, the fork server's children too, get what `one_thread` gives this one.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models this small lose more to a second thread than they gain, and numbers may not depend on the machine."""
    torch.set_num_threads(1)
