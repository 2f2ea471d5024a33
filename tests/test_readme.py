"""README and guides are true: commands run, links lead to files, the table of results is the leaderboard's."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

import published
import pytest
import tiny
import typer
from typer.core import TyperGroup

from retrobench import cli
from retrobench.leaderboard import guide

ROOT = Path(__file__).parents[1]
GUIDES = ["README.md", "CONTRIBUTING.md", "plugins/README.md", "tests/README.md", "leaderboards/README.md"]
NOT_RUN = re.compile(r"#.*\b(network|GPU|hours|minutes)\b")
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMANDS = typer.main.get_command(cli.app)


class Line(NamedTuple):
    """One line of a shell block."""

    guide: str
    text: str

    @property
    def words(self) -> list[str]:
        """Return the words after `retrobench`."""
        words = shlex.split(self.text, comments=True)
        return words[words.index("retrobench") + 1 :]


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def shell_lines() -> Iterator[Line]:
    for name in GUIDES:
        for block in SHELL.findall(text(name)):
            for line in block.splitlines():
                yield Line(name, line)


LINES = [line for line in shell_lines() if "retrobench" in shlex.split(line.text, comments=True)]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.text)
def test_each_command_parses(line: Line) -> None:
    command, words = COMMANDS, line.words
    if words == ["--version"]:
        return
    while isinstance(command, TyperGroup) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert command.make_context(None, words) is not None


def test_the_guides_name_every_command() -> None:
    assert isinstance(COMMANDS, TyperGroup)
    assert {line.words[0] for line in LINES} - {"--version"} == set(COMMANDS.commands)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working directory with the files that the commands name. Its track `mini` is tiny."""
    folder = tmp_path_factory.mktemp("guides")
    source = tiny.make(folder / "source")
    track = folder / "leaderboards" / "mini" / "track.toml"
    track.parent.mkdir(parents=True)
    shutil.copy(source.track, track)
    shutil.copy(source.track, folder / "my-track.toml")
    published.sentence(folder / "my-encoder")
    shutil.copytree(source.data, folder / "my-collection")
    (folder / "my.run").write_text("q65 Q0 d1 1 2.0 mine\nq65 Q0 d2 2 1.0 mine\n")
    (folder / "their.run").write_text("q65 Q0 d2 1 2.0 theirs\nq65 Q0 d1 2 1.0 theirs\n")
    (folder / "my.qrels").write_text("q65 0 d2 1\n")
    objective = PYTHON.findall(text("plugins/README.md"))[0]
    (folder / "my_objective.py").write_text(objective.replace('"first-words"', '"mine"'))
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command line in this process, and return its standard output."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RETROBENCH_HOME", str(folder / "store"))

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["retrobench", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capfd.readouterr()
        assert not stop.value.code, printed.err
        return printed.out

    return call


@pytest.mark.parametrize("name", GUIDES)
def test_each_command_runs(name: str, run: Callable[..., str]) -> None:
    for line in LINES:
        if line.guide == name and not NOT_RUN.search(line.text):
            assert run(*line.words).strip(), line.text


def test_marked_commands_are_the_exception() -> None:
    marked = [line for line in LINES if NOT_RUN.search(line.text)]
    assert 0 < len(marked) < len(LINES) / 2


def test_the_objective_of_the_guide_is_the_one_that_new_writes(tmp_path: Path, run: Callable[..., str]) -> None:
    written, check = PYTHON.findall(text("plugins/README.md"))
    with chdir(tmp_path):
        run("objectives", "new", "first-words")
    assert (tmp_path / "first_words.py").read_text() == written
    process = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_the_python_of_the_readme_runs(folder: Path, run: Callable[..., str]) -> None:
    run("run", "--objective", "mlm", "--track", "my-track.toml")
    encoder = next(path for path in (folder / "store" / "finetune").iterdir() if (path / "entry.json").exists())
    shutil.copytree(encoder, folder / "trained-encoder")
    (program,) = PYTHON.findall(text("README.md"))
    process = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert {"d1", "d2"} == set(re.findall(r"'(d\d)'", process.stdout))


REPRESENTATIONS = {"words": "bm25", "[CLS]": "cls", "[CLS] and terms": "cls+terms", "terms": "terms"}


def test_the_results_are_the_leaderboard() -> None:
    scores: dict[tuple[str, str], list[str]] = {}
    means: dict[tuple[str, str], str] = {}
    for row in table_rows(text("leaderboards/small/README.md").split("### The papers' claims")[0]):
        line = row[1], row[2]
        if len(row) == 12:  # letter, entrant, representation, seeds, MRR@10, rank, nDCG@10, Recall@100, costs
            scores[line] = row[4:6]
        elif len(row) == 8 and row[-1] != "mean of 3":  # letter, entrant, representation, four datasets, their mean
            means[line] = row[-1]
    section = text("README.md").split("## What it settles")[1].split("\n## ")[0]
    _, _, *results = table_rows(section)
    assert len(results) == 17
    for entrant, readout, *values in results:
        line = entrant.strip("`").lower(), REPRESENTATIONS[readout]
        assert values == [*scores[line], means[line]]


def table_rows(page: str) -> list[list[str]]:
    """Return the cells of all wide Markdown tables, without letters of significance and a spread that is not there."""
    rows = []
    for line in page.splitlines():
        if line.startswith("|") and line.count("|") > 5:
            numbers = re.sub(r"<sup>[^|]*</sup>| ± -", "", line.strip().strip("|"))
            rows.append([cell.strip() for cell in numbers.split("|")])
    return rows


@pytest.mark.parametrize("name", GUIDES)
def test_each_link_leads_to_a_file_or_heading(name: str) -> None:
    for link in LINK.findall(text(name)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = ROOT / name
        if path:
            target = target.parent / path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the usual renderers of Markdown make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    result = set()
    for heading in headings:
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        result.add(words.replace(" ", "-"))
    return result


def test_the_keys_of_a_track_are_current() -> None:
    assert guide.is_current(ROOT / "leaderboards" / "README.md")
