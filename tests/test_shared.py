"""A search shared by real processes, one thread each, against that of one process, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retrobench.vectors import Terms, Writer

SEARCH = """
import sys
from pathlib import Path
import numpy as np, torch
import torch.distributed as dist
from retrobench.nearest import Documents, Plan, shared
folder, rank, count, depth = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
if count > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{count}.{depth}", rank=rank, world_size=count)
queries, documents = Documents.open(folder / "q"), Documents.open(folder / "p")
places = np.load(folder / "places.npy")
plan = Plan(queries=11) if count > 1 else Plan()
found = [np.concatenate(part) for part in zip(*shared(queries, documents, depth, places, 0.7, plan))]
np.savez(folder / f"{count}.{rank}.{depth}.npz", rows=found[0], scores=found[1])
if count > 1:
    dist.destroy_process_group()
"""


def lay(folder: Path, draw: np.random.Generator, rows: int) -> None:
    counts = draw.integers(0, 5, rows)
    indices = np.concatenate([np.zeros(0, np.int32), *(draw.permutation(30)[:n].astype(np.int32) for n in counts)])
    terms = Terms(np.concatenate([[0], np.cumsum(counts)]), indices, draw.random(len(indices)).astype(np.float32))
    with Writer(folder, rows, 24, 30, "float16", rows, {}) as writer:
        writer.put(0, np.round(draw.standard_normal((rows, 24)), 1).astype(np.float32), terms)
        writer.publish(str(row) for row in range(rows))


@pytest.mark.parametrize(("documents", "depth"), [(500, 40), (3, 5)])
def test_four_processes_find_what_one_finds(documents: int, depth: int, tmp_path: Path) -> None:
    """Three documents leave one of four processes none."""
    draw = np.random.default_rng(0)
    for name, rows in (("q", 37), ("p", documents)):
        (tmp_path / name).mkdir()
        lay(tmp_path / name, draw, rows)
    np.save(tmp_path / "places.npy", draw.permutation(documents).astype(np.int32))
    for count in (1, 4):
        words = [sys.executable, "-c", SEARCH, str(tmp_path)]
        at_work = [subprocess.Popen([*words, str(rank), str(count), str(depth)]) for rank in range(count)]
        assert [process.wait(120) for process in at_work] == [0] * count
    one = np.load(tmp_path / f"1.0.{depth}.npz")
    assert one["rows"].shape == (37, min(depth, documents)) and len(np.unique(one["rows"])) > 2
    for rank in range(4):
        other = np.load(tmp_path / f"4.{rank}.{depth}.npz")
        assert np.array_equal(one["rows"], other["rows"])
        assert np.array_equal(one["scores"].view(np.int32), other["scores"].view(np.int32))
