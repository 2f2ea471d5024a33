"""
Import of a plugin's file with the modules beside it.

* load_plugin    import a file or a package anew
* module_prefix  the name below which a plugin's modules stand in `sys.modules`

Each plugin has a package of its own in `sys.modules`, which holds it and its neighbours. Their import statements look
beside the plugin first. So two plugins may have neighbours of one name, and a neighbour may have the name of an
installed module. The limit: `importlib.import_module` and other modules do not see the neighbours.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from retrobench.config.fingerprint import find_neighbour

__all__ = ["load_plugin", "module_prefix"]

PREFIX = "retrobench_plugin_"


def module_prefix(source: Path) -> str:
    """Return the name of the package that holds the plugin at this resolved path, and its neighbours."""
    path_hash = hashlib.sha256(str(source).encode()).hexdigest()
    return f"{PREFIX}{path_hash[:12]}"


def load_plugin(source: Path) -> ModuleType:
    """Import a plugin's file, or its package's folder, and the neighbours that it imports. All are imported anew."""
    prefix = module_prefix(source)
    _forget(prefix)
    importlib.invalidate_caches()  # a neighbour may have been written just now
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    sys.modules[prefix] = _package(prefix, source.parent)
    try:
        return _load(f"{prefix}.{source.stem}", source)
    except BaseException:
        _forget(prefix)
        raise


def _forget(prefix: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == prefix]:
        del sys.modules[name]


def _package(name: str, folder: Path) -> ModuleType:
    """Return a package without code whose modules are those of the folder."""
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    return package


def _load(name: str, source: Path) -> ModuleType:
    file, search = source, None
    if source.is_dir():
        file, search = source / "__init__.py", [str(source)]
    loader = _Loader(name, str(file))
    spec = spec_from_file_location(name, file, loader=loader, submodule_search_locations=search)
    assert spec
    module = module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


class _Loader(SourceFileLoader):
    """Load a source file whose import statements look beside its plugin first."""

    def get_code(self, fullname: str) -> CodeType:
        # Not from __pycache__: a second change within one second would be missed.
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        prefix = module.__name__.partition(".")[0]
        folder = Path(sys.modules[prefix].__path__[0])
        # An import statement calls the `__import__` that its module's builtins hold.
        names = {**vars(builtins), "__import__": partial(_import, prefix, folder)}
        vars(module)["__builtins__"] = names
        super().exec_module(module)


class _Finder(MetaPathFinder):
    """Find the neighbours of plugins, so that they are loaded as the plugins are."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PREFIX):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


_FINDER = _Finder()


def _import(
    prefix: str,
    folder: Path,
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """Import as the built-in `__import__` does, but a neighbour of this name from the plugin's package."""
    top_name = name.partition(".")[0]
    if level or find_neighbour(folder, top_name) is None:
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    module = builtins.__import__(f"{prefix}.{name}", globals, locals, fromlist or (), 0)
    if fromlist:
        return module
    return sys.modules[f"{prefix}.{top_name}"]
