"""The README is current: its tree names every module, its commands parse, its links exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from retrobench.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = README.split("## Where things are")[1]
COMMANDS = re.findall(r"^    retrobench (\S+)(.*)$", README, re.MULTILINE)
LINKS = re.findall(r"\]\(([^)#]+)\)", README)


def test_the_tree_names_every_module_and_no_other() -> None:
    names = set(re.findall(r"^      (\S+)  +\S", TREE, re.MULTILINE))
    package = ROOT / "harness" / "retrobench"
    modules = {file.name for file in package.glob("*.py")} - {"__init__.py"}
    folders = {f"{folder.name}/" for folder in package.iterdir() if folder.is_dir() and folder.name != "__pycache__"}
    assert names == modules | folders
    assert names


@pytest.mark.parametrize(("command", "words"), COMMANDS)
def test_the_commands_parse(command: str, words: str) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert command in commands
    if command == "data":
        assert words.split()[0] in commands[command].commands
    options: set[str] = set()
    for parameter in commands[command].params:
        options.update(parameter.opts)
    assert set(re.findall(r"--[a-z-]+", words)) <= options


def test_there_are_commands_and_links() -> None:
    assert {command for command, _ in COMMANDS} == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert len(LINKS) >= 4


@pytest.mark.parametrize("link", LINKS)
def test_the_links_exist(link: str) -> None:
    assert (ROOT / link).exists()
