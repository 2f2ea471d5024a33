"""`verify` and `show` on a real run of a tiny track: each thing that was changed is named with its row."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny

from retrobench import cli
from retrobench.data import catalogue, groups
from retrobench.leaderboard.rows import Row, folders, read
from retrobench.runs import verification
from retrobench.runs.sweep import Request, sweep
from retrobench.runs.verification import Verification, verify


class Measured(NamedTuple):
    """A finished run of bm25 and mlm."""

    tiny: tiny.Tiny
    folder: Path  # of the rows
    bm25: Row
    mlm: Row

    @property
    def rows(self) -> Path:
        return self.folder / "rows.jsonl"

    @property
    def dataset(self) -> str:
        return f"{self.tiny.data}:test"

    def artifact(self, row: Row, role: str) -> Path:
        return self.tiny.store / role.split()[0] / row.artifacts[role]

    def verify(self, store: Path | None = None) -> Verification:
        return verify("tiny", store or self.tiny.store, self.tiny.boards)

    def findings(self, store: Path | None = None) -> dict[str, str]:
        """Return the findings of each row that is not sound, by its id."""
        return {row.row: row.what for row in self.verify(store).rows if row.status != "ok"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    track = tiny.make(tmp_path_factory.mktemp("verified"))
    request = Request(["bm25", "mlm"], str(track.track), (0,), (), track.store, track.boards)
    swept = sweep(request)
    return Measured(track, swept.folder, *swept.rows)


@pytest.fixture
def call(measured: Measured, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the command line in this process; return its exit code, its output and its errors."""
    # Reading the shipped rows takes seconds.
    monkeypatch.setattr(folders, "track_folders", lambda leaderboard=None: [leaderboard] if leaderboard else [])

    def run(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["retrobench", *words, "--leaderboard", str(measured.tiny.boards)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capfd.readouterr()
        return stop.value.code or 0, printed.out, printed.err

    return run


@contextmanager
def changed(file: Path, content: bytes) -> Iterator[None]:
    """Give a file another content for a while."""
    original = file.read_bytes()
    assert content != original
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(original)


def test_every_row_of_a_finished_run_is_ok(measured: Measured, call: Callable[..., Any]) -> None:
    code, printed, progress = call("verify", "tiny", "--store", str(measured.tiny.store))
    assert code == 0
    assert [line.split() for line in printed.splitlines()[:2]] == [
        [measured.bm25.id, "tiny:bm25:-", "OK"],
        [measured.mlm.id, "tiny:mlm:0", "OK"],
    ]
    assert printed.splitlines()[-1] == "2 OK, 0 MISSING, 0 DIFFER."
    assert progress.count("hashes the documents") == 1, "a dataset is read once for all rows"


def test_json_is_one_array(measured: Measured, call: Callable[..., Any]) -> None:
    code, printed, _ = call("verify", "tiny", "--store", str(measured.tiny.store), "--json")
    assert code == 0
    expected = [{"row": row.id, "status": "ok", "what": ""} for row in (measured.bm25, measured.mlm)]
    assert json.loads(printed) == expected


def edit_row(measured: Measured) -> tuple[Path, bytes]:
    """Raise a digit of mlm's MRR@10."""
    text = measured.rows.read_text()
    value = repr(measured.mlm.measures[measured.dataset]["MRR@10"])
    digit = str((int(value[4]) + 1) % 10)
    assert text.count(value) == 1
    return measured.rows, text.replace(value, value[:4] + digit + value[5:]).encode()


def edit_run(measured: Measured) -> tuple[Path, bytes]:
    """Put a document without words in place of the first query's first hit."""
    file = measured.artifact(measured.bm25, f"search {measured.dataset}") / "run.trec"
    first, *others = file.read_text().splitlines()
    words = first.split()
    words[2] = "x" * len(words[2])
    return file, "\n".join([" ".join(words), *others, ""]).encode()


def edit_values(measured: Measured) -> tuple[Path, bytes]:
    file = measured.folder / measured.mlm.per_query
    document = json.loads(gzip.decompress(file.read_bytes()))
    document[measured.dataset]["measures"]["MRR@10"][0] += 0.001
    return file, gzip.compress(json.dumps(document).encode())


def edit_values_that_cancel_out(measured: Measured) -> tuple[Path, bytes]:
    file = measured.folder / measured.mlm.per_query
    document = json.loads(gzip.decompress(file.read_bytes()))
    shift(document[measured.dataset]["measures"]["MRR@10"])
    return file, gzip.compress(json.dumps(document).encode())


def shift(values: list[float]) -> None:
    """Move a little from one value to another, so that their mean stays."""
    values[0] += 0.001
    values[1] -= 0.001


def damage_values(measured: Measured) -> tuple[Path, bytes]:
    """Flip a bit within the compressed text."""
    file = measured.folder / measured.mlm.per_query
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    return file, bytes(content)


def flip_encoder(measured: Measured) -> tuple[Path, bytes]:
    file = measured.artifact(measured.mlm, "finetune in-batch") / "model.safetensors"
    content = file.read_bytes()
    return file, content[:-1] + bytes([content[-1] ^ 1])


def flip_vectors(measured: Measured) -> tuple[Path, bytes]:
    (file,) = measured.artifact(measured.mlm, f"encode {measured.dataset} passages").glob("dense*.npy")
    content = file.read_bytes()
    return file, content[:-1] + bytes([content[-1] ^ 1])


def edit_qrels(measured: Measured) -> tuple[Path, bytes]:
    file = measured.tiny.data / "qrels" / "test.tsv"
    *others, last = file.read_text().splitlines()
    query, document, _ = last.split("\t")
    return file, "\n".join([*others, f"{query}\t{document}\t0", ""]).encode()


def break_qrels(measured: Measured) -> tuple[Path, bytes]:
    file = measured.tiny.data / "qrels" / "test.tsv"
    return file, file.read_bytes() + b"q65\n"


def edit_corpus(measured: Measured) -> tuple[Path, bytes]:
    file = measured.tiny.data / "corpus.jsonl"
    return file, file.read_bytes().replace(b'"title": ""', b'"title": "b"', 1)


def edit_track(measured: Measured) -> tuple[Path, bytes]:
    file = measured.folder / "tracks" / f"{measured.mlm.identity}.toml"
    return file, file.read_bytes().replace(b"steps = 6", b"steps = 7", 1)


@pytest.mark.parametrize(
    ("tamper", "entrants", "expected"),
    [
        (edit_row, ("mlm",), ["rows.jsonl:2: its content does not have the id", "the run gives MRR@10 "]),
        (edit_run, ("bm25",), ["run.trec does not match its checksum", "the run gives other values of MRR@10"]),
        (edit_values, ("mlm",), [".json.gz was changed since it was written"]),
        (edit_values_that_cancel_out, ("mlm",), [".json.gz was changed since it was written"]),
        (damage_values, ("mlm",), ["Cannot read ", "per_query/"]),
        (flip_encoder, ("mlm",), ["finetune in-batch (finetune/", "model.safetensors does not match its checksum"]),
        (flip_vectors, ("mlm",), ["test passages (encode/", "npy does not match its checksum"]),
        (edit_qrels, ("bm25", "mlm"), ["the judgements of ", ":test have the hash "]),
        (break_qrels, ("bm25", "mlm"), ["qrels of ", "test.tsv, line "]),
        (edit_corpus, ("bm25", "mlm"), ["the documents of ", ":test have the hash "]),
        (edit_track, ("bm25", "mlm"), ["toml was changed since it was written"]),
    ],
)
def test_a_change_is_named_with_its_row(
    tamper: Callable[[Measured], tuple[Path, bytes]],
    entrants: tuple[str, ...],
    expected: list[str],
    measured: Measured,
    call: Callable[..., Any],
) -> None:
    with changed(*tamper(measured)):
        code, printed, _ = call("verify", "tiny", "--store", str(measured.tiny.store), "--json")
    assert code == 1
    records = {record["row"]: record for record in json.loads(printed)}
    for entrant in ("bm25", "mlm"):
        row: Row = getattr(measured, entrant)
        record = records[row.id]
        assert record["status"] == ("differs" if entrant in entrants else "ok"), record
        if entrant in entrants:
            assert all(text in record["what"] for text in expected), record["what"]


def test_values_forged_with_all_their_hashes_differ_from_the_run(measured: Measured) -> None:
    document = json.loads(gzip.decompress((measured.folder / measured.mlm.per_query).read_bytes()))
    shift(document[measured.dataset]["measures"]["MRR@10"])
    content = json.dumps(document).encode()
    forged_file = measured.folder / "per_query" / f"{hashlib.sha256(content).hexdigest()[:16]}.json.gz"
    forged_file.write_bytes(gzip.compress(content))
    forged = replace(measured.mlm, per_query=f"per_query/{forged_file.name}")
    forged = replace(forged, id=forged.digest())
    with changed(measured.rows, (measured.bm25.to_json() + "\n" + forged.to_json() + "\n").encode()):
        assert read(measured.folder)[1] == forged, "the row agrees with its own files"
        findings = measured.findings()
    forged_file.unlink()
    queries = "q65, q66"  # the first two by id
    expected = f"the run gives other values of MRR@10 on {measured.dataset} than those kept, for {queries}"
    assert findings == {forged.id: expected}


def test_an_entry_under_the_key_of_another_is_no_match(measured: Measured) -> None:
    encoder = measured.artifact(measured.mlm, "finetune in-batch")
    other = measured.artifact(measured.mlm, "finetune mined")
    aside = encoder.with_name("aside")
    encoder.rename(aside)
    encoder.symlink_to(other)
    findings = measured.findings()
    encoder.unlink()
    aside.rename(encoder)
    assert list(findings) == [measured.mlm.id]
    assert "finetune in-batch (finetune/" in findings[measured.mlm.id]
    assert findings[measured.mlm.id].endswith("entry.json describes another entry")


def test_a_line_that_cannot_be_read_is_named_by_its_place(measured: Measured) -> None:
    with changed(measured.rows, measured.rows.read_bytes() + b'{"id": \n'):
        (broken,) = [row for row in measured.verify().rows if row.status != "ok"]
    assert (broken.row, broken.status) == (f"{measured.rows}:3", "differs")
    assert "it is not JSON" in broken.what


def test_without_a_store_artifacts_are_missing_and_kept_files_are_checked(
    measured: Measured, call: Callable[..., Any], tmp_path: Path
) -> None:
    absent = tmp_path / "absent"
    code, printed, _ = call("verify", "tiny", "--store", str(absent), "--json")
    assert code == 0
    assert {record["status"] for record in json.loads(printed)} == {"missing"}
    count = len(measured.mlm.artifacts)
    assert json.loads(printed)[1]["what"] == f"not here: all {count} artifacts (store {absent})"
    assert not absent.exists(), "nothing is written"
    with changed(*edit_values(measured)):
        code, printed, _ = call("verify", "tiny", "--store", str(absent), "--json")
    assert code == 1
    assert [record["status"] for record in json.loads(printed)] == ["missing", "differs"]


def test_missing_things_are_named_one_by_one(measured: Measured) -> None:
    encoder = measured.artifact(measured.mlm, "finetune in-batch")
    kept = measured.folder / measured.mlm.per_query
    for path in (encoder, kept):
        path.rename(path.with_name("aside"))
    findings = measured.findings()
    for path in (encoder, kept):
        path.with_name("aside").rename(path)
    assert findings == {measured.mlm.id: f"not here: {measured.mlm.per_query}, finetune in-batch"}


def test_a_dataset_that_is_gone_is_missing(measured: Measured, call: Callable[..., Any]) -> None:
    aside = measured.tiny.data.rename(measured.tiny.data.with_name("aside"))
    code, printed, _ = call("verify", "tiny", "--store", str(measured.tiny.store), "--json")
    aside.rename(measured.tiny.data)
    assert code == 0
    for record in json.loads(printed):
        assert record["status"] == "missing"
        assert record["what"].startswith(f"not here: dataset {measured.dataset} (Unknown dataset")


def test_a_dataset_is_never_downloaded(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "beir/nfcorpus/test"
    file = catalogue.DownloadFile("https://example.org/nfcorpus.zip", measured.folder / "absent.zip", 1, False)
    monkeypatch.setattr(catalogue, "files", lambda *names: (file,))
    monkeypatch.setattr(catalogue, "reach", lambda *names: pytest.fail("nothing may be read"))
    row = replace(measured.bm25, measures={name: {"nDCG@10": 0.3}}, facts={}, artifacts={}, per_query="per_query/none")
    row = replace(row, id=row.digest())
    with changed(measured.rows, f"{row.to_json()}\n".encode()):
        findings = measured.findings()
    assert f"dataset {name} (`retrobench data fetch {name}` downloads it)" in findings[row.id]


def test_a_kept_plugin_is_missing_or_changed(measured: Measured) -> None:
    name = f"plugins/{hashlib.sha256(b'1').hexdigest()[:16]}.py"
    row = replace(measured.mlm, plugin={"file": "mine.py", "kept": name})
    row = replace(row, id=row.digest())
    file = measured.folder / name
    file.parent.mkdir()
    with changed(measured.rows, f"{row.to_json()}\n".encode()):
        assert measured.findings() == {row.id: f"not here: {name}"}
        file.write_text("1")
        assert measured.findings() == {}
        file.write_text("2")
        assert measured.findings()[row.id].startswith(f"{measured.rows}:1: {name} was changed")
    file.unlink()


def test_the_mean_of_a_group_is_no_dataset(measured: Measured) -> None:
    forums = {name: {"nDCG@10": 0.5} for name in groups.expand("beir/cqadupstack")}
    row = replace(measured.mlm, measures={**groups.averages(forums), **forums})
    assert len(row.measures) == 13
    assert verification._measured(row) == list(forums)


def test_show_prints_everything_a_row_has(measured: Measured, call: Callable[..., Any]) -> None:
    by_name = call("show", "tiny:mlm:0")
    assert by_name[0] == 0
    assert call("show", measured.mlm.id[:8]) == by_name
    printed = by_name[1]
    assert printed.startswith(f"tiny:mlm:0, {measured.rows}:2\n")
    words = [measured.mlm.id, measured.mlm.commit, measured.mlm.command, measured.mlm.per_query]
    words += [measured.mlm.facts[measured.dataset]["qrels"], measured.mlm.content["base"], "mask_ratio"]
    words += [f"{role.split()[0]}/{key}" for role, key in measured.mlm.artifacts.items()]
    for word in words:
        assert word in printed
    document = json.loads(call("show", "tiny:mlm:0", "--json")[1])
    assert set(document) == {"location", "faults", "missing", "row"}
    stored = json.loads(measured.mlm.to_json())
    assert set(document["row"]) == {*stored, "chosen"}
    assert document["row"]["measures"] == stored["measures"]
    assert document["row"]["energy"] is None


def test_show_names_the_fault_of_a_changed_row(measured: Measured, call: Callable[..., Any]) -> None:
    with changed(*edit_row(measured)):
        code, printed, _ = call("show", "tiny:mlm:0")
    assert code == 0
    assert "DIFFERS: its content does not have the id" in printed


def test_show_finds_a_row_without_a_seed(measured: Measured, call: Callable[..., Any]) -> None:
    assert call("show", "tiny:bm25:-")[1] == call("show", measured.bm25.id)[1]


def test_an_unknown_row_is_one_line_with_the_choices(measured: Measured, call: Callable[..., Any]) -> None:
    code, printed, error = call("show", "tiny:mlm:1")
    assert (code, printed) == (2, "")
    assert error.startswith("Error: Unknown row 'tiny:mlm:1'. Did you mean 'tiny:mlm:0'?")
    assert "tiny:bm25:-" in error and error.count("\n") == 1


def test_an_ambiguous_row_is_one_line_with_the_choices(measured: Measured, call: Callable[..., Any]) -> None:
    second = replace(measured.mlm, date="2026-01-01T00:00:00+00:00")
    second = replace(second, id=second.digest())
    with changed(measured.rows, measured.rows.read_bytes() + f"{second.to_json()}\n".encode()):
        code, _, error = call("show", "tiny:mlm:0")
        assert call("show", second.id[:8])[0] == 0
    assert code == 2 and error.count("\n") == 1
    assert measured.mlm.id in error and second.id in error and second.date in error


def test_a_name_means_the_row_of_the_track_as_it_is(measured: Measured, call: Callable[..., Any]) -> None:
    other = replace(measured.mlm, overrides={"pretrain.steps": 9}, identity="0" * 16)
    other = replace(other, id=other.digest())
    with changed(measured.rows, f"{other.to_json()}\n".encode() + measured.rows.read_bytes()):
        assert measured.mlm.id in call("show", "tiny:mlm:0")[1]
        assert other.id in call("show", other.id)[1]


def test_an_unknown_track_is_one_line_with_the_choices(call: Callable[..., Any]) -> None:
    code, _, error = call("verify", "tine")
    assert code == 2
    assert "Unknown track with rows 'tine'. Did you mean 'tiny'?" in error
