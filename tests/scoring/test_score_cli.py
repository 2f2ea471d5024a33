"""The command `retrobench score`: its options, its output and its errors."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from retrobench import cli

QRELS = "q1 0 a 1\nq1 0 b 2\nq2 0 c 1\n"
RUN = "q1 Q0 a 1 1 t\nq1 Q0 b 2 0.5 t\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """Write a run, its judgements, and a collection with these judgements and relevance level 2."""
    (tmp_path / "run.trec").write_text(RUN)
    (tmp_path / "qrels.txt").write_text(QRELS)
    data = tmp_path / "data"
    (data / "qrels").mkdir(parents=True)
    documents = [json.dumps({"_id": name, "title": "", "text": f"of {name}"}) for name in "abc"]
    queries = [json.dumps({"_id": name, "text": f"query {name}"}) for name in ("q1", "q2")]
    (data / "corpus.jsonl").write_text("\n".join(documents))
    (data / "queries.jsonl").write_text("\n".join(queries))
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\nq1\tb\t2\nq2\tc\t1\n")
    (data / "dataset.toml").write_text("relevance_level = 2\n")
    return str(tmp_path / "run.trec"), str(tmp_path / "qrels.txt"), str(data)


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Return the exit code of the command in this process: loading the measures takes seconds."""
    monkeypatch.setattr(sys, "argv", ["retrobench", "score", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_in_a_process_of_its_own(files: tuple[str, str, str]) -> None:
    """Standard output has the JSON alone; standard error is empty."""
    run, qrels, _ = files
    command = [sys.executable, "-c", "from retrobench.cli import main; main()", "score", run, "--qrels", qrels]
    options = ["--measure", "MRR@10", "--measure", "Success@1", "--json"]
    process = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stderr) == (0, "")
    assert json.loads(process.stdout) == {
        "run": run,
        "qrels": qrels,
        "relevance_level": 1,
        "queries": 2,
        "missing": 1,
        "self_hits_removed": 0,
        "ties": 0,
        "measures": {"MRR@10": 0.5, "Success@1": 0.5},
    }


def test_as_text(
    files: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, qrels, _ = files
    assert exit_code(monkeypatch, run, "--qrels", qrels, "--measure", "MRR@10", "--per-query") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{run} on {qrels}"
    assert "MRR@10             0.5000" in lines
    assert "ties broken        0 hits, by document id" in lines
    assert lines[-3:] == ["query  MRR@10", "q1     1.0000", "q2     0.0000"]


@pytest.mark.parametrize(
    ("options", "level", "means"),
    [
        (["--qrels"], 1, {"RR": 0.5}),
        (["--qrels", "--relevance-level", "2"], 2, {"RR": 0.25}),
        (["--dataset"], 2, {"RR": 0.25}),
        (["--dataset", "--relevance-level", "1"], 1, {"RR": 0.5}),
        (["--qrels", "--measure", "RR(rel=2)@10"], 1, {"RR": 0.5, "MRR(rel=2)@10": 0.25}),
    ],
)
def test_the_level_and_its_source(
    options: list[str],
    level: int,
    means: dict[str, float],
    files: tuple[str, str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, qrels, data = files
    source, *more = options
    judgements = data if source == "--dataset" else qrels
    assert exit_code(monkeypatch, run, source, judgements, "--measure", "RR", *more, "--per-query", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["relevance_level"] == level
    assert document["measures"] == means
    assert document["per_query"]["q1"] == {name: 2 * mean for name, mean in means.items()}
    assert document[source.removeprefix("--")] == judgements


def test_a_zipped_run(
    files: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, qrels, _ = files
    Path(run).write_bytes(gzip.compress(RUN.encode()))
    assert exit_code(monkeypatch, run, "--qrels", qrels, "--measure", "RR", "--json") == 0
    assert json.loads(capsys.readouterr().out)["measures"] == {"RR": 0.5}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["RUN"], "Give either --dataset ID or --qrels FILE: judgements come from exactly one place."),
        (["RUN", "--qrels", "QRELS", "--dataset", "DATA"], "Give either --dataset ID or --qrels FILE: judgements come"),
        (["RUN", "--dataset", "no/such"], "Unknown dataset 'no/such'."),
        (["RUN", "--qrels", "QRELS", "--measure", "nDCG"], "Unknown measure 'nDCG'."),
        (
            ["RUN", "--qrels", "QRELS", "--measure", "nDCG(dcg='exp-log2')@10"],
            "Measure \"nDCG(dcg='exp-log2')@10\" is not computed",
        ),
        (
            ["absent", "--qrels", "QRELS"],
            "absent cannot be read (No such file or directory); give a file of TREC lines.",
        ),
        (
            ["QRELS", "--qrels", "QRELS"],
            "{QRELS}, line 1: six columns: query, Q0, document, rank, score, tag were expected",
        ),
        (["RUN", "--qrels", "RUN"], "{RUN}, line 1: 6 columns are no judgement; four columns are expected"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    arguments: list[str],
    line: str,
    files: tuple[str, str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = dict(zip(("RUN", "QRELS", "DATA"), files, strict=True))
    assert exit_code(monkeypatch, *(paths.get(word, word) for word in arguments)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"Error: {line.format(**paths)}")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["run", "--relevance-level", "0"], ["run", "--qrel", "x"]])
def test_a_wrong_call_is_exit_code_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, *arguments) == 2
    assert "Error: " in capsys.readouterr().err
