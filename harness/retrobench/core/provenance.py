"""Facts in a row about the program and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from retrobench.core.processor import processor_name

__all__ = ["commit", "hardware", "libraries", "retrobench_version"]

LIBRARIES = (
    "torch", "transformers", "accelerate", "sentence-transformers", "ir_datasets", "ranx", "pytrec_eval-terrier",
    "faiss-cpu", "faiss-gpu", "bm25s", "PyStemmer", "numpy",
)  # fmt: skip


def commit() -> str:
    """Return the commit of this package, with `+` behind it if files differ. Empty where it is unknown.

    A checkout asks git. A wheel carries the commit that it was built from.
    """
    package = Path(__file__).resolve().parents[1]
    carried = package / "commit.txt"
    if carried.exists():
        return carried.read_text("utf-8").strip()
    if package.parent.name != "harness" or not (package.parents[1] / ".git").exists():
        return ""
    try:
        changes = _git(package, "status", "--porcelain", "--untracked-files=no", "--", ":/harness", ":/plugins")
        head = _git(package, "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}+" if changes else head


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def libraries() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that scores may depend on."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def hardware() -> dict[str, str | int | float]:
    """Return the device, the processor and the threads in use."""
    import torch

    device: dict[str, str | int | float] = {"device": "cpu"}
    if torch.cuda.is_available():
        device = {"device": torch.cuda.get_device_name(), "devices": torch.cuda.device_count()}
    return {
        **device,
        "processor": processor_name(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }


def retrobench_version() -> str:
    """Return the installed version, or `uninstalled` where only the source is on the path."""
    try:
        return version("retrobench")
    except PackageNotFoundError:
        return "uninstalled"
