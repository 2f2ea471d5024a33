"""The structure of the code: rooms, the public list, sizes, the top level, no path of a machine."""

from __future__ import annotations

import ast
import importlib
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

# From the top floor down. CONTRIBUTING.md shows this table.
FLOORS = (
    ("cli",),
    ("testing",),
    ("runs",),
    ("pipeline", "bench"),
    ("stages", "plan"),
    ("training", "retrieval"),
    ("model", "leaderboard"),
    ("config",),
    ("scoring",),
    ("data", "store"),
    ("core",),
    ("objective", "errors"),
)
HEIGHT: dict[str, int] = {}  # of each room's floor
for height, rooms in enumerate(reversed(FLOORS)):
    HEIGHT |= dict.fromkeys(rooms, height)
MAY_LOOK_UP = {("objective", "model")}  # the contract names the type that `wrap` gets, for type checkers only
PUBLIC = {"retrobench", "retrobench.model"}  # to plugins

TOP = {
    *("pyproject.toml", "README.md", "CITATION.cff", "harness", "plugins", "leaderboards", "tests"),
    *("LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "constraints.txt"),
}

DOORS = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}
MODULES = sorted(file for file in PACKAGE.rglob("*.py") if file not in DOORS)
PLUGINS = sorted((ROOT / "plugins").glob("*.py"))
SOURCES = sorted(
    [*(ROOT / "harness").rglob("*.py"), *(ROOT / "plugins").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
)


def parsed(file: Path) -> Iterator[ast.AST]:
    """Yield all nodes of a file."""
    return ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def called(file: Path) -> str:
    return str(file.relative_to(ROOT))


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of every import: at the top, in functions, for type checkers."""
    for node in parsed(file):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{called(file)} imports relatively"
            for alias in node.names:
                yield node.module or "", alias.name


def reached(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield room, path within the room and name of each import from this package."""
    for module, name in imported(file):
        _, _, path = module.partition(".")
        room, _, inside = path.partition(".")
        if module == "retrobench" and name in HEIGHT:  # a room as a whole
            yield name, "", ""
        elif module == "retrobench":
            yield "objective", "", name
        elif module.startswith("retrobench."):
            yield room, inside, name


def test_the_lists_of_files_are_not_empty() -> None:
    assert {room_of(file) for file in MODULES} == set(HEIGHT)
    assert {"retrobench_bert.py", "retrobench_dupmae.py"} <= {file.name for file in PLUGINS}
    assert Path(__file__) in SOURCES


@pytest.mark.parametrize("file", MODULES, ids=called)
def test_imports_go_down_and_through_the_door(file: Path) -> None:
    room = room_of(file)
    for target, path, name in reached(file):
        if target == room or (room, target) in MAY_LOOK_UP:
            continue
        assert HEIGHT[target] < HEIGHT[room], f"{room} may not import {target}"
        assert not path, f"import {name} from retrobench.{target}, not from {target}.{path}"
        package = importlib.import_module(f"retrobench.{target}")
        assert not name or name in package.__all__, f"{name} is private to {target}"


def renames(node: ast.AST) -> bool:
    """Return whether this calls or imports os.replace, os.rename, Path.replace, Path.rename or shutil.move."""
    if isinstance(node, ast.ImportFrom):
        imported_names = {alias.name for alias in node.names}
        return node.module in ("os", "shutil") and bool(imported_names & {"move", "rename", "renames", "replace"})
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    owner = ast.unparse(node.func.value)
    if node.func.attr == "replace":  # text has two arguments, `dataclasses.replace` has keywords
        return owner == "os" or (len(node.args) == 1 and not node.keywords)
    return node.func.attr in ("rename", "renames") or (owner, node.func.attr) == ("shutil", "move")


CODE_AND_RENAMES = [
    ("os.replace(a, b)", True),
    ("os.rename(a, b)", True),
    ("file.with_suffix('.part').replace(file)", True),
    ("file.rename(other)", True),
    ("shutil.move(a, b)", True),
    ("from os import replace", True),
    ("text.replace('a', 'b')", False),
    ("from dataclasses import replace; replace(row, seed=1)", False),
    ("dataclasses.replace(row, seed=1)", False),
    ("core.move(a, b)", False),
]


@pytest.mark.parametrize(("code", "expected"), CODE_AND_RENAMES)
def test_a_rename_is_seen(code: str, expected: bool) -> None:
    nodes = ast.walk(ast.parse(code))
    assert any(map(renames, nodes)) is expected


def test_only_core_files_renames() -> None:
    renaming = []
    for file in (*MODULES, *PLUGINS):
        if any(map(renames, parsed(file))):
            renaming.append(called(file))
    assert renaming == ["harness/retrobench/core/files.py"], "others call atomic_write or move of retrobench.core"


@pytest.mark.parametrize("file", PLUGINS, ids=called)
def test_a_plugin_imports_only_what_is_public(file: Path) -> None:
    modules = {module for module, _ in imported(file) if module.startswith("retrobench")}
    assert modules <= PUBLIC


def test_the_rooms_are_few_and_described() -> None:
    assert len(HEIGHT) == 18
    for room in HEIGHT:
        assert importlib.import_module(f"retrobench.{room}").__doc__, room


def test_contributing_shows_the_floors() -> None:
    table = "\n".join("    " + "  ".join(floor) for floor in FLOORS)
    assert table in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_public_list_is_what_is_exported_and_documented() -> None:
    exported = {"__version__", "load_encoder"}  # both are looked up when they are first used
    for name, value in vars(retrobench).items():
        if not name.startswith("_") and not isinstance(value, ModuleType):
            exported.add(name)
    assert retrobench.__all__ == sorted(exported)
    documented = re.findall(r"^\* (\w+)  ", retrobench.__doc__ or "", re.MULTILINE)
    assert documented == retrobench.__all__
    for name in retrobench.__all__:
        assert inspect.getdoc(getattr(retrobench, name)), name


def test_no_file_is_over_400_lines() -> None:
    long = {}
    for file in SOURCES:
        length = file.read_text(encoding="utf-8").count("\n")
        if length > 400:
            long[called(file)] = length
    assert long == {}


def test_no_function_is_over_60_lines() -> None:
    long = {}
    for file in SOURCES:
        for node in parsed(file):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    long[f"{called(file)}:{node.lineno} {node.name}"] = length
    assert long == {}


def tracked(*options: str) -> list[str]:
    """Return the files that git tracks, or those that the options select."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    listed = subprocess.run([git, "ls-files", *options], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


def test_the_top_level_holds_the_fixed_names_and_no_others() -> None:
    paths = tracked()
    if not paths:
        pytest.skip("not a git checkout")
    names = {path.split("/")[0] for path in paths if not path.startswith(".")}
    assert names == TOP


def test_no_tracked_file_is_ignored() -> None:
    # hatchling leaves ignored files out of the wheel.
    assert tracked("--cached", "--ignored", "--exclude-standard") == []


def shipped_texts() -> Iterator[tuple[Path, str]]:
    """Yield each text file of the top level's names, with its text."""
    for name in sorted({*TOP, ".ci", ".gitignore", ".pre-commit-config.yaml"}):
        top = ROOT / name
        for file in (top, *sorted(top.rglob("*"))):
            if file.is_file() and "__pycache__" not in file.parts:
                try:
                    yield file, file.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    continue  # weights, arrays, compressed text


def test_no_file_names_a_path_of_a_machine() -> None:
    machine = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users|tmp|opt|mnt)/\S*")
    texts = dict(shipped_texts())
    assert ROOT / "README.md" in texts
    paths = {}
    for file, text in texts.items():
        match = machine.search(text)
        if match:
            paths[called(file)] = match[0]
    assert paths == {}
