"""Sources of a collection, put beside its folder by hand."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path


def sources_of(folder: Path) -> Path:
    """Return the folder of a collection's sources."""
    return folder.with_name(f"{folder.name}.sources")


def write_sources(folder: Path, texts: Mapping[str, str]) -> None:
    """Write a file for each name, gzipped where the name says so."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        content = text.encode()
        if name.endswith(".gz"):
            content = gzip.compress(content)
        (folder / name).write_bytes(content)


def write_archive(file: Path, members: Mapping[str, str], folder: str = "") -> None:
    """Write a tar archive with the members in a folder of the archive."""
    with tarfile.open(file, "w:gz") as tar:
        for name, text in members.items():
            content = text.encode()
            entry = tarfile.TarInfo(folder + name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
