"""`retrobench data` in real processes, on the official archives of NFCorpus, ArguAna and Cranfield where they are."""

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
    """A folder for ir_datasets with three archives in it, nothing extracted yet."""
    if not ARCHIVES.is_dir():
        pytest.skip(f"no archives of ir_datasets in {ARCHIVES}")
    folder = tmp_path_factory.mktemp("ir_datasets")
    for archive in ("beir/nfcorpus/source.zip", "beir/arguana/source.zip", "cranfield/cran.tar.gz"):
        (folder / archive).parent.mkdir(parents=True)
        shutil.copyfile(ARCHIVES / archive, folder / archive)
    return folder


def call(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # Through a proxy that is not there every download fails, on a machine with a network as on one without.
    proxies = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    known = {**os.environ, **proxies, "IR_DATASETS_HOME": str(home), "NO_PROXY": "", "no_proxy": "", **variables}
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=120, env=known)


def checked(home: Path, name: str) -> dict[str, Any]:
    done = call(home, "check", name, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["checked"]
    found["kinds"] = {finding["kind"]: finding["count"] for finding in found["findings"]}
    return dict(found)


def test_several_processes_fetch_the_same_set_at_once(home: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: call(home, "fetch", "beir/nfcorpus"), range(2)))
    line = f"beir/nfcorpus/test: 3,633 docs, 323 queries, 12,334 qrels in {home}, to be used offline\n"
    assert [(each.returncode, each.stdout) for each in done] == [(0, line)] * 2
    found = checked(home, "beir/nfcorpus")  # two builders would have written every document twice
    assert (found["dataset"], found["documents"]["count"]) == ("beir/nfcorpus/test", 3633)
    assert found["queries"]["count"] == found["queries"]["published"] == 323
    assert found["kinds"] == {"repeated-texts": 40}
    with zipfile.ZipFile(ARCHIVES / "beir/nfcorpus/source.zip") as archive:
        rows = map(json.loads, archive.read("nfcorpus/corpus.jsonl").splitlines())
        texts = (json.dumps([row["_id"], row["title"], row["text"]]) + "\n" for row in rows)
        assert found["documents"]["sha256"] == hashlib.sha256("".join(texts).encode()).hexdigest()


def test_arguana_is_what_it_was_published_as(home: Path) -> None:
    found = checked(home, "beir/arguana")
    assert [found[part]["count"] for part in ("documents", "queries", "judgements")] == [8674, 1406, 1406]
    assert found["kinds"]["dangling-documents"] == 5
    assert found["kinds"]["shared-ids"] == 1298
    assert {finding["level"] for finding in found["findings"]} == {"remark"}
    assert found["rule"]["drop_self"] is True


def test_cranfield_text_for_a_reader(home: Path) -> None:
    done = call(home, "check", "cranfield")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  documents +1,400  of 1,400 published, sha256 ", done.stdout, re.MULTILINE)
    assert "225 judgements have a grade below 0: it counts as 0" in done.stdout
    assert "225 of 225 query ids are also document ids, never with the same text" in done.stdout
    assert done.stdout.endswith("\n\nNo fault.\n")


def test_what_is_at_hand_is_listed_as_such(home: Path) -> None:
    done = call(home, "list", "--json", RETROBENCH_DATA=str(home / "none"))
    rows = {row["id"]: row["at_hand"] for row in json.loads(done.stdout)}
    assert [rows[name] for name in ("beir/nfcorpus/test", "beir/arguana", "beir/scifact/test", "beir")] == [
        *(True, True, False, False)
    ]


def test_a_file_that_is_missing_offline_is_told_in_one_line(home: Path) -> None:
    done = call(home, "check", "beir/scifact")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: Dataset 'beir/scifact/test' needs https://public.ukp.informatik.tu-darmstadt.de")
    assert "scifact.zip, which is not here and could not be downloaded (" in line
    assert "Run `retrobench data fetch beir/scifact/test` where there is a network." in line
    assert line.endswith(f"By hand: put that file at {home}/beir/scifact/source.zip.")


def test_a_fault_is_exit_1_and_an_unknown_id_exit_2(tmp_path: Path) -> None:
    (tmp_path / "corpus.tsv").write_text("1\tone\n1\ttwo\n")
    done = call(tmp_path, "check", str(tmp_path))
    assert done.returncode == 1
    assert "corpus.tsv, line 2: id '1' was used on line 1." in done.stdout
    assert done.stdout.endswith("\n\n1 fault.\n")
    done = call(tmp_path, "check", "beir/nfcorpsu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: Unknown dataset 'beir/nfcorpsu'. Did you mean 'beir/nfcorpus'?")
    assert done.stderr.count("\n") == 1
