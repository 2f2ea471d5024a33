"""
Kill runs by SIGKILL, over all stages, and compare every finished run with an unbroken one.

    python tests/faults.py --kills 100 --seed 0

Each run is killed several times: first at renames that no run was killed at yet, before or behind them in turn, then at
random instants. It is resumed each time and ends when no kill is left for it. Runs of one and of two processes take
turns. The campaign exits with 1 at the first file that differs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

import tiny

FORKING = multiprocessing.get_context("forkserver")
IMPORTS = ["retrobench.runs.sweep", "transformers.models.bert.modeling_bert", "faiss", "ranx", "pytrec_eval"]
DATED = ("entry.json", "state.json", "SHA256SUMS")  # files with dates or costs
PER_RUN = 12  # most kills within a run
LIMIT = 300.0  # seconds of one attempt, which a machine of two busy cores never needs
PATIENCE = 20.0  # seconds until the rank that is left ends
SETTINGS = ["pretrain.shards=2", "finetune.shards=2", "pretrain.steps=4", "finetune.steps=4", "mine.queries=20"]


class Plan(NamedTuple):
    """The kill of an attempt: at a rename not named in `passed`, or `seconds` behind its start."""

    passed: frozenset[str] = frozenset()
    behind: bool = False  # the rename, rather than before it
    seconds: float = 0.0
    victim: int = 0  # the rank that is killed first


def attempt(words: list[str], environment: dict[str, str], log: Path, plan: Plan | None, notes: Path) -> None:
    """Run `retrobench` in this process, and kill the process as planned."""
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    from retrobench.cli import main

    torch.set_num_threads(1)
    if plan is not None and not plan.seconds and environment["RANK"] == "0":
        watch_renames(plan, notes)
    sys.argv[1:] = words
    main()


def watch_renames(plan: Plan, notes: Path) -> None:
    """Write the name of the first rename that no run was killed at, and kill this process there."""
    replace = os.replace

    def kill_at(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
        name = rename_name(str(source), str(target))
        if name in plan.passed:
            replace(source, target)
            return
        notes.write_text(name)
        if plan.behind:
            replace(source, target)
        os.kill(os.getpid(), signal.SIGKILL)

    os.replace = kill_at  # type: ignore[assignment]


def rename_name(source: str, target: str) -> str:
    """Return a name of a rename that is equal in all runs: stage, key and file."""
    paths = [re.sub(r"^.*/(store|boards)/", r"\1/", path) for path in (source, target)]
    return " ".join(paths)


def run_once(words: list[str], folder: Path, count: int, plan: Plan | None) -> tuple[bool, str]:
    """Run once in `count` processes. Return whether the run was killed, and at which rename."""
    notes = folder / "rename"
    notes.unlink(missing_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = []
    for rank in range(count):
        environment = {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RETROBENCH_PATIENCE": str(LIMIT)}
        arguments = (words, environment, folder / f"log-{rank}", plan, notes)
        ranks.append(FORKING.Process(target=attempt, args=arguments))
    for process in ranks:
        process.start()
    leader = ranks[0]
    if plan is not None and plan.seconds:
        leader.join(plan.seconds)
        if leader.exitcode is None:
            ranks[plan.victim].kill()
            time.sleep(0.2)
            end(ranks, 0)
            return True, ""
    leader.join(LIMIT)
    end(ranks, PATIENCE if leader.exitcode == 0 else 0)
    if leader.exitcode == -signal.SIGKILL and notes.exists():
        return True, notes.read_text()
    if [process.exitcode for process in ranks] != [0] * count:
        logs = [(folder / f"log-{rank}").read_text()[-3000:] for rank in range(count)]
        sys.exit(f"A run in {folder} ended with {[process.exitcode for process in ranks]}:\n" + "\n".join(logs))
    return False, ""


def end(ranks: list[ForkServerProcess], seconds: float) -> None:
    """Give each process some seconds to end, then kill it."""
    for process in ranks:
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()


def contents(store: Path) -> dict[str, bytes]:
    """Return the files of a store by name, without locks and files that hold dates or costs."""
    files = {}
    for file in store.rglob("*"):
        if file.is_file() and file.suffix not in (".lock", ".holder") and file.name not in DATED:
            files[str(file.relative_to(store))] = file.read_bytes()
    return files


class Campaign:
    """Runs of one and of two processes, killed `kills` times in all."""

    def __init__(self, folder: Path, kills: int, seed: int) -> None:
        self.folder = folder
        self.kills_left = kills
        self.draw = random.Random(seed)
        self.track = tiny.make(folder)
        self.wholes: dict[int, dict[str, bytes]] = {}
        self.seconds: dict[int, float] = {}  # of an unbroken run
        self.passed: dict[int, frozenset[str]] = {1: frozenset(), 2: frozenset()}
        self.are_all_passed = {1: False, 2: False}  # all renames of a run
        self.in_stages: set[str] = set()
        self.runs = 0

    def words(self, name: str) -> list[str]:
        """Return the command line of a run with a store of its own."""
        track = self.track._replace(store=self.folder / name / "store", boards=self.folder / name / "boards")
        words = track.options("dupmae")
        for setting in SETTINGS:
            words += ["--set", setting]
        return words

    def run_whole(self, count: int) -> None:
        """Run without a kill, for the files that every other run has to end with."""
        folder = self.folder / f"whole-{count}"
        folder.mkdir()
        start = time.monotonic()
        run_once(self.words(folder.name), folder, count, None)
        self.seconds[count] = time.monotonic() - start
        self.wholes[count] = contents(folder / "store")

    def run_killed(self, count: int) -> None:
        """Kill and resume a run up to PER_RUN times, let it end, and compare its files."""
        folder = self.folder / "broken"
        folder.mkdir()
        words = self.words(folder.name)
        is_killed = True
        for number in range(min(PER_RUN, self.kills_left)):
            plan = self.plan(count, number)
            is_killed, name = run_once(words, folder, count, plan)
            if not is_killed:
                self.are_all_passed[count] |= not plan.seconds
                break
            self.kills_left -= 1
            if name:
                self.passed[count] |= {name}
            self.in_stages |= {partial.parent.name for partial in folder.glob("store/*/*.partial")}
        if is_killed:
            run_once(words, folder, count, None)
        self.compare(count, contents(folder / "store"))
        self.runs += 1
        shutil.rmtree(folder)

    def plan(self, count: int, number: int) -> Plan:
        """Return the next kill: three of four at a rename while there are new ones, the others at an instant."""
        if number % 4 == 3 or self.are_all_passed[count]:
            seconds = self.draw.uniform(0.05, 0.6 * self.seconds[count])
            return Plan(seconds=seconds, victim=self.draw.randrange(count))
        return Plan(self.passed[count], behind=self.draw.random() < 0.5)

    def summary(self, kills: int) -> str:
        """Describe the kills and the runs."""
        renames = []
        for count, names in self.passed.items():
            share = "all " if self.are_all_passed[count] else ""
            renames.append(f"at {share}{len(names)} renames of {count} process{'es' * (count > 1)}")
        stages = ", ".join(sorted(self.in_stages))
        return f"{kills} kills, {' and '.join(renames)}, in {stages}; {self.runs} finished runs are bit-identical"

    def compare(self, count: int, files: dict[str, bytes]) -> None:
        """Exit where a file of a finished run differs from that of the unbroken run."""
        whole = self.wholes[count]
        different = sorted(name for name in whole.keys() | files.keys() if files.get(name) != whole.get(name))
        if different:
            sys.exit(f"{len(different)} files of a run by {count} processes differ: {', '.join(different[:5])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    FORKING.set_forkserver_preload(IMPORTS)
    start = time.monotonic()
    with TemporaryDirectory() as name:
        campaign = Campaign(Path(name), arguments.kills, arguments.seed)
        for count in (1, 2):
            campaign.run_whole(count)
        while campaign.kills_left > 0:
            campaign.run_killed(1 + campaign.runs % 2)
    seconds = time.monotonic() - start
    print(f"{campaign.summary(arguments.kills)}; seed {arguments.seed}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
