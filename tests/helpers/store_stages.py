"""A stage that counts its calls and the entry it is made from, for the tests of the store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrobench.store.store import Artifact

SETTINGS: dict[str, Any] = {"steps": 100, "optimizer": {"rate": 1e-4}, "corpus": Path("docs")}
SOURCE = Artifact("tokenise", "0123456789abcdef0123", Path("nowhere"), True, {})


def names(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return sorted(path.name for path in folder.iterdir())


class Maker:
    """A stage that writes two files and counts its calls."""

    def __init__(self, text: str = "weights") -> None:
        self.text = text
        self.calls = 0
        self.files: list[str] = []

    def __call__(self, folder: Path) -> Mapping[str, float]:
        self.calls += 1
        self.files = names(folder)
        (folder / "model.bin").write_text(self.text)
        (folder / "deep").mkdir(exist_ok=True)
        (folder / "deep" / "ids.txt").write_text("a\nb\n")
        return {"tokens_per_second": 25}
