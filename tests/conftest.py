"""What every test relies on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Processes that tests start find the helpers, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent / "helpers"), os.environ.get("PYTHONPATH")])
)
# The processes that tests start, the fork server's children too, get what `one_thread` gives this one.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from retrobench import core, data

# The one needs the pretend device, which `make rehearse` builds, the other a browser, for which `make browser` looks.
OPTIONAL = {"rehearsal": "RETROBENCH_REHEARSAL", "browser": "RETROBENCH_BROWSER"}
collect_ignore = [folder for folder, variable in OPTIONAL.items() if variable not in os.environ]

# What the command line does for its process; most tests call the library without it.
data.register()
data.quiet_ir_datasets()
core.quiet_transformers()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models this small lose more to a second thread than they gain, and numbers may not depend on the machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def explanations() -> None:
    """Tests read the reasons for new and cached stages, which `-v` prints."""
    core.set_verbosity(2)


@pytest.fixture(scope="session", autouse=True)
def freed_memory_goes_back() -> Iterator[None]:
    """A command that is called within this process would have it keep the memory of all tests after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "keep_freed_memory", lambda: None)
        yield
