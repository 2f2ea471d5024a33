"""Put the commit of the checkout into a wheel and into a source distribution, where rows read it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACES = {"wheel": "retrobench/commit.txt", "sdist": "harness/retrobench/commit.txt"}


class CommitHook(BuildHookInterface):  # type: ignore[type-arg]
    """Write `commit.txt`: the commit, with `+` behind it if files of the package differ from it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file to a build, unless it is editable: a checkout tells its commit itself."""
        if version == "editable":
            return
        unpacked = Path(self.root) / PLACES["sdist"]  # a wheel may be made from a source distribution
        if unpacked.exists():
            build_data["force_include"][str(unpacked)] = PLACES[self.target_name]
            return
        commit = self._git("rev-parse", "HEAD")
        if not commit:
            return
        if self._git("status", "--porcelain", "--untracked-files=no", "--", "harness", "plugins"):
            commit += "+"
        file = Path(self.directory) / "commit.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(commit + "\n")
        build_data["force_include"][str(file)] = PLACES[self.target_name]

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the file from the folder of built distributions."""
        (Path(self.directory) / "commit.txt").unlink(missing_ok=True)

    def _git(self, *words: str) -> str:
        """Return the output of git, empty outside a checkout."""
        if not (Path(self.root) / ".git").exists():
            return ""
        command = ["git", "-C", self.root, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
