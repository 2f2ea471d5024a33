"""`retrobench data` in real processes, on the official archives of NFCorpus, ArguAna and Cranfield.

Tests of an archive are skipped where the archives are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ARCHIVES = Path(__file__).parents[3] / "shared" / "ir_datasets"
COMMAND = [sys.executable, "-c", "from retrobench.cli import main; main()", "data"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for ir_datasets with three archives, none of them extracted."""
    if not ARCHIVES.is_dir():
        pytest.skip(f"no archives of ir_datasets in {ARCHIVES}")
    folder = tmp_path_factory.mktemp("ir_datasets")
    for archive in ("beir/nfcorpus/source.zip", "beir/arguana/source.zip", "cranfield/cran.tar.gz"):
        copy = folder / archive
        copy.parent.mkdir(parents=True)
        shutil.copyfile(ARCHIVES / archive, copy)
    return folder


def call(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `retrobench data` with a proxy that refuses connections, so that every download fails on any machine."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **proxies, "NO_PROXY": "", "no_proxy": ""}
    environment["IR_DATASETS_HOME"] = str(home)
    environment.update(variables)
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=600, env=environment)


def checked(home: Path, dataset_id: str) -> dict[str, Any]:
    """Return the report on a dataset without faults."""
    process = call(home, "check", dataset_id, "--json")
    assert process.returncode == 0, process.stderr
    (report,) = json.loads(process.stdout)["checked"]
    return dict(report)


def counts_by_kind(report: dict[str, Any]) -> dict[str, int]:
    return {finding["kind"]: finding["count"] for finding in report["findings"]}


def corpus_hash(archive: Path, member: str) -> str:
    """Return the SHA-256 of the documents of a JSON Lines file within an archive."""
    sha256 = hashlib.sha256()
    with zipfile.ZipFile(archive) as zipped:
        for line in zipped.read(member).splitlines():
            row = json.loads(line)
            fields = json.dumps([row["_id"], row["title"], row["text"]])
            sha256.update(f"{fields}\n".encode())
    return sha256.hexdigest()


def test_two_processes_fetch_a_dataset_at_once(home: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(call, home, "fetch", "beir/nfcorpus") for _ in range(2)]
    line = f"beir/nfcorpus/test: 3,633 docs, 323 queries, 12,334 qrels in {home}, to be used offline\n"
    for future in futures:
        process = future.result()
        assert process.returncode == 0, process.stderr
        assert process.stdout == line
    report = checked(home, "beir/nfcorpus")
    assert report["dataset"] == "beir/nfcorpus/test"
    assert report["documents"]["count"] == 3633  # two builders would have written every document twice
    assert report["queries"]["count"] == 323
    assert report["queries"]["published"] == 323
    assert counts_by_kind(report) == {"repeated-texts": 40}
    published = corpus_hash(ARCHIVES / "beir/nfcorpus/source.zip", "nfcorpus/corpus.jsonl")
    assert report["documents"]["sha256"] == published


def test_arguana_has_its_published_counts(home: Path) -> None:
    report = checked(home, "beir/arguana")
    assert report["documents"]["count"] == 8674
    assert report["queries"]["count"] == 1406
    assert report["judgements"]["count"] == 1406
    counts = counts_by_kind(report)
    assert counts["dangling-documents"] == 5
    assert counts["shared-ids"] == 1298
    for finding in report["findings"]:
        assert finding["level"] == "remark"
    assert report["rule"]["drop_self"] is True


def test_cranfield_as_text(home: Path) -> None:
    process = call(home, "check", "cranfield")
    assert process.returncode == 0, process.stderr
    assert re.search(r"^  documents +1,400  of 1,400 published, sha256 ", process.stdout, re.MULTILINE)
    assert "225 judgements have a grade below 0" in process.stdout
    assert "225 of 225 query ids are also document ids" in process.stdout
    assert process.stdout.endswith("\n\nNo fault.\n")


def test_downloaded_datasets_are_listed_as_at_hand(home: Path) -> None:
    process = call(home, "list", "--json", RETROBENCH_DATA=str(home / "none"))
    at_hand = {row["id"]: row["at_hand"] for row in json.loads(process.stdout)}
    assert at_hand["beir/nfcorpus/test"] is True
    assert at_hand["beir/arguana"] is True
    assert at_hand["beir/scifact/test"] is False
    assert at_hand["beir"] is False


def test_a_missing_file_offline_is_one_line(home: Path) -> None:
    process = call(home, "check", "beir/scifact")
    assert process.returncode == 2
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert "'beir/scifact/test'" in line
    assert "https://public.ukp.informatik.tu-darmstadt.de" in line
    assert "`retrobench data fetch beir/scifact/test`" in line
    assert f"{home}/beir/scifact/source.zip" in line


def test_a_fault_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "corpus.tsv").write_text("1\tone\n1\ttwo\n")
    process = call(tmp_path, "check", str(tmp_path))
    assert process.returncode == 1
    assert "corpus.tsv, line 2: id '1' was used on line 1." in process.stdout
    assert process.stdout.endswith("\n\n1 fault.\n")


def test_an_unknown_id_exits_with_2(tmp_path: Path) -> None:
    process = call(tmp_path, "check", "beir/nfcorpsu")
    assert process.returncode == 2
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert "'beir/nfcorpsu'. Did you mean 'beir/nfcorpus'?" in line
