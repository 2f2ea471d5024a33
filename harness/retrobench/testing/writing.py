"""A working objective to begin with, as a file or as a distribution, made from the files in `templates/`."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path
from string import Template

from retrobench.config import BASELINES, discover
from retrobench.core import atomic_write, move, sync
from retrobench.errors import RetrobenchError

__all__ = ["write_objective"]

TEMPLATES = Path(__file__).parent / "templates"
NAME = r"[a-z][a-z0-9]*([-_][a-z0-9]+)*"


def write_objective(name: str, as_distribution: bool = False) -> str:
    """Write an objective of this name into the working directory, and return the next commands.

    Its file is `NAME.py`, or with `as_distribution` it stands in a folder `retrobench-NAME` that pip installs, with a
    test. The file's name has underscores for hyphens.

    RetrobenchError for a name that is bad or taken, and for a file or folder that exists or cannot be written.
    """
    distribution = f"retrobench-{name}"
    module = (distribution if as_distribution else name).replace("-", "_")
    values = {"name": name, "class_name": _class_name(name), "module": module, "distribution": distribution}
    target = Path(distribution) if as_distribution else Path(f"{module}.py")
    _check_name(name, target)
    _check_words(name, module, values["class_name"])
    try:
        if as_distribution:
            _write_distribution(target, values)
        else:
            atomic_write(target, _fill("objective.py", values))
    except OSError as error:
        raise RetrobenchError(f"Cannot write {target}: {error.strerror}. Go to a folder of yours.") from error
    commands = _next_commands(name, target)
    return "\n".join([f"Wrote {target}: masked language modelling, and a term to change. Next:", *commands])


def _class_name(name: str) -> str:
    return "".join(word.capitalize() for word in re.split("[-_]", name))


def _check_name(name: str, target: Path) -> None:
    if not re.fullmatch(NAME, name):
        raise RetrobenchError(
            f"An objective cannot be called {name!r} here: use small letters, digits and single hyphens, a letter "
            "first, such as first-words."
        )
    if target.exists():
        raise RetrobenchError(f"{target} exists. Choose another name, or move it away.")
    for row in discover():
        if row.name == name:
            raise RetrobenchError(f"The name {name!r} is taken, by {row.source}. Choose another.")
    if name in BASELINES:
        raise RetrobenchError(f"The name {name!r} is taken, by a baseline. Choose another.")


def _check_words(name: str, module: str, class_name: str) -> None:
    """Check that the names of the file and the class have no other meaning in Python."""
    if importlib.util.find_spec(module) is not None:
        raise RetrobenchError(f"A file {module}.py would hide the installed module {module!r}. Choose another name.")
    imported = re.findall(r"\w+", " ".join(re.findall("import (.*)", _read("objective.py"))))
    if keyword.iskeyword(module) or keyword.iskeyword(class_name) or class_name in imported:
        raise RetrobenchError(
            f"The name {name!r} gives {module}.py a class {class_name}, a word in use. Choose another."
        )


def _write_distribution(folder: Path, values: dict[str, str]) -> None:
    """Write all files of a distribution. The folder has its name when it is complete."""
    module = values["module"]
    names = {
        "objective.py": f"{module}.py",
        "test_objective.py": f"test_{module}.py",
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
    }
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    for template, name in names.items():
        atomic_write(partial / name, _fill(template, values))
    sync(partial)
    move(partial, folder)


def _fill(template: str, values: dict[str, str]) -> str:
    return Template(_read(template)).substitute(values)


def _read(template: str) -> str:
    return (TEMPLATES / f"{template}.txt").read_text("utf-8")


def _next_commands(name: str, target: Path) -> list[str]:
    if target.suffix == ".py":
        return [
            f"  retrobench objectives check ./{target}",
            f"  retrobench objectives show {name} --plugin ./{target}",
            f"  retrobench run --objective {name} --objective mlm --plugin ./{target}",
        ]
    return [
        f"  pip install --editable ./{target}",
        f"  pytest ./{target}",
        f"  retrobench run --objective {name} --objective mlm",
    ]
