"""`retrobench evaluate` on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import published
import pytest
import tiny

from retrobench import cli


class Output(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    tiny.write_collection(root / "data")
    published.bare(root / "model")
    return root


@pytest.fixture
def call(root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """Return a function that runs the command line in this process, which saves the imports."""
    monkeypatch.chdir(root)

    def main(*words: str) -> Output:
        monkeypatch.setattr(sys, "argv", ["retrobench", "evaluate", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return Output(int(stop.value.code or 0), *capfd.readouterr())

    return main


OPTIONS = ["--pooling", "cls", "--similarity", "dot", "--max-length", "12", "--store", "kept"]
OPTIONS += ["--measure", "RR@10", "--measure", "R@5"]
WORDS = ["model", "--dataset", "data", "--dataset", "data:val", "--query-prefix", "ba: ", *OPTIONS]


def test_a_plain_encoder_on_a_folder(call: Callable[..., Output]) -> None:
    output = call(*WORDS, "--json")
    assert output.code == 0, output.err
    document = json.loads(output.out)
    assert document["model"] == "model"
    assert document["averages"] == {}
    assert document["settings"] == {
        "pooling": "cls",
        "normalize": False,
        "query_prefix": "ba: ",
        "passage_prefix": "",
        "max_length": 12,
        "similarity": "dot",
        "dtype": "float32",
    }
    assert list(document["datasets"]) == ["data", "data:val"]
    for score in document["datasets"].values():
        assert list(score["measures"]) == ["MRR@10", "Recall@5"]
        assert score["queries"] == 15
    assert "pooling: cls (--pooling)" in output.err.splitlines()


def test_a_rerun_prints_the_numbers_of_the_store(call: Callable[..., Output]) -> None:
    first = call(*WORDS, "--json")
    rerun = call(*WORDS)
    assert rerun.code == 0, rerun.err
    stages = [line for line in rerun.err.splitlines() if line.startswith(("embed", "search"))]
    assert len(stages) == 5, "two sets of queries and one of passages, two searches"
    for stage in stages:
        assert ": cached" in stage
    measures = json.loads(first.out)["datasets"]["data:val"]["measures"]
    values = [f"{value:.4f}" for value in measures.values()]
    lines = [line.split() for line in rerun.out.splitlines()]
    assert ["data:val", *values] in [[line[0], *line[-2:]] for line in lines if line]


def test_an_error_is_one_line(call: Callable[..., Output], root: Path) -> None:
    message = (
        "Error: Model 'model' has no modules.json, so its files do not say how a text's tokens become one vector. "
        "Say it with --pooling, one of cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken.\n"
    )
    without_pooling = call("model", "--dataset", "data", "--store", "none")
    assert without_pooling == Output(2, "", message)
    unknown_dataset = call("model", "--pooling", "cls", "--dataset", "dato", "--store", "none")
    assert unknown_dataset.err.startswith("Error: Unknown dataset 'dato'.")
    assert not (root / "none").exists()
