"""Machines, stages and estimates by hand, for the tests of the plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from retrobench import config
from retrobench.config import Experiment, discover
from retrobench.leaderboard.rows import folders
from retrobench.plan import machines
from retrobench.plan.arithmetic import Shape
from retrobench.plan.estimate import estimate_needs
from retrobench.plan.machines import Machine, Shares
from retrobench.plan.needs import ExperimentNeeds, StageNeeds, StepMemory

H200 = machines.find("h200")
BOX = Machine(
    name="box",
    peak=1e9,
    peak_source="by hand",
    memory=2.0**35,
    shares=Shares(pretrain=0.5, finetune=0.25, encode=0.1, source="by hand"),
    gpu=False,
    cores=2,
    host=2.0**35,
)
TINY = Shape(layers=1, hidden=10, intermediate=40, vocabulary=100)

TRACK = """
[model]
base = "retrobench/base"
[pretrain]
corpus = ["{data}"]
steps = 10
batch = 2
learning_rate = 1e-3
max_length = 64
[finetune]
queries = "{data}:train"
epochs = 5
batch = 2
learning_rate = 1e-3
query_length = 12
passage_length = 32
[evaluate]
datasets = ["{data}:train"]
"""


def plan_needs(track: str, *overrides: str, objective: str = "retromae", board: Path | None = None) -> ExperimentNeeds:
    """Estimate the needs of an objective under a track with changed settings."""
    changed_track = config.read_track(folders.locate(track, board), track, overrides)
    entrant = config.read_entrant(objective, discover(), overrides)
    return estimate_needs(Experiment(changed_track, entrant, 0))


def stage_names(needs: ExperimentNeeds) -> list[str]:
    return [stage.name for stage in needs.stages]


def find_stage(needs: ExperimentNeeds, name: str) -> StageNeeds:
    for stage in needs.stages:
        if stage.name == name:
            return stage
    raise AssertionError(f"{name} is not among {stage_names(needs)}")


def tiny_training(section: str, batch: int, shards: int = 1) -> StageNeeds:
    """Return a training stage of a tiny model on examples of 1,000 tokens."""
    step = StepMemory(TINY, batch, 1000, shards, couples=section == "finetune")
    return StageNeeds(section, (), section=section, step=step)


def card_for(examples: float) -> Machine:
    """Return a GPU that holds so many examples of `tiny_training`: 68 bytes for each token, layer and unit of width."""
    step = StepMemory(TINY, 1, 1000)
    assert step.example_bytes == 68 * 10 * 1000
    assert step.fixed_bytes == 18 * TINY.parameters + 2.5 * 2**30
    return replace(H200, memory=(step.fixed_bytes + examples * step.example_bytes) / 0.95)


def write_small_board(root: Path) -> Path:
    """Write a leaderboard with one track, of 4 documents of 10 words and 2 training queries of 5; return its folder."""
    data = root / "data"
    (data / "qrels").mkdir(parents=True)
    text = " ".join(["word"] * 8)
    documents = [{"_id": f"d{number}", "title": "one two", "text": text} for number in range(4)]
    queries = [{"_id": f"q{number}", "text": "a b c d e"} for number in range(2)]
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps(line) + "\n" for line in texts]
        (data / f"{name}.jsonl").write_text("".join(lines))
    judgements = "q0\td0\t1\nq0\td1\t1\nq1\td2\t1\nq1\td3\t0\n"
    (data / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgements)
    folder = root / "boards" / "small"
    folder.mkdir(parents=True)
    (folder / "track.toml").write_text(TRACK.format(data=data))
    return folder.parent
