"""
A hash of a plugin's source. It stands in cache keys where a version does not identify the code.

* fingerprint   hash a module or a package, with the neighbours that it imports.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path

__all__ = ["fingerprint"]


def fingerprint(module: Path, neighbours: Collection[str] | None = None) -> str:
    """Return the SHA-256, in hex, of a module's file or a package's folder, and of the neighbours that it imports.

    Imports within functions count, since objectives import heavy libraries there. `neighbours` names the modules that
    count, for a folder that holds other distributions too; by default all modules beside `module` count.
    """
    root = module.parent
    hashes: dict[str, str] = {}
    pending = list(_files(module))
    while pending:
        file = pending.pop()
        name = file.relative_to(root).as_posix()
        if name in hashes:
            continue
        content = file.read_bytes()
        hashes[name] = hashlib.sha256(content).hexdigest()
        if file.suffix == ".py":
            for imported in _imports(content):
                if neighbours is None or imported in neighbours:
                    pending += [*_files(root / imported), *_files(root / f"{imported}.py")]
    document = json.dumps(sorted(hashes.items()))
    return hashlib.sha256(document.encode()).hexdigest()


def _files(module: Path) -> Iterator[Path]:
    """Yield a package's Python files, or a module's file; nothing where neither exists."""
    if module.is_dir():
        yield from module.rglob("*.py")
    elif module.is_file():
        yield module


def _imports(content: bytes) -> set[str]:
    """Return the top-level names that a source file imports absolutely."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.append(node.module)
    return {module.partition(".")[0] for module in modules}
