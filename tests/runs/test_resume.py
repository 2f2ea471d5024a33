"""Killed in the middle of each stage in turn and started again, a run ends bit for bit like one that was left alone."""

from __future__ import annotations

import fnmatch
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

# Forked from a process that has imported what a run imports, each of the runs is a process of its own within a
# moment. The one that is left alone starts from nothing.
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
    """In which stage a run is killed: about to open `file`, when `beside` is written and `finished` others are done."""

    stage: str
    file: str
    beside: str
    finished: int = 0
    key: str = "*"


# In the order of the chain, so that each run goes on from where the last one was killed.
KILLS = {
    "tokenise": Kill("tokenise", "lengths.npy", "tokens.bin"),
    "pretrain": Kill("pretrain", "step-000000004.new/state.json", "step-000000002/state.safetensors"),
    "export of pretrain": Kill("pretrain", "tokenizer_config.json", "model.safetensors"),
    "finetune": Kill("finetune", "step-000000004.new/state.json", "step-000000002/state.safetensors"),
    "export of finetune": Kill("finetune", "2_Dense/config.json", "1_Pooling/config.json"),
    "encode": Kill("encode", "ids.json.partial", "dense.npy"),
    "mine": Kill("mine", "candidates.npy", ""),
    "finetune on mined": Kill("finetune", "step-000000004.new/state.json", "step-000000002/state.safetensors", 1),
    "search": Kill("search", "run.trec", "rows.npy"),
    "score": Kill("score", "per_query.json", "scores.json"),
}


def options(made: tiny.Tiny) -> list[str]:
    return [*made.options("dupmae"), "--set", "pretrain.precision=auto", "--set", "finetune.precision=auto"]


def run(words: list[str], log: Path, pattern: str, there: Connection) -> None:
    """`retrobench` in this process, until it is about to open a file that fits the pattern: there it waits."""
    from retrobench.cli import main

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        named = event == "open" and isinstance(arguments[0], str | os.PathLike)
        if named and fnmatch.fnmatch(str(arguments[0]), pattern):
            there.send("there")
            time.sleep(600)

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv[1:] = words
    sys.addaudithook(watch)
    main()


def killed(words: list[str], made: tiny.Tiny, kill: Kill) -> str:
    """What a run said until it was killed in the middle of a stage."""
    assert FORKING
    log = made.store.with_name("killed.log")
    log.unlink(missing_ok=True)
    here, there = FORKING.Pipe(duplex=False)
    pattern = f"{made.store}/{kill.stage}/{kill.key}.partial/{kill.file}"
    process = FORKING.Process(target=run, args=(words, log, pattern, there))
    process.start()
    there.close()
    try:
        wait([here, process.sentinel], timeout=100)
        assert process.is_alive() and here.poll(), f"not killed in {kill.stage}:\n{log.read_text()}"
        (partial,) = made.store.glob(f"{kill.stage}/*.partial")
        assert (partial / kill.beside).exists() and not partial.with_suffix("").exists()
        assert len(made.finished(kill.stage)) == kill.finished
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    return log.read_text()


def contents(store: Path) -> dict[str, bytes]:
    """All that the stages wrote, by name; an entry's own description holds dates and costs."""
    skipped = {"entry.json"}
    files = [file for file in store.rglob("*") if file.is_file() and file.suffix != ".lock"]
    return {str(file.relative_to(store)): file.read_bytes() for file in files if file.name not in skipped}


@pytest.mark.skipif(FORKING is None, reason="needs fork")
def test_killed_in_each_stage_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FORKING
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    FORKING.set_forkserver_preload(IMPORTS)
    broken = tiny.make(tmp_path)
    whole = broken._replace(store=tmp_path / "whole", boards=tmp_path / "whole-boards")
    main = [sys.executable, "-c", "from retrobench.cli import main; main()"]
    unbroken = subprocess.Popen([*main, *options(whole)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = {name: killed(options(broken), broken, kill) for name, kill in KILLS.items()}
    _, there = FORKING.Pipe(duplex=False)
    last = FORKING.Process(target=run, args=(options(broken), tmp_path / "last.log", "", there))
    last.start()
    errors = unbroken.communicate()[1]
    last.join()
    assert (last.exitcode, unbroken.returncode) == (0, 0), errors

    assert "\npretrain dupmae seed 0: resuming, an earlier run was cut short\n" in said["export of pretrain"]
    assert "\ncontinuing at step 2\n" in said["export of pretrain"]
    assert "\ncontinuing at step 4\n" in said["finetune"], "a cut export does not cost the training"
    assert "\ncontinuing at step 2\n" in said["export of finetune"]
    assert "\ncontinuing at step 4\n" in said["encode"]
    assert "\ncontinuing at step 2\n" in said["search"]
    expected, found = contents(whole.store), contents(broken.store)
    assert {Path(name).name for name in expected} >= {"model.safetensors", "run.trec", "scores.json"}
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    (row,), (other,) = whole.rows(), broken.rows()
    for name in ("measures", "artifacts", "selection", "chosen", "identity"):
        assert row[name] == other[name]
    assert row["cost"]["pretrain"]["tokens"] == other["cost"]["pretrain"]["tokens"]
