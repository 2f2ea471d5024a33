"""The README is true: its tree names every module, its commands exist, its links lead somewhere."""

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
    named = set(re.findall(r"^      (\S+)  +\S", TREE, re.MULTILINE))
    package = ROOT / "harness" / "retrobench"
    there = {file.name for file in package.glob("*.py")} - {"__init__.py"}
    folders = {f"{folder.name}/" for folder in package.iterdir() if folder.is_dir() and folder.name != "__pycache__"}
    assert named == there | folders
    assert named


@pytest.mark.parametrize(("command", "rest"), COMMANDS)
def test_the_commands_parse(command: str, rest: str) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert command in known
    if command == "data":
        assert rest.split()[0] in known[command].commands
    options = {name for parameter in known[command].params for name in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", rest)) <= options


def test_there_are_commands_and_links() -> None:
    assert {command for command, _ in COMMANDS} == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert len(LINKS) >= 4


@pytest.mark.parametrize("link", LINKS)
def test_the_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
