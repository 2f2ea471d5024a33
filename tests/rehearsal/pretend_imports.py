"""Run functions around the first import of a module, whoever imports it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["around_import"]


def around_import(name: str, after: Callable[[Any], None], before: Callable[[], None] | None = None) -> None:
    """Call `before()` and `after(module)` around the first import of module `name`, which is still to come."""
    sys.meta_path.insert(0, _Finder(name, after, before))


class _Finder(MetaPathFinder):
    """Finds one module, until it is imported."""

    def __init__(self, name: str, after: Callable[[Any], None], before: Callable[[], None] | None) -> None:
        self.name = name
        self.after = after
        self.before = before
        self.is_asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name or self.is_asking:
            return None
        self.is_asking = True  # so that the other finders answer
        try:
            spec = find_spec(fullname)
        finally:
            self.is_asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(Loader):
    """A module's own loader, with the functions around it."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self.loader = loader
        self.finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        sys.meta_path.remove(self.finder)
        if self.finder.before is not None:
            self.finder.before()
        self.loader.exec_module(module)
        self.finder.after(module)
