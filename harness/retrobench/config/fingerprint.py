"""
What identifies a plugin's code where its version does not: a hash of its source.

* fingerprint   SHA-256 of a module, or of the package it lies in, with the neighbours they import
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

__all__ = ["fingerprint"]


def fingerprint(module: Path) -> str:
    """SHA-256, in hex, over a module's file, or its package's folder, and what beside it is imported.

    Imports within functions count, as an objective's heavy ones stand there. Other distributions do not.
    """
    root, seen, todo = module.parent, dict[str, str](), list(_files(module))
    while todo:
        file = todo.pop()
        name = file.relative_to(root).as_posix()
        if name not in seen:
            content = file.read_bytes()
            seen[name] = hashlib.sha256(content).hexdigest()
            heads = _imports(content) if file.suffix == ".py" else set()
            todo += [near for head in heads for near in (*_files(root / head), *_files(root / f"{head}.py"))]
    return hashlib.sha256(json.dumps(sorted(seen.items())).encode()).hexdigest()


def _files(module: Path) -> Iterator[Path]:
    if module.is_dir():
        yield from module.rglob("*.py")
    elif module.is_file():
        yield module


def _imports(content: bytes) -> set[str]:
    """Top-level names that a source file imports absolutely."""
    heads: set[str] = set()
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            heads |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            heads.add(node.module.partition(".")[0])
    return heads
