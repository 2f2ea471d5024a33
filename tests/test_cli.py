"""The command line: real processes, their exit codes and their output."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

from retrobench import cli, runs
from retrobench.cli import data_commands, groups, measuring_commands, objective_commands
from retrobench.runs.sweep import Swept

HEAVY = {"torch", "transformers", "ir_datasets", "ranx", "numpy", "scipy", "rich"}
COMMAND = [sys.executable, "-c", "from retrobench.cli import main; main()"]
PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar

from retrobench import hookimpl

@dataclass(frozen=True)
class Toy:
    contract: ClassVar[int] = 1
    name: ClassVar[str] = "[toy]"
    paper: ClassVar[str] = ""
    pretrains: ClassVar[bool] = False
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls"
    presets: ClassVar[dict[str, dict[str, str]]] = {}

@hookimpl
def retrobench_objectives():
    return [Toy]
"""


def call(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def loaded_after(*arguments: str) -> set[str]:
    script = f"""
import sys
from retrobench.cli import main
sys.argv[1:] = {list(arguments)!r}
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return set(result.stderr.split())


def test_help_answers_within_three_tenths_of_a_second() -> None:
    seconds = []
    for _ in range(5):  # the least processor time, since the load of a core's second thread only adds
        start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        assert call("--help").returncode == 0
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - start)
    assert min(seconds) < 0.3


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["objectives", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    loaded = loaded_after(*arguments)
    assert "retrobench.cli" in loaded
    assert loaded & HEAVY == set()


LISTINGS = [
    ("objectives", "retrobench.config.discovery", {"rich", "numpy"}),
    ("show mini:bm25:-", "retrobench.leaderboard.tables.showing", {"rich", "numpy"}),
    ("leaderboard", "retrobench.leaderboard.tables.rendering", {"rich", "numpy", "scipy"}),  # for tests of significance
]


@pytest.mark.parametrize(("command", "module", "libraries"), LISTINGS)
def test_a_listing_imports_no_library_that_trains_or_reads_datasets(
    command: str, module: str, libraries: set[str]
) -> None:
    loaded = loaded_after(*command.split())
    assert module in loaded
    assert loaded & HEAVY == libraries


def command_functions() -> dict[str, ast.FunctionDef]:
    """Return the functions of the commands by name, as syntax trees."""
    functions = {}
    for module in (cli, data_commands, measuring_commands, objective_commands):
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.FunctionDef) and node.decorator_list:
                functions[node.name] = node
    return functions


def test_commands_that_read_datasets_prepare_their_process() -> None:
    unprepared = set()
    for name, node in command_functions().items():
        if "prepare(" not in ast.unparse(node):
            unprepared.add(name)
    assert unprepared == {
        "_root",
        "objectives_group",
        "objectives_list",
        "objectives_show",
        "objectives_new",
        "objectives_check",
        "leaderboard",
        "show",
        "bench",
        "accept",
        "convert",
    }


def test_only_the_first_of_several_processes_prints() -> None:
    first = call("objectives", "--json", RANK="0", WORLD_SIZE="2")
    second = call("objectives", "--json", RANK="1", WORLD_SIZE="2")
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(json.loads(first.stdout)) >= 5
    assert second.stdout == ""


def test_help_names_the_commands_and_the_options_of_run() -> None:
    overview = call("--help").stdout
    for name in ("run", "objectives", "leaderboard"):
        assert f"\n  {name} " in overview
    options = call("run", "-h").stdout
    for name in (
        "--objective",
        "--track",
        "--seed",
        "--store",
        "--leaderboard",
        "--set",
        "--plugin",
        "--fresh",
        "--limit",
    ):
        assert f"{name} " in options


def test_help_lists_every_command_once_below_a_heading() -> None:
    overview = call("--help").stdout
    commands = typer.main.get_command(cli.app)
    assert isinstance(commands, groups.Grouped)
    assert sorted(itertools.chain(*groups.GROUPS.values())) == sorted(commands.commands)
    positions = []
    for heading, names in groups.GROUPS.items():
        positions.append(overview.index(f"\n{heading}:\n"))
        for name in names:
            assert overview.count(f"\n  {name} ") == 1
            positions.append(overview.index(f"\n  {name} "))
    assert positions == sorted(positions)
    assert groups.GROUPS["Trust a number"] == ("verify", "show", "score", "evaluate", "coverage")


def test_version() -> None:
    assert call("--version").stdout == f"retrobench {version('retrobench')}\n"


def test_objectives_as_json_is_a_sorted_array_with_null_for_missing_values(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "bad.py").write_text("print('loud')\nimport absent_module")
    result = call("objectives", "--json", "--plugin", "mine.py", "--plugin", "bad.py", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "loud\n")
    rows = json.loads(result.stdout)
    names = [row["name"] for row in rows]
    assert names == sorted(names)
    toy, bad = [row for row in rows if row["distribution"].endswith(".py")]
    reason = toy.pop("reason")
    assert reason.startswith("Toy.name is '[toy]'; use letters, digits and . _ -, a letter or digit first")
    assert toy == {
        "name": "[toy]",
        "distribution": "mine.py",
        "version": None,
        "paper": None,
        "status": "failed",
    }
    assert bad == {
        "name": "bad",
        "distribution": "bad.py",
        "version": None,
        "paper": None,
        "status": "failed",
        "reason": "ModuleNotFoundError: No module named 'absent_module' (bad.py, line 2)",
    }


def test_a_shell_completes_commands() -> None:
    completed = call(COMP_WORDS="retrobench le", COMP_CWORD="1", _RETROBENCH_COMPLETE="complete_bash")
    assert completed.stdout.split() == ["leaderboard"]


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "retrobench", "--version"]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert completed.stdout == call("--version").stdout


def test_objectives_as_a_table_shows_reasons_only_if_an_objective_is_broken(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    sound = call("objectives")
    broken = call("objectives", "--plugin", "mine.py", cwd=tmp_path)
    assert sound.returncode == broken.returncode == 0
    assert sound.stdout.split()[:5] == ["name", "status", "version", "paper", "distribution"]
    assert broken.stdout.split()[:6] == ["name", "status", "reason", "version", "paper", "distribution"]
    (line,) = [line for line in broken.stdout.splitlines() if "mine.py" in line]
    assert line.split()[:3] == ["[toy]", "failed", "Toy.name"]


ERRORS = [
    (["objectives", "--plugin", "absent.py"], "Plugin 'absent.py' is missing or no .py file. Give --plugin"),
    (["leaderboard", "absent"], "Unknown track 'absent'."),
]


@pytest.mark.parametrize(("arguments", "line"), ERRORS)
def test_a_users_error_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], line: str) -> None:
    result = call(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {line}")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["run"], ["run", "-o", "bert", "--seed", "-1"], ["rum"]])
def test_a_wrong_call_is_exit_code_2(arguments: list[str]) -> None:
    result = call(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


def _accept_interrupts() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_is_one_line(number: signal.Signals, tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text("import sys, time\nprint('ready', file=sys.stderr, flush=True)\ntime.sleep(60)")
    words = [*COMMAND, "objectives", "--plugin", str(slow)]
    # The background jobs of a shell ignore interrupts, and the tests may run as such a job.
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=_accept_interrupts) as process:
        assert process.stderr and process.stderr.readline() == "ready\n"
        os.kill(process.pid, signal.SIGUSR1)  # asks a training for a checkpoint, and does nothing elsewhere
        os.kill(process.pid, number)
        message = process.stderr.read()
    assert process.returncode == 128 + number
    command = f"retrobench objectives --plugin {slow}"
    assert message == f"Interrupted by {number.name}. Finished stages are kept. Resume: {command}\n"


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from retrobench import leaderboard

    def truncated(*_: Any) -> str:
        raise EOFError("file ended early")  # Typer would turn it into "Aborted!"

    monkeypatch.setattr(leaderboard, "show_track", truncated)
    monkeypatch.setattr(sys, "argv", ["retrobench", "leaderboard"])
    with pytest.raises(EOFError, match="file ended early"):
        cli.main()


def test_run_passes_its_options_to_one_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []

    def record(request: tuple[Any, ...]) -> Swept:
        calls.append(tuple(request))
        return Swept([], tmp_path, {})

    monkeypatch.setattr(runs, "sweep", record)
    experiments = "--objective bert -o dupmae:paper --track t.toml --seed 1 --seed 2 --set a.b=1 --set c=x=y"
    folders = (
        f"--store {tmp_path} --leaderboard boards --plugin mine.py --fresh --allow-overlap --limit 5 --tracker wandb"
        " --discard-checkpoints --energy"
    )
    for line in (f"run {experiments} {folders}", "run --objective bert"):
        monkeypatch.setattr(sys, "argv", ["retrobench", *line.split()])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
    expected = (["bert", "dupmae:paper"], "t.toml", [1, 2], ["a.b=1", "c=x=y"])
    places = (tmp_path, Path("boards"), [Path("mine.py")])
    assert calls[0] == (*expected, *places, True, True, 5, "wandb", None, False, True)
    assert calls[1] == (["bert"], "mini", [0], [], None, None, [], False, False, None, None, None, True, False)


def test_a_command_is_short() -> None:
    """A command has at most 15 lines. Its body has at most 8 behind the docstring."""
    commands = command_functions()
    assert {"run", "objectives_list", "leaderboard", "evaluate", "score", "reproduce", "plan", "data_check"} <= set(
        commands
    )
    long_commands = set()
    for name, node in commands.items():
        last_line = node.end_lineno or 0
        docstring_end = node.body[0].end_lineno or 0
        assert last_line - docstring_end < 8, name
        if last_line - node.lineno >= 15:
            long_commands.add(name)
    longest = {"bench", "compare", "coverage", "evaluate", "leaderboard", "plan", "reproduce", "run", "score"}
    assert long_commands == longest, "the commands with most options"
