"""What a row says of the program and the machine that made it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from retrobench.core.processor import processor_name

__all__ = ["commit", "hardware", "libraries", "retrobench_version"]

LIBRARIES = (
    "torch", "transformers", "accelerate", "sentence-transformers", "ir_datasets", "ranx", "pytrec_eval-terrier",
    "faiss-cpu", "faiss-gpu", "bm25s", "numpy",
)  # fmt: skip


def commit() -> str:
    """The commit of the checkout this package runs from, `+` behind it if files differ; empty for a wheel."""
    here = Path(__file__).resolve().parents[1]  # the package

    def git(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if here.parent.name != "harness" or not (here.parents[1] / ".git").exists():
            return ""
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/harness", ":/plugins")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def libraries() -> dict[str, str]:
    """Versions of what a score may depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str | int | float]:
    """The device, the processor and how much of it was used."""
    import torch

    found: dict[str, str | int | float] = {"processor": processor_name(), "cores": os.cpu_count() or 1}
    found |= {"threads": torch.get_num_threads(), "system": platform.system()}
    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(), "devices": torch.cuda.device_count(), **found}
    return {"device": "cpu", **found}


def retrobench_version() -> str:
    """The installed version, or `uninstalled` where the source is merely on the path."""
    try:
        return version("retrobench")
    except PackageNotFoundError:
        return "uninstalled"
