"""A run that is killed in each stage and resumed ends bit for bit like an unbroken run."""

from __future__ import annotations

import fnmatch
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny

# The killed runs are forked from a process with all imports done, which starts them quickly. The unbroken run is a
# new process.
FORKING = multiprocessing.get_context("forkserver") if sys.platform != "win32" else None
IMPORTS = [
    "retrobench.runs.sweep",
    "retrobench.leaderboard.tables",
    "transformers.models.bert.modeling_bert",
    "faiss",
    "ranx",
    "pytrec_eval",
]


class Kill(NamedTuple):
    """The moment of a kill: a run opens `file`, and `beside` and `finished` entries of the stage exist.

    Without a file, the run is about to rename the stage's folder to its final name.
    """

    stage: str
    file: str
    beside: str
    finished: int = 0
    key: str = "?" * 20


# In the order of the chain, so that each run resumes where the previous run was killed.
KILLS = {
    "tokenise": Kill("tokenise", "lengths.npy", "tokens.bin"),
    "pretrain": Kill("pretrain", "step-000000004.new/state.json", "step-000000002/state.safetensors"),
    "begin of a probe": Kill("pretrain", "probe/config.json", "step-000000002/state.safetensors"),
    "encoding of a probe": Kill("pretrain", "probe/passage/ids.json.partial", "probe/passage/dense.npy"),
    "export of pretrain": Kill("pretrain", "tokenizer_config.json", "model.safetensors"),
    "entry of pretrain": Kill("pretrain", "entry.json.partial", "step-000000006/state.safetensors"),
    "rename of pretrain": Kill("pretrain", "", "step-000000006/state.safetensors"),
    "finetune": Kill("finetune", "step-000000004.new/state.json", "step-000000002/state.safetensors"),
    "export of finetune": Kill("finetune", "2_Dense/config.json", "1_Pooling/config.json"),
    "encode": Kill("encode", "ids.json.partial", "dense.npy"),
    "mine": Kill("mine", "candidates.npy", ""),
    "finetune on mined": Kill("finetune", "step-000000004.new/state.json", "step-000000002/state.safetensors", 1),
    "search": Kill("search", "run.trec", "rows.npy"),
    "score": Kill("score", "per_query.json", "scores.json"),
}


SETTINGS = (
    *("pretrain.precision=auto", "finetune.precision=auto"),
    *("pretrain.probe_every=2", "pretrain.probe_steps=2", "pretrain.probe_documents=20"),
)


def options(track: tiny.Tiny) -> list[str]:
    words = track.options("dupmae")
    for setting in SETTINGS:
        words += ["--set", setting]
    return words


def run(words: list[str], log: Path, event: str, pattern: str, connection: Connection) -> None:
    """Run `retrobench` in this process, and wait before an audit event with a path that fits the pattern."""
    from retrobench.cli import main

    def watch(name: str, arguments: tuple[object, ...]) -> None:
        has_path = name == event and isinstance(arguments[0], str | os.PathLike)
        if has_path and fnmatch.fnmatch(str(arguments[0]), pattern):
            connection.send("opening")
            time.sleep(600)

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv[1:] = words
    sys.addaudithook(watch)
    main()


def killed(words: list[str], track: tiny.Tiny, kill: Kill) -> str:
    """Kill a run in the middle of a stage, and return its output."""
    assert FORKING
    log = track.store.with_name("killed.log")
    log.unlink(missing_ok=True)
    receiver, sender = FORKING.Pipe(duplex=False)
    event, pattern = "os.rename", f"{track.store}/{kill.stage}/{kill.key}.partial"
    if kill.file:
        event, pattern = "open", f"{pattern}/{kill.file}"
    process = FORKING.Process(target=run, args=(words, log, event, pattern, sender))
    process.start()
    sender.close()
    try:
        wait([receiver, process.sentinel], timeout=600)
        assert process.is_alive() and receiver.poll(), f"not killed in {kill.stage}:\n{log.read_text()}"
        (partial,) = track.store.glob(f"{kill.stage}/*.partial")
        assert (partial / kill.beside).exists()
        assert not partial.with_suffix("").exists()
        assert len(track.finished(kill.stage)) == kill.finished
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL, log.read_text()
    return log.read_text()


def contents(store: Path) -> dict[str, bytes]:
    """Return the files of all stages by name, without the files that hold dates and costs."""
    files = {}
    for file in store.rglob("*"):
        if file.is_file() and file.suffix != ".lock" and file.name not in ("entry.json", "state.json", "SHA256SUMS"):
            files[str(file.relative_to(store))] = file.read_bytes()
    return files


@pytest.mark.skipif(FORKING is None, reason="needs fork")
def test_a_run_killed_in_each_stage_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FORKING
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    FORKING.set_forkserver_preload(IMPORTS)
    broken = tiny.make(tmp_path)
    whole = broken._replace(store=tmp_path / "whole", boards=tmp_path / "whole-boards")
    main = [sys.executable, "-c", "from retrobench.cli import main; main()"]
    unbroken = subprocess.Popen([*main, *options(whole)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    outputs = {}
    for name, kill in KILLS.items():
        outputs[name] = killed(options(broken), broken, kill)
    _, sender = FORKING.Pipe(duplex=False)
    last = FORKING.Process(target=run, args=(options(broken), tmp_path / "last.log", "", "", sender))
    last.start()
    errors = unbroken.communicate()[1]
    last.join()
    assert (last.exitcode, unbroken.returncode) == (0, 0), errors

    assert "\npretrain dupmae seed 0: resuming, an earlier run was cut short\n" in outputs["export of pretrain"]
    for name in ("begin of a probe", "encoding of a probe", "export of pretrain"):
        assert "\ncontinuing at step 2 of 6\n" in outputs[name]
    assert "\ncontinuing at step 6 of 6\n" in outputs["entry of pretrain"], "an interrupted export trains nothing twice"
    assert "\ncontinuing at step 6 of 6\n" in outputs["rename of pretrain"]
    assert "\npretrain dupmae seed 0: complete, an earlier run was cut short" in outputs["finetune"]
    assert "pretrain dupmae: 6/6 steps" not in outputs["finetune"]
    assert "\ncontinuing at step 2 of 6\n" in outputs["export of finetune"]
    assert "\ncontinuing at step 6 of 6\n" in outputs["encode"]
    assert "\ncontinuing at step 2 of 6\n" in outputs["search"]
    unbroken_files = contents(whole.store)
    resumed_files = contents(broken.store)
    file_names = {Path(path).name for path in unbroken_files}
    assert file_names >= {"model.safetensors", "run.trec", "scores.json"}
    (kept,) = broken.store.glob("pretrain/*.checkpoint")
    assert f"pretrain/{kept.name}/state.safetensors" in unbroken_files
    assert list(broken.store.glob("**/step-*")) == []
    assert resumed_files.keys() == unbroken_files.keys()
    for path, content in resumed_files.items():
        assert content == unbroken_files[path], path
    (log,) = broken.store.glob("pretrain/*/log.jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in records if "probe" in record] == [2, 4, 6]
    (unbroken_row,) = whole.rows()
    (resumed_row,) = broken.rows()
    for name in ("measures", "artifacts", "selection", "content", "identity"):
        assert resumed_row[name] == unbroken_row[name]
    assert resumed_row["cost"]["pretrain"]["tokens"] == unbroken_row["cost"]["pretrain"]["tokens"]
