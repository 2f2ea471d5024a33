"""A run whose test has questions of its training: allowed by `--allow-overlap`, and then said by row and table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from retrobench.leaderboard import show_track
from retrobench.runs.sweep import Request, Swept, sweep

SMALL = ("pretrain.steps=1", "finetune.steps=1", "mine.depth=0", "evaluate.depth=5")


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    return tiny.make(tmp_path_factory.mktemp("tiny"))


def run(track: tiny.Tiny, boards: Path, *overrides: str, **changed: Any) -> Swept:
    request = Request(["mlm", "bert", "bm25"], str(track.track), (0,), (*SMALL, *overrides), track.store, boards)
    return sweep(request._replace(**changed))


def test_allowed_overlap_stands_in_row_table_and_command(
    track: tiny.Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train, val, test = (f"{track.data}:{split}" for split in ("train", "val", "test"))
    datasets = f"evaluate.datasets={[test, train, val]}"
    mlm, bert, bm25 = run(track, tmp_path, datasets, allow_overlap=True).rows
    assert mlm.facts[test]["overlap"] == {"train": train, "questions": 0, "texts": 0, "documents": 11}
    assert mlm.facts[train]["overlap"] == {"train": train, "questions": 50, "texts": 0, "documents": 37}
    assert mlm.facts[val]["overlap_validation"]["questions"] == 15
    assert mlm.facts[val]["overlap_validation"]["validation"] == val
    assert bert.facts[train]["overlap"] == mlm.facts[train]["overlap"]
    assert mlm.command.endswith(" --allow-overlap")
    assert "overlap" not in bm25.facts[train], "BM25 trains on nothing"
    printed = capfd.readouterr().err
    assert printed.count(f"== 50 of the 50 questions of {train} (q0, q1, q2, ...) are questions of {train}") == 1
    table = show_track("tiny", tmp_path, "text")
    assert f"Of the 50 questions of {train}, 50 are training questions too ({train}): its numbers are not" in table
    assert f"Of the 15 questions of {val}, 15 are validation questions too ({val})" in table
    assert f"Of the 15 questions of {test}" not in table
    assert f"11 passages that answer questions of {test} answer training questions too" in table


def test_pretraining_on_the_test_passages_is_said(track: tiny.Tiny, tmp_path: Path) -> None:
    test = f"{track.data}:test"
    mlm, bert, bm25 = run(track, tmp_path).rows
    assert mlm.facts[test]["pretrained_on"] is True
    assert "pretrained_on" not in bert.facts[test]
    assert "pretrained_on" not in bm25.facts[test]
    assert "--allow-overlap" not in mlm.command
    assert f"Pre-training read the passages of {test}, but none of its questions." in show_track(
        "tiny", tmp_path, "text"
    )


def test_another_corpus_was_not_pretrained_on(track: tiny.Tiny, tmp_path: Path) -> None:
    passages = tmp_path / "passages"
    passages.mkdir()
    tiny.write_lines(passages / "corpus.jsonl", [{"_id": "x", "title": "", "text": "ba da fe ge"}])
    boards = tmp_path / "boards"
    (mlm,) = run(track, boards, f"pretrain.corpus=['{passages}']", objectives=["mlm"]).rows
    assert "pretrained_on" not in mlm.facts[f"{track.data}:test"]
    assert "Pre-training read" not in show_track("tiny", boards, "text")


def test_a_validation_on_training_questions_is_said(
    track: tiny.Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train = f"{track.data}:train"
    run(track, tmp_path, f"evaluate.select={train}", objectives=["bert"])
    assert f"== 50 of the 50 questions of {train} (q0, q1, q2, ...) are questions of {train}" in capfd.readouterr().err
