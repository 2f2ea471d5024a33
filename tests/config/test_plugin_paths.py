"""Plugins given as files, folders and packages: which objectives they give, and what their imports reach."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from retrobench.config.discovery import InstalledObjective, discover, find_objective
from retrobench.config.fingerprint import fingerprint, source_files
from retrobench.errors import RetrobenchError

TOY = '''
from dataclasses import dataclass
from typing import ClassVar

from retrobench import hookimpl
{imports}

@dataclass(frozen=True)
class Toy:
    """Learns nothing."""

    contract: ClassVar[int] = 1
    name: ClassVar[str] = "{name}"
    paper: ClassVar[str] = "unpublished"
    pretrains: ClassVar[bool] = False
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls"
    presets: ClassVar[dict] = {{}}

    def value(self):
        {value}

@hookimpl
def retrobench_objectives():
    return [Toy]
'''


def write(file: Path, name: str, imports: str = "", value: str = "return None") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(TOY.format(name=name, imports=imports, value=value))
    return file


def plugins(*paths: Path) -> list[InstalledObjective]:
    return [row for row in discover(paths) if row.file is not None]


def toy(row: InstalledObjective) -> Any:
    assert row.objective is not None, row.reason
    return row.objective()


def test_a_folder_gives_the_objectives_of_its_files(tmp_path: Path) -> None:
    write(tmp_path / "first.py", "first")
    write(tmp_path / "second.py", "second")
    (tmp_path / "helper.py").write_text("raise RuntimeError('a helper that nothing imports')")
    write(tmp_path / "deeper" / "third.py", "third")
    rows = plugins(tmp_path)
    assert [row.name for row in rows] == ["first", "second"]
    assert [row.distribution for row in rows] == [str(tmp_path / "first.py"), str(tmp_path / "second.py")]
    assert {row.status for row in rows} == {"ok"}
    assert len(plugins(tmp_path, tmp_path / "first.py")) == 2, "a file that is given twice counts once"


def test_a_broken_file_of_a_folder_leaves_the_other_usable(tmp_path: Path) -> None:
    write(tmp_path / "first.py", "first")
    write(tmp_path / "second.py", "second", imports="import absent_module")
    first, second = plugins(tmp_path)
    assert (first.name, first.status) == ("first", "ok")
    assert (second.name, second.status) == ("second", "failed")
    assert second.reason == "ModuleNotFoundError: No module named 'absent_module' (second.py, line 6)"


PACKAGE_VALUES = {
    "relative": ("from .layers import WIDTH", "return WIDTH"),
    "relative module": ("from . import layers", "return layers.WIDTH"),
    "absolute": ("from mine.layers import WIDTH", "return WIDTH"),
    "absolute module": ("import mine.layers", "return mine.layers.WIDTH"),
    "late": ("", "from .layers import WIDTH; return WIDTH"),
}


@pytest.mark.parametrize("kind", PACKAGE_VALUES)
def test_a_package_is_one_plugin(kind: str, tmp_path: Path) -> None:
    imports, value = PACKAGE_VALUES[kind]
    package = write(tmp_path / "mine" / "__init__.py", "mine", imports, value).parent
    (package / "layers.py").write_text("WIDTH = 7\n")
    write(package / "other.py", "other")
    (row,) = plugins(package)
    assert (row.name, row.distribution, row.file) == ("mine", str(package), package)
    assert toy(row).value() == 7


NEIGHBOUR_VALUES = {
    "name": ("from near import WIDTH", "return WIDTH"),
    "module": ("import near", "return near.WIDTH"),
    "alias": ("import near as close", "return close.WIDTH"),
    "late": ("", "from near import WIDTH; return WIDTH"),
    "of a neighbour": ("import farther", "return farther.near.WIDTH"),
    "package": ("from layers.deep import WIDTH", "return WIDTH"),
    "module of a package": ("import layers.deep", "return layers.deep.WIDTH"),
    "alias of a package": ("import layers.deep as deep", "return deep.WIDTH"),
}


@pytest.mark.parametrize("kind", NEIGHBOUR_VALUES)
def test_neighbours_of_one_name_are_apart(kind: str, tmp_path: Path) -> None:
    imports, value = NEIGHBOUR_VALUES[kind]
    for name, width in {"first": 3, "second": 5}.items():
        folder = write(tmp_path / name / "mine.py", name, imports, value).parent
        (folder / "near.py").write_text(f"WIDTH = {width}\n")
        (folder / "farther.py").write_text("import near\n")
        (folder / "layers").mkdir()
        (folder / "layers" / "__init__.py").write_text("")
        (folder / "layers" / "deep.py").write_text("from near import WIDTH\n")
    first, second = plugins(tmp_path / "first" / "mine.py", tmp_path / "second" / "mine.py")
    assert (toy(first).value(), toy(second).value()) == (3, 5)
    assert not {"near", "farther", "layers", "mine"} & sys.modules.keys()
    assert str(tmp_path / "first") not in sys.path


def test_a_neighbour_may_have_the_name_of_an_installed_module(tmp_path: Path) -> None:
    installed = importlib.import_module("annotated_types")
    mine = write(tmp_path / "mine.py", "mine", "import annotated_types", "return annotated_types.WIDTH")
    (tmp_path / "annotated_types.py").write_text("WIDTH = 3\n")
    (row,) = plugins(mine)
    assert toy(row).value() == 3
    assert sys.modules["annotated_types"] is installed


def test_retrobench_and_folders_without_code_are_no_neighbours(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.py", "mine", "import annotated_types", "return annotated_types.Ge")
    for folder in ("retrobench", "annotated_types"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "setup.py").write_text("raise RuntimeError")
    (tmp_path / "retrobench.py").write_text("raise RuntimeError")
    (row,) = plugins(mine)
    assert row.status == "ok", row.reason
    assert list(source_files(mine)) == ["mine.py"]


def test_a_changed_neighbour_is_imported_anew_and_changes_the_hash(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.py", "mine", "import near", "return near.WIDTH")
    near = tmp_path / "near.py"
    values, codes = [], []
    for width in (1, 2, 1):  # of one size, within one second
        near.write_text(f"WIDTH = {width}\n")
        (row,) = plugins(mine)
        values.append(toy(row).value())
        codes.append(row.code)
    assert values == [1, 2, 1]
    assert codes[0] == codes[2] != codes[1]
    assert not (tmp_path / "__pycache__").exists()


def test_the_hash_covers_what_a_relative_import_reaches(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.py", "mine", "from . import near\nfrom .far import a")
    (tmp_path / "near.py").write_text("b = 1\n")
    (tmp_path / "far.py").write_text("a = 1\n")
    (tmp_path / "unrelated.py").write_text("a = 1\n")
    assert sorted(source_files(mine)) == ["far.py", "mine.py", "near.py"]
    (row,) = plugins(mine)
    assert (row.status, row.code) == ("ok", fingerprint(mine))


def test_an_error_in_a_neighbour_names_its_file_and_line(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.py", "mine", "import near")
    near = tmp_path / "near.py"
    reasons = {
        "a = 1\nb = a / 0\n": "ZeroDivisionError: division by zero (near.py, line 2)",
        "\n\nimport absent_module\n": "ModuleNotFoundError: No module named 'absent_module' (near.py, line 3)",
        "def broken(:\n": "SyntaxError: invalid syntax (near.py, line 1)",
    }
    for text, reason in reasons.items():
        near.write_text(text)
        (row,) = plugins(mine)
        assert (row.status, row.reason) == ("failed", reason)


def test_a_path_in_place_of_a_name_suggests_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("folder/first.py"), "one")
    write(Path("folder/second.py"), "two")
    with pytest.raises(
        RetrobenchError, match=r"'\./folder/first\.py' .*--plugin \./folder/first\.py --objective one\.$"
    ):
        find_objective("./folder/first.py", [])
    with pytest.raises(RetrobenchError, match=r"--plugin \./folder --objective one --objective two\.$"):
        find_objective("./folder", [])
    Path("broken.py").write_text("import absent_module")
    with pytest.raises(RetrobenchError, match=r"'broken\.py' .* broken failed: ModuleNotFoundError: .*line 1"):
        find_objective("broken.py", [])
    with pytest.raises(RetrobenchError, match=r"Plugin 'gone\.py' is missing"):
        find_objective("gone.py", [])
