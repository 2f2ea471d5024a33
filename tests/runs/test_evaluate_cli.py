"""`retrobench evaluate` as a user meets it."""

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


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("place")
    tiny.write_collection(root / "data")
    published.bare(root / "model")
    return root


@pytest.fixture
def call(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command line, in this process: another would spend a test's time on imports."""
    monkeypatch.chdir(place)

    def main(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["retrobench", "evaluate", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return Done(int(stop.value.code or 0), *capfd.readouterr())

    return main


OPTIONS = ["--pooling", "cls", "--similarity", "dot", "--max-length", "12", "--store", "kept"]
OPTIONS += ["--measure", "RR@10", "--measure", "R@5"]


def test_a_plain_encoder_on_a_folder(call: Callable[..., Done]) -> None:
    words = ["model", "--dataset", "data", "--dataset", "data:val", "--query-prefix", "ba: ", *OPTIONS]
    done = call(*words, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["model"] == "model" and document["averages"] == {}
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
        assert list(score["measures"]) == ["MRR@10", "Recall@5"] and score["queries"] == 15
    assert "pooling: cls (--pooling)" in done.err.splitlines()

    again = call(*words)
    assert again.code == 0, again.err
    lines = [line for line in again.err.splitlines() if line.startswith(("embed", "search"))]
    assert len(lines) == 5 and all(": cached" in line for line in lines), "both sets of queries, one of passages"
    values = [f"{value:.4f}" for value in document["datasets"]["data:val"]["measures"].values()]
    assert values in [line.split()[-2:] for line in again.out.splitlines() if line.startswith("data:val ")]


def test_what_is_wrong_is_one_line(call: Callable[..., Done], place: Path) -> None:
    assert call("model", "--dataset", "data", "--store", "none") == Done(
        2,
        "",
        "Error: Model 'model' has no modules.json, so its files do not say how a text's tokens become one vector. "
        "Say it with --pooling, one of cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken.\n",
    )
    assert call("model", "--pooling", "cls", "--dataset", "dato", "--store", "none").err.startswith(
        "Error: Unknown dataset 'dato'."
    )
    assert not (place / "none").exists()
