"""`evaluate.transfer`: more test datasets, tested where they are at hand and named where they are not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import ir_datasets
import pytest
import tiny
from ir_datasets.datasets.base import Dataset
from ir_datasets.formats import TsvDocs
from ir_datasets.util import Cache

from retrobench.config import absent_datasets, read_track, resolve
from retrobench.errors import RetrobenchError
from retrobench.runs.sweep import Request, sweep
from retrobench.runs.verification import verify

ABSENT = "retrobench-tests/absent"


@pytest.fixture
def track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tiny.Tiny]:
    """A miniature track that transfers to a second folder and to a dataset whose files are not here."""
    made = tiny.make(tmp_path)
    shutil.copytree(made.data, tmp_path / "other")
    with (tmp_path / "other" / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "d99", "title": "", "text": "babe"}\n')
    names = [f"{tmp_path / 'other'}:test", ABSENT]
    made.track.write_text(made.track.read_text() + f"transfer = {names}\n")
    monkeypatch.delitem(ir_datasets.registry._registered, ABSENT, raising=False)
    missing = Cache(None, tmp_path / "missing" / "docs.tsv")
    ir_datasets.registry.register(ABSENT, Dataset(TsvDocs(missing, namespace=ABSENT)))
    yield made
    ir_datasets.registry._registered.pop(ABSENT)


def request(track: tiny.Tiny) -> Request:
    return Request(["bert"], str(track.track), store=track.store, leaderboard=track.boards)


def test_a_dataset_that_is_not_here_is_named_and_left_out(track: tiny.Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = sweep(request(track)).rows
    printed = capsys.readouterr().err
    assert f"NOT RUN: {ABSENT}" in printed
    assert f"retrobench data fetch {ABSENT}" in printed
    assert list(row.measures) == [f"{track.data}:test", f"{track.data.parent / 'other'}:test"]
    assert [verified.status for verified in verify("tiny", track.store, track.boards).rows] == ["ok"]


def test_an_unknown_dataset_is_an_error(track: tiny.Tiny) -> None:
    track.track.write_text(track.track.read_text().replace(ABSENT, "beir/nothing"))
    with pytest.raises(RetrobenchError, match="beir/nothing"):
        sweep(request(track))
    assert track.rows() == []


def test_datasets_for_transfer_are_part_of_the_identity_and_an_empty_list_is_not(track: tiny.Tiny) -> None:
    with_transfer = read_track(track.track, "tiny", [])
    without = read_track(track.track, "tiny", ["evaluate.transfer=[]"])
    plain = read_track(tiny.make(track.track.parent / "plain").track, "tiny", [])
    assert absent_datasets(with_transfer) == {ABSENT}
    assert absent_datasets(without) == frozenset()
    assert with_transfer.identity != without.identity
    assert "transfer" in resolve(with_transfer)["evaluate"]
    assert "transfer" not in resolve(plain)["evaluate"], "a track without the key resolves as it always has"
    assert without.overrides == {"evaluate.transfer": []}
