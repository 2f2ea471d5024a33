"""The author's kit: `objectives new` writes what works without an edit, `objectives show` prints what is declared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrobench import cli
from retrobench.config.discovery import discover, find_objective
from retrobench.errors import RetrobenchError
from retrobench.testing import check_target, describe_objective, write_objective
from retrobench.testing import cost as cost_module

RULES = ["--select", "E,F,I,B,PIE,UP,SIM,RUF", "--line-length", "120"]
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-qq"]
BUILT_IN = [row.name for row in discover() if row.distribution == "retrobench"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str, **variables: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    process = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr


def lint(path: str) -> None:
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed")
    call(ruff, "check", "--no-cache", *RULES, path)
    call(ruff, "format", "--no-cache", "--check", "--line-length", "120", path)


def test_a_new_file_keeps_the_contract_without_an_edit(folder: Path) -> None:
    text = write_objective("my-words")
    assert [file.name for file in folder.iterdir()] == ["my_words.py"]
    assert text.splitlines()[0].startswith("Wrote my_words.py: ")
    commands = [line.split() for line in text.splitlines()[1:]]
    assert commands[0] == ["retrobench", "objectives", "check", "./my_words.py"]
    assert commands[1] == ["retrobench", "objectives", "show", "my-words", "--plugin", "./my_words.py"]
    assert commands[2][:4] == ["retrobench", "run", "--objective", "my-words"]
    assert commands[2][-2:] == ["--plugin", "./my_words.py"]
    (row,) = [row for row in discover([Path("my_words.py")]) if row.file is not None]
    assert (row.name, row.status, row.reason) == ("my-words", "ok", "")
    checked = check_target("./my_words.py")
    assert checked.exit_code == 0, checked.text
    assert checked.text.count(" ok ") == 4, "three families and two processes"
    assert "first_words 4." in checked.text
    lint("my_words.py")


@pytest.mark.slow
def test_a_new_distribution_is_installed_and_passes_its_tests(folder: Path) -> None:
    commands = [line.split() for line in write_objective("demo", as_distribution=True).splitlines()[1:]]
    assert [path.name for path in folder.iterdir()] == ["retrobench-demo"]
    names = {path.name for path in Path("retrobench-demo").iterdir()}
    assert names == {"README.md", "pyproject.toml", "retrobench_demo.py", "test_retrobench_demo.py"}
    assert commands[0] == ["pip", "install", "--editable", "./retrobench-demo"]
    assert commands[1] == ["pytest", "./retrobench-demo"]
    lint("retrobench-demo")
    (row,) = [row for row in discover([Path("retrobench-demo")]) if row.file is not None]
    assert (row.name, row.status) == ("demo", "ok")
    call(sys.executable, "-m", "pip", "install", *OFFLINE, "--target", "site", "./retrobench-demo")
    assert (folder / "site" / "retrobench_demo.py").is_file()
    assert not (folder / "site" / "test_retrobench_demo.py").exists()
    call(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "./retrobench-demo")


def test_an_installed_distribution_is_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_objective("listed", as_distribution=True)
    call(sys.executable, "-m", "pip", "install", *OFFLINE, "--target", "site", "./retrobench-listed")
    monkeypatch.syspath_prepend(str(folder / "site"))
    row = find_objective("listed", discover())
    assert (row.distribution, row.version, row.status) == ("retrobench-listed", "0.1.0", "ok")
    with pytest.raises(RetrobenchError, match=r"'listed' is taken, by retrobench-listed 0\.1\.0"):
        write_objective("listed")


REFUSED = {
    "mlm": "The name 'mlm' is taken, by retrobench ",
    "bm25": "The name 'bm25' is taken, by a baseline.",
    "First": "An objective cannot be called 'First' here",
    "first words": "An objective cannot be called 'first words' here",
    "1st": "An objective cannot be called '1st' here",
    "../first": "An objective cannot be called '../first' here",
    "json": "A file json.py would hide the installed module 'json'.",
    "retrobench": "A file retrobench.py would hide the installed module 'retrobench'.",
    "step": "The name 'step' gives step.py a class Step, a word in use.",
    "none": "The name 'none' gives none.py a class None, a word in use.",
    "class": "The name 'class' gives class.py a class Class, a word in use.",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_or_taken_name_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(RetrobenchError) as raised:
        write_objective(name)
    assert str(raised.value).startswith(REFUSED[name])
    assert list(folder.iterdir()) == []


def test_what_exists_is_not_overwritten(folder: Path) -> None:
    Path("demo.py").write_text("mine")
    Path("retrobench-demo").mkdir()
    with pytest.raises(RetrobenchError, match=r"^demo\.py exists\."):
        write_objective("demo")
    with pytest.raises(RetrobenchError, match=r"^retrobench-demo exists\."):
        write_objective("demo", as_distribution=True)
    assert Path("demo.py").read_text() == "mine"
    assert list(Path("retrobench-demo").iterdir()) == []


SHOWN = '''
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from retrobench import hookimpl
from retrobench_mlm import MaskedLanguageModelling

@dataclass(frozen=True)
class Shown(MaskedLanguageModelling):
    """Hides words.

    Throws nothing away.
    """

    count: Annotated[int, Ge(1)] = 8  # words at the beginning
    # How a bag weighs,
    # a word at a time.
    bag: Literal["one", "unique"] = "one"
    limits: tuple[int, ...] = (1, 2)

    name: ClassVar[str] = "shown"
    paper: ClassVar[str] = "A, B 2020"
    # No setting's comment.
    presets: ClassVar[dict] = {"small": {"count": 2, "bag": "one"}, "plain": {}}
    {more}

@hookimpl
def retrobench_objectives():
    return [Shown]
'''


def settings_of(document: dict[str, Any]) -> dict[str, list[Any]]:
    return {setting["name"]: [*setting.values()][1:] for setting in document["settings"]}


def test_show_has_every_declared_fact_as_json(folder: Path) -> None:
    file = Path("shown.py")
    file.write_text(SHOWN.replace("{more}", ""))
    document = json.loads(describe_objective("shown:small", [file]).json())
    assert document["name"] == "shown"
    assert document["preset"] == "small"
    assert document["paper"] == "A, B 2020"
    assert document["idea"] == "Hides words.\n\nThrows nothing away."
    assert (document["distribution"], document["version"]) == ("shown.py", None)
    assert (document["representation"], document["pretrains"], document["couples_batch"]) == ("cls", True, False)
    assert document["presets"] == {"small": {"count": 2}, "plain": {}}
    settings = settings_of(document)
    assert settings["mask_ratio"][:3] == ["a finite number, above 0, below 1", 0.3, 0.3]
    assert settings["mask_ratio"][3].startswith("As in the objectives that this control is compared with")
    assert settings["count"] == ["a whole number, at least 1", 8, 2, "words at the beginning"]
    assert settings["bag"] == ["one of 'one', 'unique'", "one", "one", "How a bag weighs, a word at a time."]
    assert settings["limits"] == ["a list of which each is a whole number", [1, 2], [1, 2], ""]
    cost = document["cost"]
    assert cost["rounds"] == 7
    assert cost["ratio"] == pytest.approx(cost["seconds"] / cost["mlm_seconds"])
    assert 0.3 < cost["ratio"] < 3, "it is masked language modelling"


def test_show_as_text(folder: Path) -> None:
    file = Path("shown.py")
    file.write_text(SHOWN.replace("{more}", ""))
    lines = describe_objective("shown:small", [file]).text().splitlines()
    assert lines[0] == "shown:small"
    for line in (
        "  Throws nothing away.",
        "paper           A, B 2020",
        "source          shown.py",
        "representation  cls",
        "  count = 2 (default 8): a whole number, at least 1",
        "      words at the beginning",
        "  limits = [1, 2]: a list of which each is a whole number",
        "  small: count = 2",
        "  plain: the defaults",
    ):
        assert line in lines
    (cost,) = [line for line in lines if line.startswith("cost ")]
    assert " times mlm's: " in cost
    assert max(map(len, lines)) <= 100


def test_a_step_of_twice_the_work_costs_about_twice(folder: Path) -> None:
    more = "def step(self, model, progress, **batch):\n        super().step(model, progress, **batch)\n"
    more += "        first = super().step(model, progress, **batch)\n"
    more += "        second = super().step(model, progress, **batch)\n"
    more += "        return first._replace(losses={'mlm': first.losses['mlm'] + second.losses['mlm']})"
    file = Path("shown.py")
    file.write_text(SHOWN.replace("{more}", more))
    cost = describe_objective("shown", [file]).cost
    assert cost is not None
    assert 1.5 < cost.ratio < 4, "three forward passes and two backward passes"


def test_a_cost_that_cannot_be_measured_says_why(folder: Path) -> None:
    file = Path("shown.py")
    file.write_text(
        SHOWN.replace("{more}", "def step(self, model, progress, **batch):\n        raise ValueError('no')")
    )
    description = describe_objective("shown", [file])
    assert description.cost is None
    assert description.cost_note == "not measured: ValueError: no. `retrobench objectives check shown` tries it."
    assert json.loads(description.json())["cost"] is None
    assert describe_objective("bert").cost_note == "none: nothing is pre-trained"


def test_show_refuses_a_baseline_and_an_unknown_preset() -> None:
    with pytest.raises(RetrobenchError, match=r"^bm25 is a baseline, which trains nothing\."):
        describe_objective("bm25")
    with pytest.raises(RetrobenchError, match=r"Unknown dupmae preset 'papr'\. Did you mean 'paper'\?"):
        describe_objective("dupmae:papr")


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_is_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_module, "ROUNDS", 1)
    description = describe_objective(name)
    assert (description.cost is not None) == description.objective.pretrains, description.cost_note
    assert description.text().startswith(f"{name}\n")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["retrobench", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.fixture
def two(folder: Path) -> Path:
    """Return a folder with two plugins."""
    home = folder / "plugins"
    home.mkdir()
    for name in ("one", "two"):
        (home / f"{name}.py").write_text(SHOWN.replace("{more}", "").replace('"shown"', f'"{name}"'))
    return home


COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "list": lambda home: ["objectives", "--plugin", str(home)],
    "check": lambda home: ["objectives", "check", "two", "--plugin", str(home)],
    "check of a folder": lambda home: ["objectives", "check", str(home)],
    "show": lambda home: ["objectives", "show", "two", "--plugin", str(home)],
    "plan": lambda home: ["plan", "--objective", "two", "--plugin", str(home), "--hardware", "h200"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_folder_is_a_plugin_of_every_command(
    kind: str, two: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *COMMANDS[kind](two)) == 0
    assert "two" in capfd.readouterr().out


def test_an_option_before_the_command_is_refused(
    two: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "objectives", "--plugin", str(two), "show", "two") == 2
    assert capfd.readouterr().err == "Error: Give --plugin and --json behind `objectives show`.\n"


def test_new_loads_no_torch(folder: Path) -> None:
    code = "import sys; from retrobench import cli; sys.argv[1:] = ['objectives', 'new', 'demo']\n"
    code += "try: cli.main()\nfinally: assert 'torch' not in sys.modules"
    call(sys.executable, "-c", code)
    assert Path("demo.py").is_file()
