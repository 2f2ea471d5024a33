"""A stranger's distribution adds an objective, and a run appends its row."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from retrobench.config.discovery import discover, find_objective
from retrobench.runs.sweep import Request, sweep

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "first-words"
version = "1.2.3"
[project.entry-points.retrobench]
first-words = "first_words"
[tool.hatch.build.targets.wheel]
only-include = ["first_words.py"]
"""

MODULE = '''\
"""[CLS] predicts the words its text begins with."""

from dataclasses import dataclass
from typing import ClassVar

from retrobench import Step, hookimpl


@dataclass(frozen=True)
class FirstWords:
    """[CLS] predicts the first `count` tokens as a bag. Adds nothing and throws nothing away."""

    count: int = 8

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "first-words"
    paper: ClassVar[str] = "unpublished"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls"
    presets: ClassVar[dict] = {"three": {"count": 3}}

    def collate(self, passages, vocabulary, max_length, generator):
        from retrobench.model import bag_of_words
        from retrobench.model import pack

        packed = pack(passages, vocabulary, max_length)
        rows = zip(packed.input_ids.numpy(), packed.words.numpy() >= 0)
        bag, weights = bag_of_words([ids[words][: self.count] for ids, words in rows], "unique")
        return {"input_ids": packed.input_ids, "attention_mask": packed.attention_mask, "bag": bag, "weights": weights}

    def wrap(self, backbone, context):
        from retrobench.model import Pretraining

        return Pretraining(backbone, self.step)

    def step(self, model, progress, input_ids, attention_mask, bag, weights):
        from retrobench.model import bag_loss

        hidden = model.backbone.hidden(input_ids, attention_mask)  # [B, L, D]
        return Step({"words": bag_loss(model.backbone.logits(hidden[:, 0]), bag, weights)}, {})


@hookimpl
def retrobench_objectives():
    return [FirstWords]
'''


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the stranger's distribution offline, and return its folder."""
    source = tmp_path_factory.mktemp("source")
    target = tmp_path_factory.mktemp("site")
    assert len(PYPROJECT.splitlines()) == 10
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "first_words.py").write_text(MODULE)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-qq"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return target


@pytest.fixture
def track(tmp_path: Path) -> tiny.Tiny:
    return tiny.make(tmp_path)


def test_a_distribution_of_a_strangers_runs_to_a_row(installed: Path, track: tiny.Tiny) -> None:
    words = [*track.options("first-words:three"), "--set", "pretrain.steps=3"]
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from retrobench.cli import main; main()", *words]
    result = subprocess.run(command, env=environment, cwd=track.data, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    (row,) = track.rows()
    assert row["entrant"] == "first-words:three"
    assert row["objective"] == "first-words"
    assert row["settings"] == {"count": 3}
    assert row["plugin"] == {"distribution": "first-words", "version": "1.2.3"}
    assert row["measures"][f"{track.data}:test"]["Recall@100"] > 0
    assert "first-words:three" in result.stdout
    (pretrained,) = track.finished("pretrain")
    entry = json.loads((pretrained / "entry.json").read_text())
    assert entry["code"] == row["objective_source"]
    assert len(entry["code"]) == 64, "a hash of the source, since a version may stay while the source changes"
    log = (pretrained / "log.jsonl").read_text().splitlines()
    assert len(log) == 3
    for step, line in enumerate(log):
        losses = json.loads(line)
        assert losses["step"] == step
        assert losses["words"] > 0


def test_the_objective_keeps_the_contract_and_is_listed(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrobench.testing import check_objective

    monkeypatch.syspath_prepend(str(installed))
    check_objective(importlib.import_module("first_words").FirstWords)
    row = find_objective("first-words", discover())
    assert (row.distribution, row.version, row.paper, row.status) == ("first-words", "1.2.3", "unpublished", "ok")


def test_a_file_runs_to_a_row_without_packaging(track: tiny.Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    file = track.track.with_name("mine.py")
    file.write_text(MODULE)
    request = Request(["first-words"], str(track.track), (0,), (), track.store, track.boards, (file,))
    (first,) = sweep(request).rows
    code = find_objective("first-words", discover([file])).code
    assert first.objective_source == code
    assert first.plugin["file"] == str(file)
    assert (track.boards / "tiny" / first.plugin["kept"]).read_text() == MODULE
    assert first.command.endswith(f"--seed 0 --plugin {file}")

    # Equal settings with changed code need new training.
    changed = MODULE.replace("bag_of_words([ids[words]", "bag_of_words([ids[words][2:]")
    assert changed != MODULE
    file.write_text(changed)
    capfd.readouterr()
    (second,) = sweep(request).rows
    assert "pretrain first-words seed 0: new (code " in capfd.readouterr().err
    assert first.settings == second.settings == {"count": 8}
    assert first.objective_source != second.objective_source
    assert first.plugin["kept"] != second.plugin["kept"]
    assert first.artifacts["pretrain"] != second.artifacts["pretrain"]


def test_a_kept_plugin_with_its_neighbour_runs_again_from_the_store(
    track: tiny.Tiny, capfd: pytest.CaptureFixture[str]
) -> None:
    file = track.track.with_name("mine.py")
    file.write_text(
        MODULE.replace("count: int = 8", "count: int = COUNT").replace("\n\n\n", "\nfrom near import COUNT\n\n", 1)
    )
    file.with_name("near.py").write_text("COUNT = 3\n")
    request = Request(["first-words"], str(track.track), (0,), (), track.store, track.boards, (file,))
    (row,) = sweep(request).rows
    assert row.settings == {"count": 3}
    kept = track.boards / "tiny" / row.plugin["kept"]
    assert sorted(path.name for path in kept.parent.iterdir()) == ["mine.py", "near.py"]
    capfd.readouterr()
    (again,) = sweep(request._replace(plugins=(kept,))).rows
    assert "pretrain first-words seed 0: new" not in capfd.readouterr().err
    assert (again.objective_source, again.artifacts) == (row.objective_source, row.artifacts)
