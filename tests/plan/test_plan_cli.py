"""`retrobench plan` in real processes: its output, its imports and downloads, and its errors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pitfall_files import collection

ARCHIVES = Path(__file__).parents[3] / "shared" / "ir_datasets"
SCRIPT = """
import sys
from retrobench.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def call_plan(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `retrobench plan` in an empty home. Its proxy refuses every connection, so a download is an error."""
    environment = dict(os.environ)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        environment[name] = "http://127.0.0.1:9"
    environment["IR_DATASETS_HOME"] = str(home / "ir")
    environment["RETROBENCH_HOME"] = str(home / "store")
    environment["HF_HOME"] = str(home / "hf")
    command = [sys.executable, "-c", SCRIPT, "plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=home)


def read_seconds(time: str) -> float:
    number, unit = time.replace(",", "").split()
    seconds_per_unit = {"s": 1, "min": 60, "h": 3600}
    return float(number) * seconds_per_unit[unit]


def test_msmarco_on_an_h200(tmp_path: Path) -> None:
    process = call_plan(tmp_path, "--track", "msmarco", "--hardware", "h200")
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    widths = [len(line) for line in lines]
    assert len(lines) <= 45
    assert max(widths) <= 100
    assert lines[0].startswith("msmarco for retromae on NVIDIA H200: 139 GiB, 790 TFLOP/s (bf16, ")
    assert re.search(r"^here +\S.* cores, ", process.stdout, re.MULTILINE)
    rows = {}
    for line in lines[2:13]:
        name, *cells = re.split(r"\s{2,}", line)
        rows[name] = cells
    head = rows.pop("stage")
    total = rows.pop("total")
    rows.pop("", None)
    assert head[-1] == "here"  # the time of each stage on this machine
    assert rows["pretrain"][:2] == ["34 G", "9.6 h"]
    floors = sum(read_seconds(cells[1]) for cells in rows.values())
    assert floors == pytest.approx(read_seconds(total[0]), rel=0.05)


def test_a_plan_for_a_card_loads_no_torch_and_downloads_nothing(tmp_path: Path) -> None:
    process = call_plan(tmp_path, "--track", "msmarco", "--hardware", "h200")
    modules = set(process.stderr.split())
    assert modules.isdisjoint({"torch", "ranx", "faiss", "transformers"})
    assert not list(tmp_path.rglob("*.gz"))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_beir_counts_local_archives(tmp_path: Path) -> None:
    if not ARCHIVES.is_dir():
        pytest.skip(f"no archives of ir_datasets in {ARCHIVES}")
    for name in ("nfcorpus", "arguana"):
        folder = tmp_path / "ir" / "beir" / name
        folder.mkdir(parents=True)
        shutil.copyfile(ARCHIVES / "beir" / name / "source.zip", folder / "source.zip")
    process = call_plan(tmp_path, "--track", "beir", "--objective", "mlm", "--hardware", "a100", "--gpus", "2")
    assert process.returncode == 0, process.stderr
    flat = " ".join(process.stdout.split())
    assert "14 sets over 25 collections of 25,018,672 documents" in flat
    assert "beir/climate-fever, 5,416,593" in flat
    # 14 archives less 2, the base model, 4 files behind msmarco-sbert and 2 parts of wikibook.
    assert "GB in 19 files: " in flat


TRACK = """
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
"""
TITLE = re.compile(
    r"own for retromae on (?P<name>.+): (?P<memory>\d+) GiB, (?P<rate>[\d,.]+) (?P<unit>[GT])FLOP/s "
    r"\((bf16|fp32), measured now, (1536|8192) x \d+\)"
)


def test_this_machine_is_measured(tmp_path: Path) -> None:
    folder = tmp_path / "boards" / "own"
    folder.mkdir(parents=True)
    (folder / "track.toml").write_text(TRACK)
    collection(tmp_path / "data", "d", {"q": {"d": 1}})
    process = call_plan(tmp_path, "--track", "own", "--leaderboard", "boards", "--set", "finetune.steps=4")
    assert process.returncode == 0, process.stderr
    paragraph, _, _ = process.stdout.partition("stage")
    title = TITLE.fullmatch(" ".join(paragraph.split()))
    assert title, paragraph
    rate = float(title["rate"].replace(",", ""))
    if title["unit"] == "T":
        rate *= 1000
    assert rate > 1
    assert "torch" in process.stderr.split()
    assert not re.search(r"^here\b", process.stdout, re.MULTILINE)


def test_a_mistake_is_one_line_and_exit_2(tmp_path: Path) -> None:
    process = call_plan(tmp_path, "--track", "msmarcoo", "--hardware", "h200")
    assert process.returncode == 2
    assert process.stdout == ""
    (line,) = re.findall("^Error: .*", process.stderr, re.MULTILINE)
    assert line.startswith("Error: Unknown track 'msmarcoo'. Did you mean 'msmarco'? Known: ")
    assert "Traceback" not in process.stderr
