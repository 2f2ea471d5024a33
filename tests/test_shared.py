"""A search shared by real processes equals a search by one process, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import launch

from retrobench.data import Exclusions
from retrobench.retrieval.searcher import Searcher, retrieve
from retrobench.retrieval.vectors import Terms, Writer
from retrobench.scoring.runfiles import read_run

SEARCH = """
import sys
from pathlib import Path
import numpy as np, torch
import torch.distributed as dist
from retrobench.retrieval.nearest import VectorSet, Plan, shared
from retrobench.retrieval.vectors import Vectors
root, rank, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
if count > 1:
    dist.init_process_group("gloo", init_method=f"file://{root}/meet", rank=rank, world_size=count)
for folder in (root / "many", root / "few"):
    queries, documents = (VectorSet.of(Vectors.open(folder / side)) for side in "qp")
    plan = Plan(queries=11) if count > 1 else Plan()
    tie_ranks = np.load(folder / "tie_ranks.npy")
    rows, scores = zip(*shared(queries, documents, 40, tie_ranks, 0.7, plan))
    np.savez(folder / f"{count}.{rank}.npz", rows=np.concatenate(rows), scores=np.concatenate(scores))
if count > 1:
    dist.destroy_process_group()
"""

STORED = """
import sys
from pathlib import Path
from retrobench.data import Exclusions
from retrobench.retrieval.nearest import merging
from retrobench.retrieval.searcher import Searcher, retrieve
from retrobench.store import Store
root, search, counts = Path(sys.argv[1]), merging.search, []
def watched(queries, documents, *more):
    counts.append(len(documents))
    return search(queries, documents, *more)
merging.search = watched
make = lambda folder: retrieve(folder, Searcher(root / "q", root / "p", 0.7), 40, "data", "x", Exclusions(own=True))
Store(root / "store").ensure("search", {}, [], make, together=True)
print(*counts)
"""


def lay(folder: Path, draw: np.random.Generator, rows: int) -> None:
    """Write random vectors with dense and sparse parts into a new folder."""
    folder.mkdir(parents=True)
    counts = draw.integers(0, 5, rows)
    bounds = np.concatenate([[0], np.cumsum(counts)])
    columns = [draw.permutation(30)[:count] for count in counts]
    indices = np.concatenate(columns).astype(np.int32)
    weights = draw.random(len(indices)).astype(np.float32)
    dense = np.round(draw.standard_normal((rows, 24)), 1).astype(np.float32)
    with Writer(folder, rows, 24, 30, "float16", rows, {}) as writer:
        writer.put(0, dense, Terms(bounds, indices, weights))
        writer.publish(map(str, range(rows)))


@pytest.mark.slow
def test_four_processes_rank_like_one_process(tmp_path: Path) -> None:
    """With three documents, one of four processes has none."""
    draw = np.random.default_rng(0)
    sizes = {"many": 500, "few": 3}
    for case, documents in sizes.items():
        folder = tmp_path / case
        lay(folder / "q", draw, 37)
        lay(folder / "p", draw, documents)
        tie_ranks = draw.permutation(documents).astype(np.int32)
        np.save(folder / "tie_ranks.npy", tie_ranks)
    for count in (1, 4):
        words = [sys.executable, "-c", SEARCH, str(tmp_path)]
        processes = [subprocess.Popen([*words, str(rank), str(count)]) for rank in range(count)]
        for process in processes:
            assert process.wait(150) == 0
    for case, documents in sizes.items():
        single = np.load(tmp_path / case / "1.0.npz")
        assert single["rows"].shape == (37, min(40, documents))
        assert len(np.unique(single["rows"])) > 2
        bits = single["scores"].view(np.int32)
        for rank in range(4):
            shared = np.load(tmp_path / case / f"4.{rank}.npz")
            assert np.array_equal(shared["rows"], single["rows"])
            assert np.array_equal(shared["scores"].view(np.int32), bits)


@pytest.mark.slow
def test_two_processes_make_one_run_in_the_store(tmp_path: Path) -> None:
    """Each process searches half of the documents. The run equals that of one process byte for byte."""
    draw = np.random.default_rng(1)
    queries, passages = tmp_path / "q", tmp_path / "p"
    lay(queries, draw, 37)
    lay(passages, draw, 501)
    first, second = launch([sys.executable, "-c", STORED, str(tmp_path)])
    assert (first.returncode, second.returncode) == (0, 0), (first, second)
    assert first.stdout.split() == ["250"]
    assert second.stdout.split() == ["251"]
    (entry,) = [path for path in (tmp_path / "store" / "search").iterdir() if path.is_dir()]
    _, _, ranking = read_run(entry)
    assert ranking.self_hits > 0
    alone = tmp_path / "alone"
    alone.mkdir()
    retrieve(alone, Searcher(queries, passages, 0.7), 40, "data", "x", Exclusions(own=True))
    shared_files = contents(entry)
    del shared_files["entry.json"]
    assert {"run.trec", "rows.npy", "scores.npy"} < shared_files.keys()
    assert shared_files == contents(alone)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}
