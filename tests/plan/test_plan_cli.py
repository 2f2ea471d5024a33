"""`retrobench plan` in real processes: what it prints, what it leaves alone, and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ARCHIVES = Path(__file__).parents[3] / "shared" / "ir_datasets"
SCRIPT = """
import sys
from retrobench.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def call(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # No name resolves to a proxy that refuses, so that a download would be an error.
    proxies = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    places = {"IR_DATASETS_HOME": str(home / "ir"), "RETROBENCH_HOME": str(home / "store"), "HF_HOME": str(home / "hf")}
    command = [sys.executable, "-c", SCRIPT, "plan", *words]
    known = {**os.environ, **proxies, **places}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=known, cwd=home)


def test_msmarco_on_an_h200(tmp_path: Path) -> None:
    done = call(tmp_path, "--track", "msmarco", "--hardware", "h200")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("msmarco for retromae on NVIDIA H200: 139 GiB, 790 TFLOP/s (bf16, ")
    table = [re.split(r"\s{2,}", line) for line in lines[2:13]]
    cells = {row[0]: row for row in table}
    assert cells["pretrain"][1:3] == ["34 G", "9.6 h"]
    assert cells["stage"][-1] == "here"  # what this machine would need, stage by stage
    floors = [cells[name][2] for name in cells if name not in ("stage", "total", "")]
    seconds = {"s": 1, "min": 60, "h": 3600}
    total = sum(float(of.split()[0]) * seconds[of.split()[1]] for of in floors)
    shown = float(cells["total"][1].split()[0]) * 3600
    assert total == pytest.approx(shown, rel=0.05)
    assert re.search(r"^here +\S.* cores, ", done.stdout, re.MULTILINE)
    assert not {"torch", "ranx", "faiss", "transformers"} & {*done.stderr.split()}
    assert not list(tmp_path.rglob("*.gz")) + list(tmp_path.rglob("*.safetensors"))


def test_beir_knows_what_is_here_already(tmp_path: Path) -> None:
    if not ARCHIVES.is_dir():
        pytest.skip(f"no archives of ir_datasets in {ARCHIVES}")
    for name in ("nfcorpus", "arguana"):
        (tmp_path / "ir" / "beir" / name).mkdir(parents=True)
        shutil.copyfile(ARCHIVES / "beir" / name / "source.zip", tmp_path / "ir" / "beir" / name / "source.zip")
    done = call(tmp_path, "--track", "beir", "--objective", "mlm", "--hardware", "a100", "--gpus", "2")
    assert done.returncode == 0, done.stderr
    flat = " ".join(done.stdout.split())
    assert (
        "tests 14 sets over 25 collections of 25,018,672 documents; the largest: beir/climate-fever, 5,416,593" in flat
    )
    # 14 archives less 2, the base model, 4 files behind msmarco-sbert and 2 parts of wikibook.
    assert "GB in 19 files: " in flat


def test_this_machine_is_measured(tmp_path: Path) -> None:
    track = tmp_path / "boards" / "own"
    track.mkdir(parents=True)
    (tmp_path / "data" / "qrels").mkdir(parents=True)
    (tmp_path / "data" / "corpus.jsonl").write_text('{"_id": "d", "text": "a text"}\n')
    (tmp_path / "data" / "queries.jsonl").write_text('{"_id": "q", "text": "a query"}\n')
    (tmp_path / "data" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    (track / "track.toml").write_text("""
[model]
base = "retrobench/base"
[pretrain]
corpus = ["data"]
steps = 2
batch = 1
learning_rate = 1e-3
[finetune]
queries = "data"
steps = 2
batch = 1
learning_rate = 1e-3
[evaluate]
datasets = ["data"]
""")
    done = call(tmp_path, "--track", "own", "--leaderboard", "boards", "--set", "finetune.steps=4")
    assert done.returncode == 0, done.stderr
    first = " ".join(done.stdout.split("stage")[0].split())
    found = re.fullmatch(
        r"own for retromae on (.+): (\d+) GiB, ([\d,.]+) ([GT])FLOP/s \((bf16|fp32), measured now, (1536|8192) x \d+\)",
        first,
    )
    assert found, first
    assert float(found[3].replace(",", "")) * {"G": 1, "T": 1000}[found[4]] > 1
    assert "torch" in done.stderr.split()
    assert not re.search(r"^here\b", done.stdout, re.MULTILINE)


def test_a_mistake_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = call(tmp_path, "--track", "msmarcoo", "--hardware", "h200")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert line.startswith("Error: Unknown track 'msmarcoo'. Did you mean 'msmarco'? Known: ")
    assert "Traceback" not in done.stderr
