"""The contract of an objective in the stage of pre-training, by a plugin that uses every part of it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pairs_plugin
import pytest
import tiny
import torch
from processes import launch
from safetensors.torch import load_file

from retrobench.config import Experiment, discover, read_entrant, read_track
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.rows import Row
from retrobench.runs.sweep import Request, Swept, sweep

PLUGIN = Path(pairs_plugin.__file__)
MAIN = [sys.executable, "-c", "from retrobench.cli import main; main()"]


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    """A tiny track that adapts to the target too, without mining."""
    track = tiny.make(tmp_path_factory.mktemp("tiny"))
    pretrain = track.track.read_text().split("[pretrain]")[1].split("[finetune]")[0]
    text = (
        track.track.read_text().replace("[finetune]", f"[adapt]{pretrain}[finetune]").replace("depth = 10", "depth = 0")
    )
    track.track.write_text(text)
    return track


Run = Callable[..., Swept]


@pytest.fixture
def run(track: tiny.Tiny) -> Run:
    def call(*entrants: str, overrides: tuple[str, ...] = (), store: str = "store") -> Swept:
        folder = track.store.with_name(store)
        return sweep(Request(entrants, str(track.track), (0,), overrides, folder, track.boards, [PLUGIN]))

    return call


def artifact(track: tiny.Tiny, row: Row, role: str, store: str = "store") -> Path:
    return track.store.with_name(store) / role.split()[0] / row.artifacts[role]


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_stage_has_its_own_settings_and_begins_with_the_earlier_stages_head(track: tiny.Tiny, run: Run) -> None:
    contexts = len(seen())
    (row,) = run("pairs:heavy").rows
    first, second = seen()[contexts:]
    assert row.settings == {"teacher": "", "weight": 1.0, "adapt.weight": 2.0}
    assert (first.stage, second.stage) == ("pretrain", "adapt")
    assert first.max_length == second.max_length == 40
    assert not first.added
    head = load_file(artifact(track, row, "pretrain") / "added/model.safetensors")
    assert head.keys() == second.added.keys() == {"head.weight", "head.bias"}
    assert all(torch.equal(head[name], second.added[name]) for name in head)
    # The base, not the encoder of the stage before.
    base = load_file(track.base / "model.safetensors")
    loaded = second.load("").state_dict()
    assert torch.equal(loaded["bert.embeddings.word_embeddings.weight"], base["bert.embeddings.word_embeddings.weight"])


def seen() -> list[Any]:
    """Return the contexts of the plugin as it was loaded from its file."""
    contexts: list[Any] = []
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(PLUGIN) and module is not pairs_plugin:
            contexts += module.SEEN
    return contexts


def test_shards_change_neither_losses_nor_the_calls_of_begin(track: tiny.Tiny, run: Run) -> None:
    (whole,) = run("pairs").rows
    (cut,) = run("pairs", overrides=("pretrain.shards=2",)).rows
    once, twice = log(artifact(track, whole, "pretrain")), log(artifact(track, cut, "pretrain"))
    assert [line["begun"] for line in twice] == [1, 2, 3, 4, 5, 6]
    # Each shard draws its masks from its own seed, so the batches are not the same.
    assert once[0]["pairs"] != twice[0]["pairs"]
    assert once[0]["pairs"] == pytest.approx(twice[0]["pairs"], rel=0.5), "all shards' spans are compared"


def test_a_composition_with_a_component_that_couples_its_batch(track: tiny.Tiny, run: Run) -> None:
    (row,) = run("mlm+0.5*pairs", overrides=("pretrain.shards=2",)).rows
    assert row.objective == "mlm+0.5*pairs"
    assert row.settings["pairs"] == 0.5
    lines = log(artifact(track, row, "pretrain"))
    assert [line["begun"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all({"mlm", "pairs.mlm", "teacher", "pairs"} <= line.keys() for line in lines)
    added = load_file(artifact(track, row, "pretrain") / "added/model.safetensors")
    assert added.keys() == {"components.1.head.weight", "components.1.head.bias"}
    assert row.plugin["pairs file"] == str(PLUGIN)


@pytest.mark.slow
def test_two_processes_train_as_two_shards(track: tiny.Tiny, run: Run) -> None:
    shards = ("pretrain.shards=2", "adapt.shards=2", "finetune.shards=2")
    (one,) = run("pairs", overrides=shards).rows
    words = [*MAIN, *track._replace(store=track.store.with_name("two")).options("pairs"), "--plugin", str(PLUGIN)]
    for override in shards:
        words += ["--set", override]
    results = launch(words)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    (two,) = [row for row in track.rows() if row["processes"] == 2]
    for role in ("pretrain", "adapt"):
        ours = log(artifact(track, one, role))
        theirs = log(track.store.with_name("two") / role / two["artifacts"][role])
        for ours_step, theirs_step in zip(ours, theirs, strict=True):
            for name in ("pairs", "mlm", "teacher", "begun"):
                assert ours_step[name] == pytest.approx(theirs_step[name], rel=1e-5)


def test_another_model_is_loaded_checked_and_named_in_the_row(track: tiny.Tiny, run: Run) -> None:
    other = track.base.with_name("other")
    shutil.copytree(track.base, other, dirs_exist_ok=True)
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "note": "another model"}))
    (row,) = run("pairs", overrides=(f"objective.teacher={other}",)).rows
    assert row.settings["teacher"] == str(other)
    assert len(row.content[str(other)]) == 20
    (base,) = run("pairs").rows
    assert row.artifacts["pretrain"] != base.artifacts["pretrain"]
    moved = shutil.copytree(other, other.with_name("moved"), dirs_exist_ok=True)
    (again,) = run("pairs", overrides=(f"objective.teacher={moved}",)).rows
    assert again.artifacts["pretrain"] == row.artifacts["pretrain"], "the key holds the content, not the folder"


def test_another_vocabulary_is_refused(track: tiny.Tiny, run: Run) -> None:
    other = track.base.with_name("foreign")
    shutil.copytree(track.base, other, dirs_exist_ok=True)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["ba"], words["be"] = words["be"], words["ba"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        RetrobenchError, match=r"of pairs\.teacher numbers 2 words otherwise than the base .* such as 'ba'"
    ):
        run("pairs", overrides=(f"objective.teacher={other}",))


def entrant(track: tiny.Tiny, text: str, *overrides: str) -> Any:
    recipe = read_track(track.track, "tiny", overrides)
    return Experiment(recipe, read_entrant(text, discover([PLUGIN]), overrides), 0).entrant


def test_another_objective_in_a_stage(track: tiny.Tiny, tmp_path: Path) -> None:
    changed = entrant(track, "pairs", "pretrain.objective=mlm", "pretrain.objective.mask_ratio=0.2")
    assert changed.name == "pairs (changed)"
    assert changed.at("pretrain").objective.mask_ratio == 0.2
    assert changed.at("adapt").kind == "pairs"
    assert changed.settings["pretrain.objective"] == "mlm"
    assert changed.settings["pretrain.mask_ratio"] == 0.2
    file = tmp_path / "both.toml"
    file.write_text('objective = "pairs"\n[pretrain]\nobjective = "mlm"\n[adapt.settings]\nweight = 3.0\n')
    named = entrant(track, str(file))
    assert (named.name, named.at("pretrain").kind, named.at("adapt").objective.weight) == ("both", "mlm", 3.0)


def test_a_stage_that_the_track_lacks(track: tiny.Tiny) -> None:
    with pytest.raises(RetrobenchError, match=r"adapt\.objective is set, and track tiny has no section \[adapt\]"):
        entrant(track, "pairs", "adapt.corpus=[]", "adapt.objective.weight=2")
    with pytest.raises(
        RetrobenchError, match=r"pairs:heavy \(changed\) trains by mlm alone, for the track has no other"
    ):
        entrant(track, "pairs:heavy", "adapt.corpus=[]", "pretrain.objective=mlm")
    with pytest.raises(RetrobenchError, match=r"adapt\.objective is bert, which does not pre-train"):
        entrant(track, "pairs", "adapt.objective=bert")
    assert not entrant(track, "pairs:heavy", "adapt.corpus=[]").stages, "a preset fits tracks of one stage too"
