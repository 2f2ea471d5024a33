"""
The source of a plugin, and a hash of it. The hash stands in cache keys where a version does not identify the code.

* source_files     list the files of a module or a package, with the neighbours that it imports.
* fingerprint      hash those files.
* find_neighbour   return the module or the package of a name beside a plugin.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path

__all__ = ["find_neighbour", "fingerprint", "source_files"]


def fingerprint(module: Path, neighbours: Collection[str] | None = None) -> str:
    """Return the SHA-256, in hex, of the files that `source_files` lists."""
    hashes: dict[str, str] = {}
    for name, file in source_files(module, neighbours).items():
        hashes[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    document = json.dumps(sorted(hashes.items()))
    return hashlib.sha256(document.encode()).hexdigest()


def source_files(module: Path, neighbours: Collection[str] | None = None) -> dict[str, Path]:
    """Return the files of a module or a package, and of the neighbours that it imports, by path below its folder.

    Imports within functions count, since objectives import heavy libraries there. `neighbours` names the modules that
    count, for a folder that holds other distributions too; by default every module beside `module` counts.
    """
    root = module.parent
    files: dict[str, Path] = {}
    pending = list(_files(module))
    while pending:
        file = pending.pop()
        name = file.relative_to(root).as_posix()
        if name in files:
            continue
        files[name] = file
        if file.suffix == ".py":
            for imported in _imports(file, is_beside=file.parent == root):
                pending += _neighbour_files(root, imported, neighbours)
    return files


def find_neighbour(folder: Path, name: str) -> Path | None:
    """Return the package or the module of this name in a folder; None for `retrobench`, which is no neighbour.

    A folder without `__init__.py` is no neighbour either, as for Python where a module of its name is installed.
    """
    if name == "retrobench":
        return None
    if (folder / name / "__init__.py").is_file():
        return folder / name
    module = folder / f"{name}.py"
    return module if module.is_file() else None


def _neighbour_files(root: Path, name: str, neighbours: Collection[str] | None) -> Iterator[Path]:
    if neighbours is None:
        neighbour = find_neighbour(root, name)
        if neighbour is not None:
            yield from _files(neighbour)
    elif name in neighbours:
        yield from _files(root / name)
        yield from _files(root / f"{name}.py")


def _files(module: Path) -> Iterator[Path]:
    """Yield a package's Python files, or a module's file; nothing where neither exists."""
    if module.is_dir():
        yield from module.rglob("*.py")
    elif module.is_file():
        yield module


def _imports(file: Path, is_beside: bool) -> set[str]:
    """Return the top-level names that a source file imports; relatively too where it stands beside the neighbours."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes(), file)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (is_beside or not node.level):
            modules += [node.module] if node.module else [alias.name for alias in node.names]
    return {module.partition(".")[0] for module in modules}
