"""The command `retrobench score`: its options, its output and its errors."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pitfall_files
import pytest

from retrobench import cli

QRELS = "q1 0 a 1\nq1 0 b 2\nq2 0 c 1\n"
RUN = "q1 Q0 a 1 1 t\nq1 Q0 b 2 0.5 t\n"


class Files(NamedTuple):
    """Paths of a run, its judgements, and a collection with these judgements and relevance level 2."""

    run: str
    qrels: str
    data: str


@pytest.fixture
def files(tmp_path: Path) -> Files:
    run = tmp_path / "run.trec"
    qrels = tmp_path / "qrels.txt"
    run.write_text(RUN)
    qrels.write_text(QRELS)
    judgements = {"q1": {"a": 1, "b": 2}, "q2": {"c": 1}}
    data = pitfall_files.collection(tmp_path / "data", "a b c", judgements, "relevance_level = 2\n")
    return Files(str(run), str(qrels), str(data))


class Output(NamedTuple):
    """The exit code of a command and the texts that it printed."""

    exit_code: int
    out: str
    err: str


class Command:
    """`retrobench score` in this process: loading the measures takes seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys

    def call(self, *arguments: str) -> Output:
        self.monkeypatch.setattr(sys, "argv", ["retrobench", "score", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = self.capsys.readouterr()
        return Output(int(stop.value.code or 0), printed.out, printed.err)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def test_in_a_process_of_its_own(files: Files) -> None:
    """Standard output has the JSON alone; standard error is empty."""
    python = [sys.executable, "-c", "from retrobench.cli import main; main()"]
    options = ["--measure", "MRR@10", "--measure", "Success@1", "--json"]
    arguments = [*python, "score", files.run, "--qrels", files.qrels, *options]
    process = subprocess.run(arguments, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0
    assert process.stderr == ""
    assert json.loads(process.stdout) == {
        "run": files.run,
        "qrels": files.qrels,
        "relevance_level": 1,
        "queries": 2,
        "missing": 1,
        "self_hits_removed": 0,
        "excluded_removed": 0,
        "ties": 0,
        "dangling_documents": None,
        "dangling_queries": None,
        "rules": [],
        "measures": {"MRR@10": 0.5, "Success@1": 0.5},
    }


def test_as_text(files: Files, command: Command) -> None:
    output = command.call(files.run, "--qrels", files.qrels, "--measure", "MRR@10", "--per-query")
    assert output.exit_code == 0
    lines = output.out.splitlines()
    assert lines[0] == f"{files.run} on {files.qrels}"
    assert "MRR@10             0.5000" in lines
    assert "ties broken        0 hits, by document id" in lines
    assert lines[-3:] == ["query  MRR@10", "q1     1.0000", "q2     0.0000"]


@pytest.mark.parametrize(
    ("source", "options", "level", "means", "values_of_q1"),
    [
        ("qrels", [], 1, {"RR": 0.5}, {"RR": 1.0}),
        ("qrels", ["--relevance-level", "2"], 2, {"RR": 0.25}, {"RR": 0.5}),
        ("dataset", [], 2, {"RR": 0.25}, {"RR": 0.5}),
        ("dataset", ["--relevance-level", "1"], 1, {"RR": 0.5}, {"RR": 1.0}),
        (
            "qrels",
            ["--measure", "RR(rel=2)@10"],
            1,
            {"RR": 0.5, "MRR(rel=2)@10": 0.25},
            {"RR": 1.0, "MRR(rel=2)@10": 0.5},
        ),
    ],
)
def test_the_level_and_its_source(
    source: str,
    options: list[str],
    level: int,
    means: dict[str, float],
    values_of_q1: dict[str, float],
    files: Files,
    command: Command,
) -> None:
    judgements = {"qrels": files.qrels, "dataset": files.data}[source]
    output = command.call(files.run, f"--{source}", judgements, "--measure", "RR", *options, "--per-query", "--json")
    assert output.exit_code == 0
    document = json.loads(output.out)
    assert document["relevance_level"] == level
    assert document["measures"] == means
    assert document["per_query"]["q1"] == values_of_q1
    assert document[source] == judgements


def test_a_zipped_run(files: Files, command: Command) -> None:
    Path(files.run).write_bytes(gzip.compress(RUN.encode()))
    output = command.call(files.run, "--qrels", files.qrels, "--measure", "RR", "--json")
    assert output.exit_code == 0
    assert json.loads(output.out)["measures"] == {"RR": 0.5}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("{run}", "Give either --dataset ID or --qrels FILE: judgements come from exactly one place."),
        ("{run} --qrels {qrels} --dataset {data}", "Give either --dataset ID or --qrels FILE: judgements come"),
        ("{run} --dataset no/such", "Unknown dataset 'no/such'."),
        ("{run} --qrels {qrels} --measure nDCG", "Unknown measure 'nDCG'."),
        (
            "{run} --qrels {qrels} --measure nDCG(dcg='exp-log2')@10",
            "Measure \"nDCG(dcg='exp-log2')@10\" is not computed",
        ),
        (
            "absent --qrels {qrels}",
            "absent cannot be read (No such file or directory); give a file of TREC lines.",
        ),
        (
            "{qrels} --qrels {qrels}",
            "{qrels}, line 1: six columns: query, Q0, document, rank, score, tag were expected",
        ),
        ("{run} --qrels {run}", "{run}, line 1: 6 columns are no judgement; four columns are expected"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(arguments: str, line: str, files: Files, command: Command) -> None:
    paths = files._asdict()
    words = arguments.format(**paths).split()
    output = command.call(*words)
    assert output.exit_code == 2
    assert output.out == ""
    assert output.err.startswith(f"Error: {line.format(**paths)}")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["run", "--relevance-level", "0"], ["run", "--qrel", "x"]])
def test_a_wrong_call_is_exit_code_2(arguments: list[str], command: Command) -> None:
    output = command.call(*arguments)
    assert output.exit_code == 2
    assert "Error: " in output.err
