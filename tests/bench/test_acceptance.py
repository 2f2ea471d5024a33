"""Acceptance of a machine: the results of checks, the time, and the file."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pytest

from retrobench.bench.acceptance import CHECKS, accept, run, runs, searches, steps, waits, worker
from retrobench.bench.acceptance.check import Check, SkippedError
from retrobench.bench.frame import UnequalError
from retrobench.bench.setting import Setting
from retrobench.errors import RetrobenchError
from retrobench.model import Pretraining

CPU = Setting("cpu")


def test_nothing_begins_when_the_time_is_up(tmp_path: Path) -> None:
    file = tmp_path / "accept.json"
    accepted = accept("cpu", minutes=0, json_file=file)
    assert accepted.exit_code == 0
    record = json.loads(file.read_text())
    assert record["command"] == "retrobench accept --device cpu --minutes 0"
    assert record["versions"]["torch"] == version("torch")
    assert [(result["check"], result["status"]) for result in record["checks"]] == [
        (name, "not reached") for name in CHECKS
    ]
    assert record["benchmarks"] == []
    assert record["not_reached"] == list(run.BENCHMARKS)
    for name in run.BENCHMARKS:
        assert f"Not reached within 0 minutes: {name}\n" in accepted.text


def test_a_file_that_cannot_be_written_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(RetrobenchError, match=r"Cannot write .*Give --json a file"):
        accept("cpu", minutes=1, json_file=tmp_path / "absent" / "accept.json")


def test_a_process_that_dies_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CHECKS", {"machine": "absent:checks"})
    monkeypatch.setattr(run, "BENCHMARKS", ())
    accepted = accept("cpu", minutes=5)
    assert accepted.exit_code == 1
    assert "its process ended with exit code 1" in accepted.text
    assert accepted.text.endswith("Faults: machine, the rest. The reasons stand above.")


def test_a_worker_prints_a_line_for_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert worker.main(["machine:checks", "machine", json.dumps(asdict(CPU))]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert (result["check"], result["case"], result["status"]) == ("machine", "processor", "ok")
    assert "cores" in result["facts"]


def test_an_exception_is_a_fault_and_its_first_line_the_fact(capsys: pytest.CaptureFixture[str]) -> None:
    def differ() -> str:
        raise UnequalError("losses: 1 apart")

    def fail() -> str:
        raise ValueError("wrong shape\nand more")

    def skip() -> str:
        raise SkippedError("there is one GPU")

    results = [worker._run("steps", Check(case.__name__, case)) for case in (differ, fail, skip)]
    assert [(result.status, result.facts) for result in results] == [
        ("fault", "UnequalError: losses: 1 apart"),
        ("fault", "ValueError: wrong shape"),
        ("skipped", "there is one GPU"),
    ]
    log = capsys.readouterr().err
    assert "wrong shape" in log
    assert "1 apart" not in log


def test_every_objective_that_trains_is_checked() -> None:
    cases = [check.case for check in steps.checks(CPU)]
    assert cases == [*steps.trained_objectives(), "contrastive"]
    assert {"bow-mae", "contriever", "dupmae", "mlm", "retromae"} < set(cases)
    for check in waits.checks(CPU):
        with pytest.raises(SkippedError):
            check.run()


def test_other_weights_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    make = steps._make

    def disturb(objective: object, device: str, attention: str) -> Pretraining:
        model = make(objective, device, attention)
        if attention:
            model.backbone.lm.cls.predictions.bias.data[:100] += 1
        return model

    compared = steps._compare_objective("mlm", CPU)
    assert compared.startswith("fp32 losses within ")
    monkeypatch.setattr(steps, "_make", disturb)
    with pytest.raises(UnequalError, match="losses"):
        steps._compare_objective("mlm", CPU)


def test_searches_of_both_engines_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches, "DOCUMENTS", 2000)
    for check in searches.checks(CPU):
        assert check.run().endswith("equal bit for bit")


def test_a_run_that_cannot_be_killed_is_a_fault(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""], stderr=subprocess.PIPE, text=True)
    with pytest.raises(UnequalError, match="ended before it could be killed"):
        runs._kill_behind_checkpoint(ended, tmp_path)
    failing = subprocess.Popen(
        [sys.executable, "-c", "raise SystemExit('Error: no')"], stderr=subprocess.PIPE, text=True
    )
    with pytest.raises(UnequalError, match="exit code 1: Error: no"):
        runs._require_success(failing)


def test_the_small_collection_has_the_passages_of_its_questions(tmp_path: Path) -> None:
    track = runs._write_track(tmp_path, shards=1)
    assert "shards = 1" in track.read_text()
    corpus = (tmp_path / "data" / "corpus.jsonl").read_text()
    documents = [json.loads(line)["_id"] for line in corpus.splitlines()]
    assert len(documents) == len(set(documents)) == runs.PASSAGES
    for split, (_, count) in runs.SPLITS.items():
        judgements = (tmp_path / "data" / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]
        assert len({line.split("\t")[0] for line in judgements}) == count
        assert {line.split("\t")[1] for line in judgements} <= set(documents)
