"""The store: keys, cached entries, messages about what changed, and entries made afresh."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_stages import SETTINGS, SOURCE, Maker, names

from retrobench.core.files import tree_hash
from retrobench.core.provenance import retrobench_version
from retrobench.store import store as store_module
from retrobench.store.store import Artifact, Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(store_module, "say", lambda text, explained="": lines.append(explained or text))
    return lines


def test_an_entry_is_made_once(root: Path, said: list[str]) -> None:
    make = Maker()
    first = Store(root).ensure("pretrain", SETTINGS, [SOURCE], make, code="mlm 1.0")
    second = Store(root).ensure("pretrain", SETTINGS, [SOURCE], make, code="mlm 1.0", label="mlm, seed 1")
    assert make.calls == 1
    assert not first.cached
    assert second.cached
    assert first.path == root / "pretrain" / first.key
    assert second.path == first.path
    assert (second.path / "model.bin").read_text() == "weights"
    assert second.cost == first.cost
    assert first.cost["tokens_per_second"] == 25.0
    assert 0 < first.cost["seconds"] < 10
    assert first.cost["peak_memory_bytes"] > 10_000_000
    assert said[0] == "pretrain: new (first time)"
    assert said[1].startswith(f"mlm, seed 1: cached {first.key[:8]} (same settings and sources, made 20")
    assert said[1].endswith(" in 0.0 s)")


def test_an_entry_records_its_recipe(root: Path) -> None:
    artifact = Store(root).ensure("pretrain", SETTINGS, [SOURCE], Maker(), code="mlm 1.0")
    entry = json.loads((artifact.path / "entry.json").read_text())
    assert len(artifact.key) == 20
    assert entry["key"] == artifact.key
    assert entry["stage"] == "pretrain"
    assert entry["settings"] == {"steps": 100, "optimizer": {"rate": 1e-4}, "corpus": "docs"}
    assert entry["sources"] == ["tokenise/0123456789abcdef0123"]
    assert entry["version"] == retrobench_version()
    assert entry["code"] == "mlm 1.0"
    assert entry["cost"] == artifact.cost
    # As GNU sha256sum gives them for `printf 'a\nb\n'` and `printf weights`.
    ids = "911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2"
    weights = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    assert entry["files"] == {
        "deep/ids.txt": {"sha256": ids, "bytes": 4},
        "model.bin": {"sha256": weights, "bytes": 7},
    }
    assert names(root / "pretrain") == [artifact.key, f"{artifact.key}.lock"]


OTHER = Artifact("tokenise", "f" * 20, Path("nowhere"), True, {})

CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "stage": ({"stage": "finetune"}, "first time"),
    "setting": ({"settings": SETTINGS | {"steps": 200}}, "steps 200, nearest cached has 100"),
    "inner": (
        {"settings": SETTINGS | {"optimizer": {"rate": 1}}},
        "optimizer.rate 1, nearest cached has 0.0001",
    ),
    "path": ({"settings": SETTINGS | {"corpus": Path("x")}}, 'corpus "x", nearest cached has "docs"'),
    "added": ({"settings": SETTINGS | {"seed": 1}}, "seed 1, nearest cached has none"),
    "dropped": ({"settings": {"steps": 100}}, "optimizer.rate none, nearest cached has 0.0001"),
    "type": ({"settings": SETTINGS | {"steps": "100"}}, 'steps "100", nearest cached has 100'),
    "source": ({"sources": [OTHER]}, "source 1 tokenise/ffffffff, nearest cached has tokenise/01234567"),
    "more sources": ({"sources": [SOURCE, OTHER]}, "source 2 tokenise/ffffffff, nearest cached has none"),
    "code": ({"code": "mlm 1.1"}, "code mlm 1.1, nearest cached has mlm 1.0"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_ingredient_changes_the_key(change: str, root: Path, said: list[str]) -> None:
    arguments: dict[str, Any] = dict(stage="pretrain", settings=SETTINGS, sources=[SOURCE], code="mlm 1.0")
    changed, reason = CHANGES[change]
    store = Store(root)
    make = Maker()
    first = store.ensure(**arguments, make=make)
    second = store.ensure(**arguments | changed, make=make)
    assert make.calls == 2
    assert not second.cached
    assert first.key != second.key
    assert said[1] == f"{second.stage}: new ({reason})"


def test_the_version_changes_the_key(root: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "retrobench_version", lambda: "0.1")
    first = Store(root).ensure("score", {}, [], Maker())
    monkeypatch.setattr(store_module, "retrobench_version", lambda: "0.2")
    second = Store(root).ensure("score", {}, [], Maker())
    assert first.key != second.key
    assert said[1] == "score: new (retrobench 0.2, nearest cached has 0.1)"


def test_order_of_settings_and_kind_of_sequence_make_no_difference(root: Path) -> None:
    first = Store(root).ensure("score", {"a": 1, "b": (1, 2)}, [], Maker())
    second = Store(root).ensure("score", {"b": [1, 2], "a": 1}, [], Maker())
    assert second.cached
    assert first.key == second.key


def test_the_message_compares_with_the_nearest_entry(root: Path, said: list[str]) -> None:
    store = Store(root)
    store.ensure("pretrain", {"steps": 1, "rate": 0.1, "seed": 1}, [], Maker())
    store.ensure("pretrain", {"steps": 1, "rate": 0.2, "seed": 2}, [], Maker())
    store.ensure("pretrain", {"steps": 2, "rate": 0.2, "seed": 2}, [], Maker())
    store.ensure("pretrain", {"steps": 1, "rate": 0.1, "seed": 5}, [], Maker())
    assert said[-1] == "pretrain: new (seed 5, nearest cached has 1)"


@pytest.mark.parametrize("value", [{1}, np.int64(3), b"x", {1: 2}, SOURCE], ids=type)
def test_settings_without_a_json_form_are_refused(root: Path, value: object) -> None:
    settings = {"list": [{"odd": value}]}
    message = f"settings.list[0].odd is of {type(value)}, which has no"
    with pytest.raises(TypeError, match=re.escape(message)):
        Store(root).ensure("score", settings, [], Maker())


def test_fresh_makes_older_entries_again_once(root: Path, said: list[str]) -> None:
    old = Store(root).ensure("score", {}, [], Maker("old"))
    old_partial = root / "score" / f"{old.key}.partial"
    old_partial.mkdir()
    (old_partial / "checkpoint").touch()
    time.sleep(0.02)  # file times come from a clock that ticks every few milliseconds
    make = Maker("new")
    store = Store(root, fresh=True)

    def swap(folder: Path) -> Mapping[str, float]:
        assert (old.path / "model.bin").read_text() == "old"  # stays until the new one is finished
        return make(folder)

    assert not store.ensure("score", {}, [], swap, resumes=True).cached
    assert make.files == []
    assert store.ensure("score", {}, [], make).cached
    assert make.calls == 1
    assert (old.path / "model.bin").read_text() == "new"
    assert said[1] == f"score: made afresh, in place of {old.key[:8]}"
    assert said[2] == f"score: cached {old.key[:8]} (made in this run)"
    time.sleep(0.02)
    settings = {"by": "another process, meanwhile"}
    Store(root).ensure("score", settings, [], make)
    assert store.ensure("score", settings, [], make).cached


def test_a_stage_may_return_its_total_seconds(root: Path) -> None:
    cost = {"seconds": 83, "tokens_per_second": math.nan}
    artifact = Store(root).ensure("pretrain", {}, [], lambda folder: cost, resumes=True)
    assert artifact.cost == {"seconds": 83.0, "peak_memory_bytes": artifact.cost["peak_memory_bytes"]}


def test_tree_hash(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    (package / "notes.txt").write_text("not code")
    first = tree_hash([package])
    (package / "notes.txt").write_text("still not code")
    assert tree_hash([package]) == first
    copy = tmp_path / "elsewhere" / "package"
    shutil.copytree(package, copy)
    assert tree_hash([copy]) == first
    (package / "a.py").write_text("x = 2\n")
    assert tree_hash([package]) != first
    files = [package / "a.py", package / "notes.txt"]
    both = tree_hash(files)
    assert tree_hash(files[::-1]) == both
    assert tree_hash(files[:1]) != both
