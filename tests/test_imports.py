"""Importing the package's modules changes nothing outside them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import retrobench

PACKAGE = Path(retrobench.__file__).parent

# Libraries may change the process, so they are imported first. Then only this package's modules are new.
CODE = """
import importlib, json, logging, os, sys, warnings
from contextlib import suppress

libraries, modules = json.load(sys.stdin)
for name in libraries:
    with suppress(Exception):  # a few modules cannot be imported by their name
        importlib.import_module(name)

import ir_datasets, torch
from transformers.utils import logging as transformers_logging

forks = []
os.register_at_fork = lambda **calls: forks.append(str(calls))

def state():
    loggers = {}
    for name, logger in [*logging.root.manager.loggerDict.items(), ("", logging.root)]:
        if isinstance(logger, logging.Logger) and (logger.handlers or logger.filters or logger.level):
            loggers[name] = [*map(str, logger.handlers), *map(str, logger.filters), logger.level, logger.propagate]
    guard = torch.utils.deterministic
    return {
        "loggers": loggers,
        "bars": transformers_logging.is_progress_bar_enabled(),
        "registry": list(ir_datasets.registry),
        "forks": list(forks),
        "warnings": list(map(str, warnings.filters)),
        "streams": [id(sys.stdin), id(sys.stdout), id(sys.stderr)],
        "environment": dict(os.environ),
        "path": list(sys.path),
        "deterministic": [torch.are_deterministic_algorithms_enabled(), guard.fill_uninitialized_memory],
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "seed": torch.initial_seed(),
    }

before = state()
for name in modules:
    importlib.import_module(name)
after = state()
print(json.dumps({key: [before[key], after[key]] for key in before if before[key] != after[key]}))
print(json.dumps(sorted(sys.modules)))
"""


def changed_by(
    modules: Sequence[str], libraries: Sequence[str] = (), folder: Path | None = None
) -> tuple[dict[str, object], list[str]]:
    """Import modules in a new process, after libraries. Return the changes and all imported modules."""
    names = json.dumps([libraries, modules])
    command = [sys.executable, "-c", CODE]
    result = subprocess.run(command, input=names, cwd=folder, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    *_, changed, imported = result.stdout.splitlines()
    return json.loads(changed), json.loads(imported)


def test_importing_every_module_changes_nothing_elsewhere() -> None:
    files = [file for file in sorted(PACKAGE.rglob("*.py")) if file.name != "__main__.py"]
    modules = [".".join(("retrobench", *file.relative_to(PACKAGE).with_suffix("").parts)) for file in files]
    modules = [name.removesuffix(".__init__") for name in modules]
    assert {"retrobench", "retrobench.cli", "retrobench.data.embedded.collection"} <= set(modules)
    _, imported = changed_by(modules)
    libraries = [name for name in imported if name.partition(".")[0] not in ("retrobench", "__main__")]
    changed, imported = changed_by(modules, libraries)
    assert set(modules) <= set(imported)
    assert changed == {}


def test_changes_are_seen(tmp_path: Path) -> None:
    """Each of these modules makes one forbidden change on import."""
    forbidden = {
        "loggers": "import logging; logging.getLogger('ir_datasets').addFilter(print)",
        "bars": "from transformers.utils import logging; logging.disable_progress_bar()",
        "registry": "from retrobench import data; data.register()",
        "forks": "import os; os.register_at_fork(before=print)",
        "warnings": "import warnings; warnings.simplefilter('ignore', ResourceWarning)",
        "streams": "import io, sys; kept, sys.stdin = sys.stdin, io.StringIO()",
        "deterministic": "import torch; torch.utils.deterministic.fill_uninitialized_memory = False",
    }
    for name, code in forbidden.items():
        (tmp_path / f"changes_{name}.py").write_text(code)
    changed, _ = changed_by([f"changes_{name}" for name in forbidden], folder=tmp_path)
    assert set(changed) == set(forbidden)
