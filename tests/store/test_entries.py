"""The objective behind a finished model is read from the entries of its stages."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from retrobench.store import Artifact, Source, Store, read_objective


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def make(folder: Path) -> None:
    (folder / "model").write_text("weights")


def stage(store: Store, name: str, settings: Mapping[str, Any], *sources: Source) -> Artifact:
    return store.ensure(name, settings, sources, make)


@pytest.fixture
def base(tmp_path: Path) -> Source:
    folder = tmp_path / "base"
    folder.mkdir()
    make(folder)
    return Source("base", "0" * 20, folder)


def test_the_objective_of_a_pre_training(store: Store, base: Source) -> None:
    pretrained = stage(store, "pretrain", {"objective": "retromae", "steps": 3}, base)
    assert read_objective(pretrained.path) == "retromae"


def test_the_objective_behind_a_second_stage(store: Store, base: Source) -> None:
    """The first source is the model that a training starts from. Later sources are texts and candidates."""
    pretrained = stage(store, "pretrain", {"objective": "retromae"}, base)
    other = stage(store, "pretrain", {"objective": "mlm"}, base)
    adapted = stage(store, "adapt", {"objective": "dupmae"}, pretrained, other)
    first = stage(store, "finetune", {"round": 1}, pretrained, other)
    second = stage(store, "finetune", {"round": 2}, first)
    assert read_objective(first.path) == read_objective(second.path) == "retromae"
    assert read_objective(adapted.path) == "dupmae", "the last pre-training counts"


def test_a_model_without_a_pre_training_has_no_objective(store: Store, base: Source, tmp_path: Path) -> None:
    assert read_objective(base.path) == ""
    assert read_objective(tmp_path / "absent") == ""
    assert read_objective(stage(store, "finetune", {"round": 1}, base).path) == ""
    assert read_objective(stage(store, "finetune", {"round": 1}).path) == ""


def test_an_edited_entry_has_no_objective(store: Store, base: Source) -> None:
    pretrained = stage(store, "pretrain", {"objective": "retromae"}, base)
    file = pretrained.path / "entry.json"
    text = file.read_text()
    assert text.count("retromae") == 1
    file.write_text(text.replace("retromae", "dupmae"))
    assert read_objective(pretrained.path) == ""


def test_a_copy_outside_the_store_keeps_its_own_objective(store: Store, base: Source, tmp_path: Path) -> None:
    pretrained = stage(store, "pretrain", {"objective": "retromae"}, base)
    tuned = stage(store, "finetune", {"round": 1}, pretrained)
    copies = tmp_path / "elsewhere" / "copies"
    assert read_objective(shutil.copytree(pretrained.path, copies / "pretrained")) == "retromae"
    assert read_objective(shutil.copytree(tuned.path, copies / "tuned")) == "", "its sources are not beside it"
