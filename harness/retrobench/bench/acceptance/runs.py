"""
Whole runs of `retrobench run` on a small track: killed and resumed, and by two processes.

The track has 200 passages of the collection that ships with the package, and its base. Every process of a run is a new
one, with a store of its own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from retrobench.bench.acceptance.check import Check, SkippedError
from retrobench.bench.frame import UnequalError, require_close
from retrobench.bench.setting import Setting
from retrobench.data import load, register

__all__ = ["killed_checks", "process_checks"]

OBJECTIVE = "dupmae"
SOURCE = "retrobench/squad"
# Split of the small collection -> split of the collection that ships, and its first questions.
SPLITS = {"train": (f"{SOURCE}/fit", 60), "val": (f"{SOURCE}/val", 20), "test": (f"{SOURCE}/test", 20)}
PASSAGES = 200
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # two processes on all processors' threads would wait for each other
POLL = 0.005  # seconds between two looks for a checkpoint
COMMAND = (sys.executable, "-c", "from retrobench.cli import main; main()")
TRACK = """
title = "Acceptance"

[model]
base = "retrobench/base"

[pretrain]
corpus = ["{data}:train"]
steps = 30
batch = 8
learning_rate = 5e-4
max_length = 64
bucket = 4
checkpoint_every = 5
log_every = 1
shards = {shards}

[finetune]
queries = "{data}:train"
steps = 20
batch = 8
learning_rate = 1e-3
query_length = 24
passage_length = 64
bucket = 4
negatives = 1
checkpoint_every = 5
log_every = 1
shards = {shards}

[mine]
depth = 10
queries = 40

[representation]
dense = 16
terms = 16

[evaluate]
datasets = ["{data}:test"]
select = "{data}:val"
measures = ["MRR@10", "nDCG@10"]
"""


def killed_checks(setting: Setting) -> Iterator[Check]:
    """Yield the check of a run that is killed and resumed."""
    yield Check("killed and resumed", partial(_compare_killed, setting))


def process_checks(setting: Setting) -> Iterator[Check]:
    """Yield the check of a run by two processes."""
    yield Check("two processes beside two shards", partial(_compare_processes, setting))


def _compare_killed(setting: Setting) -> str:
    """Compare the files of a run that was killed behind a checkpoint, and resumed, with those of an unbroken run."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        track = _write_track(folder, shards=1)
        _require_success(_start(track, folder / "whole", setting))
        killed_at = _kill_behind_checkpoint(_start(track, folder / "broken", setting), folder / "broken")
        _require_success(_start(track, folder / "broken", setting))
        whole = _read_files(folder / "whole")
        resumed = _read_files(folder / "broken")
    if whole.keys() != resumed.keys():
        raise UnequalError(f"files of one run alone: {sorted(whole.keys() ^ resumed.keys())[:3]}")
    different = sorted(path for path, content in whole.items() if content != resumed[path])
    if different:
        raise UnequalError(f"{len(different)} of {len(whole)} files differ: {', '.join(different[:3])}")
    return f"killed in {killed_at}; {len(whole)} files of the resumed run are equal byte for byte"


def _compare_processes(setting: Setting) -> str:
    """Compare the losses of two processes with those of one process that takes both shards in turn."""
    if setting.cuda and torch.cuda.device_count() < 2:
        raise SkippedError("there is one GPU")
    with TemporaryDirectory() as name:
        folder = Path(name)
        track = _write_track(folder, shards=2)
        _require_success(_start(track, folder / "one", setting, ONE_THREAD))
        ranks = _start_ranks(track, folder / "two", setting)
        for process in ranks:
            _require_success(process)
        one = _read_losses(folder / "one")
        two = _read_losses(folder / "two")
    return require_close(torch.tensor(two), torch.tensor(one), 0.05, f"losses of {len(one)} steps")


def _write_track(folder: Path, shards: int) -> Path:
    data = folder / "data"
    _write_collection(data)
    track = folder / "acceptance.toml"
    track.write_text(TRACK.format(data=data, shards=shards), "utf-8")
    return track


def _write_collection(folder: Path) -> None:
    """Write passages and questions in BEIR's layout: the first questions of each split, and passages beside them."""
    (folder / "qrels").mkdir(parents=True)
    register()
    documents = {document.id: document for document in load(f"{SOURCE}/test").documents()}
    chosen: dict[str, Any] = {}
    queries = []
    for split, (source, count) in SPLITS.items():
        dataset = load(source)
        texts = {query.id: query.text for query in dataset.queries()}
        lines = ["query-id\tcorpus-id\tscore\n"]
        for query_id, judgements in islice(dataset.qrels().items(), count):
            queries.append({"_id": query_id, "text": texts[query_id]})
            for document_id, grade in judgements.items():
                chosen[document_id] = documents[document_id]
                lines.append(f"{query_id}\t{document_id}\t{grade}\n")
        (folder / "qrels" / f"{split}.tsv").write_text("".join(lines), "utf-8")
    for document_id, document in documents.items():
        if len(chosen) >= PASSAGES:
            break
        chosen.setdefault(document_id, document)
    rows = [{"_id": document.id, "title": document.title, "text": document.text} for document in chosen.values()]
    _write_lines(folder / "corpus.jsonl", rows)
    _write_lines(folder / "queries.jsonl", queries)


def _write_lines(file: Path, rows: Iterable[Mapping[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _start(
    track: Path, folder: Path, setting: Setting, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a run with a store and a leaderboard in `folder`."""
    words = ["run", "--objective", OBJECTIVE, "--track", str(track)]
    words += ["--store", str(folder / "store"), "--leaderboard", str(folder / "boards")]
    variables = {**os.environ, **(environment or {})}
    if not setting.cuda:
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.Popen(
        [*COMMAND, *words], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _start_ranks(track: Path, folder: Path, setting: Setting) -> list[subprocess.Popen[str]]:
    """Start a run by two processes of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**ONE_THREAD, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = []
    for rank in ("0", "1"):
        running.append(_start(track, folder, setting, {**shared, "RANK": rank, "LOCAL_RANK": rank}))
    return running


def _require_success(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    if process.returncode:
        print(errors, file=sys.stderr)
        last_line = (errors.splitlines() or ["without a message"])[-1]
        raise UnequalError(f"a run ended with exit code {process.returncode}: {last_line}")


def _kill_behind_checkpoint(process: subprocess.Popen[str], folder: Path) -> str:
    """Kill a run at its first checkpoint; return the stage and the checkpoint."""
    while process.poll() is None:
        for checkpoint in folder.glob("store/*/*.partial/step-*[0-9]"):
            process.kill()
            process.communicate()
            return f"{checkpoint.parts[-3]} behind {checkpoint.name}"
        time.sleep(POLL)
    _require_success(process)
    raise UnequalError("the run ended before it could be killed")


def _read_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a store by name, without locks, and without the files that hold dates and costs."""
    store = folder / "store"
    files = {}
    for file in sorted(store.rglob("*")):
        if file.is_file() and file.suffix != ".lock" and file.name not in ("entry.json", "state.json", "SHA256SUMS"):
            files[str(file.relative_to(store))] = file.read_bytes()
    return files


def _read_losses(folder: Path) -> list[float]:
    """Return the losses of every pre-training step, one step's behind the other's."""
    (log,) = folder.glob("store/pretrain/*/log.jsonl")
    losses = []
    for line in log.read_text("utf-8").splitlines():
        record = json.loads(line)
        losses += [value for name, value in record.items() if name not in ("step", "rate", "gradient_norm")]
    return losses
