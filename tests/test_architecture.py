"""The shape of the code, proved: floors, the public list, sizes, the top level, no path of a machine."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import retrobench

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "harness" / "retrobench"

# From the top of the house down. CONTRIBUTING.md shows the same table.
FLOORS = (
    ("cli", "testing", "make"),
    ("sweep", "evaluate", "plan", "bench"),
    ("pipeline",),
    ("stages",),
    ("training", "representation", "encoders"),
    ("reading",),
    ("experiment",),
    ("readme",),
    ("reproduce",),
    ("tables", "performance"),
    ("cells",),
    ("comparison", "scoring", "doctor", "claims"),
    ("plugins", "store", "data", "leaderboard"),
    ("masking", "heads", "decoder", "tokens", "checkpoints", "gathering", "embedding", "nearest"),
    ("backbones", "collections", "sampling"),
    (
        *("objective", "settings", "fingerprint", "measures", "trec", "arithmetic", "entries", "team"),
        *("layers", "vectors"),
    ),
    ("errors", "progress", "provenance", "ranking", "significance", "rules", "kernels"),
)
HEIGHT = {module: height for height, floor in enumerate(reversed(FLOORS)) for module in floor}

# (who, whom): why it may look up, or across.
EXCEPTIONS = {
    (
        "objective",
        "backbones",
    ): "the contract names the type that `wrap` gets; nothing is imported at run time",
}

PUBLIC = {"backbones", "decoder", "errors", "heads", "masking", "objective", "testing"}

TOP = {
    *("pyproject.toml", "README.md", "CITATION.cff", "harness", "plugins", "leaderboards", "tests"),
    *("LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "constraints.txt"),
}

MODULES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")
PLUGINS = sorted((ROOT / "plugins").glob("*.py"))
SOURCES = sorted(file for folder in ("harness", "plugins", "tests") for file in (ROOT / folder).rglob("*.py"))


def called(file: Path) -> str:
    return str(file.relative_to(ROOT))


def module_of(file: Path) -> str:
    """The name directly under the package: a subpackage lives on one floor."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> Iterator[str]:
    """Full dotted names, wherever the import stands: at the top, in a function, for type checkers."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = file.parent.relative_to(PACKAGE.parent).parts
                base = ".".join((*package[: len(package) - node.level + 1], *base.split("."))).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def reached(file: Path) -> set[str]:
    """The modules of this project that a file imports. The root stands on `objective`, which it exports."""
    modules = {module_of(other) for other in MODULES}
    found = set()
    for name in imported(file):
        top, _, rest = name.partition(".")
        if top == "retrobench":
            module = rest.partition(".")[0]
            found.add(module if module in modules else "objective")
        elif top.startswith("retrobench_"):
            found.add(top)
    return found


def test_there_is_something_to_look_at() -> None:
    assert {module_of(file) for file in MODULES} == set(HEIGHT), "every module has a floor, every floor its modules"
    assert {"retrobench_bert.py", "retrobench_dupmae.py"} <= {file.name for file in PLUGINS}
    assert Path(__file__) in SOURCES


@pytest.mark.parametrize("file", MODULES, ids=called)
def test_imports_go_down_only(file: Path) -> None:
    module = module_of(file)
    assert module in HEIGHT, f"give {module} its floor in FLOORS"
    others = {other for other in reached(file) if other != module and (module, other) not in EXCEPTIONS}
    assert not others - set(HEIGHT), "the harness may not know a plugin"
    assert not {other for other in others if HEIGHT[other] >= HEIGHT[module]}


def test_every_exception_to_the_floors_is_needed() -> None:
    used = {(module_of(file), other) for file in MODULES for other in reached(file)}
    assert set(EXCEPTIONS) <= used


@pytest.mark.parametrize("file", PLUGINS, ids=called)
def test_a_plugin_imports_only_what_is_public(file: Path) -> None:
    assert not reached(file) - PUBLIC


def test_the_root_stands_on_the_contract_alone() -> None:
    assert reached(PACKAGE / "__init__.py") == {"objective"}


def test_contributing_shows_the_floors() -> None:
    table = "\n".join("    " + "  ".join(floor) for floor in FLOORS)
    assert table in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_public_list_is_what_is_exported_and_documented() -> None:
    members = vars(retrobench).items()
    exported = {name for name, value in members if not name.startswith("_") and not isinstance(value, ModuleType)}
    assert retrobench.__all__ == sorted(exported | {"__version__"})
    assert re.findall(r"^\* (\w+)  ", retrobench.__doc__ or "", re.MULTILINE) == retrobench.__all__
    assert all(inspect.getdoc(getattr(retrobench, name)) for name in retrobench.__all__)


def test_no_file_is_over_400_lines() -> None:
    lengths = {called(file): file.read_text(encoding="utf-8").count("\n") for file in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_function_is_over_60_lines() -> None:
    long = {}
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    long[f"{called(file)}:{node.lineno} {node.name}"] = length
    assert long == {}


def test_the_top_level_holds_the_fixed_names_and_no_others() -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    listed = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} == TOP


def shipped_texts() -> Iterator[tuple[Path, str]]:
    for name in sorted({*TOP, ".ci", ".gitignore", ".pre-commit-config.yaml"}):
        top = ROOT / name
        for file in [top] if top.is_file() else sorted(top.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                try:
                    yield file, file.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    continue  # weights, arrays, compressed text


def test_no_file_knows_a_path_of_somebodys_machine() -> None:
    machine = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users|tmp|opt|mnt)/\S*")
    texts = list(shipped_texts())
    assert ROOT / "README.md" in {file for file, _ in texts}
    found = {called(file): match[0] for file, text in texts if (match := machine.search(text))}
    assert found == {}
