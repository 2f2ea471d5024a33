"""Freed memory is returned to the system, or kept for the next step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
import numpy as np
from retrobench.bench.memory import anonymous
from retrobench.core.memory import keep_freed_memory, release_freed_memory
from retrobench.store import Store

def make(folder):
    blocks = [np.ones(1_000_000 // 8) for _ in range(200)]

if sys.argv[1] != "leave":
    keep_freed_memory()
before = anonymous()
if sys.argv[1] == "store":
    Store(sys.argv[2]).ensure("encode", {}, [], make)
else:
    make(None)
if sys.argv[1] == "release":
    release_freed_memory()
print(anonymous() - before)
"""


def bytes_that_stay(*words: str, **variables: str) -> int:
    """Return how many of 200 MB a process keeps after freeing them."""
    environment = {**os.environ, **variables}
    command = [sys.executable, "-c", CODE, *words]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(result.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_freed_memory_is_kept_on_request_unless_the_user_sets_a_threshold() -> None:
    assert bytes_that_stay("leave") < 50e6
    assert bytes_that_stay("keep") > 150e6
    assert bytes_that_stay("keep", MALLOC_MMAP_THRESHOLD_="131072") < 50e6


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_kept_memory_is_returned_after_a_stage(tmp_path: Path) -> None:
    assert bytes_that_stay("release") < 50e6
    assert bytes_that_stay("store", str(tmp_path)) < 50e6
