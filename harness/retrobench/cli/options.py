"""The arguments and options of the commands, by the names that the commands give them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from retrobench.errors import RetrobenchError

__all__ = [
    "Archive",
    "AsDistribution",
    "AsJson",
    "BenchLeaderboard",
    "Benchmarks",
    "Bounds",
    "ClaimedTable",
    "ComparedMeasure",
    "CoverageDatasets",
    "Datasets",
    "Device",
    "DryRun",
    "Dtype",
    "Energy",
    "FirstSystem",
    "Force",
    "Format",
    "Fresh",
    "Gpus",
    "Hardware",
    "HeadModel",
    "Index",
    "Judged",
    "Leaderboard",
    "Length",
    "Level",
    "Limit",
    "Measured",
    "Measures",
    "Model",
    "NewName",
    "NoTexts",
    "ObjectiveOrPath",
    "Objectives",
    "OfQueries",
    "OneId",
    "OneJson",
    "Overrides",
    "Pairs",
    "PerQuery",
    "PlannedObjective",
    "Plugins",
    "Pooling",
    "Prefix",
    "Qrels",
    "Quiet",
    "ReportFolder",
    "ReportedTracks",
    "ResultFile",
    "RowsFile",
    "Run",
    "SecondSystem",
    "Seeds",
    "Shown",
    "ShownObjective",
    "ShownRow",
    "Similarity",
    "Smoke",
    "Store",
    "StoreItems",
    "Target",
    "ToArchive",
    "Track",
    "Tracker",
    "Verbose",
    "Verified",
    "Wide",
]


def _read_limit(text: str) -> int:
    """Return a number of documents. RetrobenchError, one line, in place of the parser's usage text."""
    limit = int(text) if text.isdecimal() else 0
    if limit < 1:
        raise RetrobenchError(f"--limit must be a whole number, at least 1, got {text!r}.")
    return limit


def _set_quiet(value: bool) -> None:
    from retrobench.core import set_verbosity

    if value:
        set_verbosity(0)


def _set_verbose(value: bool) -> None:
    from retrobench.core import set_verbosity

    if value:
        set_verbosity(2)


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_set_quiet, expose_value=False, help="Print the result alone.")
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", callback=_set_verbose, expose_value=False, help="Say why each stage is new or cached."
    ),
]


def _set_wide(value: bool) -> None:
    from retrobench.core import set_width

    if value:
        set_width(None)


Wide = Annotated[
    bool,
    typer.Option(
        "--wide", callback=_set_wide, expose_value=False, help="Print every column, beyond the terminal's edge."
    ),
]
Objectives = Annotated[
    list[str],
    typer.Option("--objective", "-o", metavar="NAME[:PRESET]", help="An objective or a .toml file; repeatable."),
]
Track = Annotated[str, typer.Option(metavar="NAME", help="A track or a .toml file.")]
Shown = Annotated[str, typer.Argument(metavar="TRACK", help="A track or a .toml file.")]
Verified = Annotated[str, typer.Argument(metavar="[TRACK]", help="A track or a .toml file; by default all with rows.")]
ShownRow = Annotated[str, typer.Argument(metavar="ROW", help="The start of a row's id, or TRACK:ENTRANT:SEED.")]
ReportedTracks = Annotated[
    list[str] | None, typer.Argument(metavar="TRACK", help="The tracks, by default all with rows.")
]
ReportFolder = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="The folder of report.html, by default here.")
]
NoTexts = Annotated[bool, typer.Option("--no-texts", help="Leave the texts of questions and passages out.")]
Pairs = Annotated[
    Any,  # a list of tuples, see `groups.Pairing`
    typer.Option(
        "--pair",
        metavar="A B",
        help="Two lines, such as retromae and mini:mlm, whose differing questions have passages; may be repeated.",
    ),
]
FirstSystem = Annotated[
    str, typer.Argument(metavar="A", help="A row, TRACK:ENTRANT with all its seeds, or a TREC run file.")
]
SecondSystem = Annotated[str, typer.Argument(metavar="B", help="Another; differences are A minus B.")]
ComparedMeasure = Annotated[
    str | None, typer.Option("--measure", metavar="M", help="The measure, by default the first that both have.")
]
Seeds = Annotated[
    list[int],
    typer.Option(
        "--seed",
        default_factory=lambda: [0],
        show_default=False,
        min=0,
        metavar="N",
        help="A seed, 0 if none is given; repeatable.",
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        default_factory=list,
        show_default=False,
        metavar="KEY=VALUE",
        help="A setting to override; repeatable.",
    ),
]
Plugins = Annotated[
    list[Path],
    typer.Option(
        "--plugin",
        default_factory=list,
        show_default=False,
        metavar="FILE|FOLDER",
        help="A .py file, a folder of such files, or a package with objectives; repeatable.",
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="The folder of finished stages, by default $RETROBENCH_HOME or ~/.cache/retrobench."
    ),
]
Leaderboard = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The folder of rows and tracks, by default ./leaderboards."),
]
BenchLeaderboard = Annotated[
    Path | None, typer.Option("--leaderboard", metavar="DIR", help="The folder of results, by default ./leaderboards.")
]
Limit = Annotated[
    int | None,
    typer.Option(
        parser=_read_limit,
        metavar="N",
        help="A trial on at most N documents and N questions of each dataset, with trainings of two passes over them; "
        "its rows stand in a table of their own.",
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Run every stage again.")]
AllowOverlap = Annotated[
    bool,
    typer.Option("--allow-overlap", help="Test on questions of the training too; the row and its table say so."),
]
Checkpoints = Annotated[
    bool,
    typer.Option(
        "--keep-checkpoints/--discard-checkpoints",
        help="Keep the last checkpoint of each pre-training in the store, or remove it, earlier kept ones too.",
    ),
]
Tracker = Annotated[
    str | None, typer.Option(metavar="tensorboard|wandb|trackio", help="Send losses to a tracker too, offline.")
]
Energy = Annotated[bool, typer.Option("--energy", help="Measure the energy of each new stage, by codecarbon, offline.")]
Format = Annotated[str, typer.Option(metavar="text|md|csv|json|latex", help="The format of the tables.")]
BaselineName = Annotated[
    str | None, typer.Option("--baseline", metavar="NAME", help="The entrant to compare with, by default mlm, or bert.")
]
ShownMeasures = Annotated[
    list[str],
    typer.Option(
        "--measure", default_factory=list, show_default=False, metavar="M", help="A measure to show; repeatable."
    ),
]
ShownColumns = Annotated[
    str, typer.Option("--columns", metavar="NAME,...", help="The columns to show beside the measures.")
]
Label = Annotated[str, typer.Option(metavar="NAME", help="The label of a LaTeX table.")]
Caption = Annotated[str, typer.Option(metavar="TEXT", help="The caption of a LaTeX table.")]
ObjectiveOrPath = Annotated[
    str, typer.Argument(metavar="NAME|FILE|FOLDER", help="An objective, or a plugin: a file PATH.py or ./FOLDER.")
]
ShownObjective = Annotated[str, typer.Argument(metavar="NAME[:PRESET]", help="An objective, maybe with a preset.")]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="The new objective's name, such as first-words.")]
AsDistribution = Annotated[
    bool, typer.Option("--distribution", help="Write a folder retrobench-NAME that pip installs, with a test.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON array.")]
Hardware = Annotated[str, typer.Option(metavar="h200|a100|v100|this", help="The machine to plan for.")]
Gpus = Annotated[int, typer.Option(min=1, metavar="N", help="The number of GPUs.")]
Measured = Annotated[
    list[str], typer.Argument(metavar="MODEL|ROW ...", help="Rows by id or TRACK:ENTRANT:SEED, folders, hub ids.")
]
CoverageDatasets = Annotated[
    list[str], typer.Option("--dataset", metavar="ID", help="An ir_datasets id or a folder PATH[:SPLIT]; repeatable.")
]
OfQueries = Annotated[bool, typer.Option("--queries", help="Measure the dataset's queries instead of its documents.")]
HeadModel = Annotated[
    str | None, typer.Option("--head", metavar="MODEL", help="A model whose head projects MODEL's vectors too.")
]
Datasets = Annotated[
    list[str],
    typer.Option("--dataset", metavar="ID", help="An ir_datasets id, a folder PATH[:SPLIT], or `beir`; repeatable."),
]
Measures = Annotated[
    list[str],
    typer.Option(
        "--measure",
        default_factory=list,
        show_default=False,
        metavar="M",
        help="A measure, such as nDCG@10 or RR(rel=2)@10, by default the dataset's own; repeatable.",
    ),
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A sentence-transformers or Hugging Face encoder.")]
Pooling = Annotated[
    str | None, typer.Option(metavar="cls|mean|...", help="The pooling, if the model does not name it.")
]
Prefix = Annotated[str | None, typer.Option(metavar="TEXT", help="The prefix in place of the model's prompt.")]
Length = Annotated[int | None, typer.Option(metavar="N", min=3, help="The most tokens per text.")]
Similarity = Annotated[str | None, typer.Option(metavar="dot|cos", help="The similarity in place of the model's.")]
Dtype = Annotated[str | None, typer.Option(metavar="float32|bfloat16|float16", help="The type of the model's numbers.")]
Index = Annotated[
    str | None,
    typer.Option(
        metavar="FACTORY", help="exact, or a factory string of faiss for an approximate index, such as IVF64,Flat."
    ),
]
Target = Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write, which must be new.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A TREC run file, gzipped or not.")]
Judged = Annotated[str | None, typer.Option("--dataset", metavar="ID", help="The dataset of the judgements and rules.")]
Qrels = Annotated[Path | None, typer.Option(metavar="FILE", help="Judgements in TREC's format.")]
Level = Annotated[int | None, typer.Option(metavar="N", min=1, help="The least relevant grade.")]
Bounds = Annotated[bool, typer.Option("--bounds", help="Compute the measures without unjudged hits too.")]
PerQuery = Annotated[bool, typer.Option("--per-query", help="Print the values of every query too.")]
OneJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
OneId = Annotated[str, typer.Argument(metavar="ID", help="A dataset id or a folder PATH[:SPLIT].")]
Against = Annotated[
    str | None, typer.Option(metavar="ID", help="A dataset to train on; questions that it shares are a fault.")
]
ClaimedTable = Annotated[str, typer.Argument(metavar="[TABLE]", help="Such as retromae/table-2, by default all.")]
RowsFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Rows of any track to compare with the table.")]
Conflicts = Annotated[bool, typer.Option("--conflicts", help="Print where papers differ; TABLE is a system.")]
OurRun = Annotated[Path | None, typer.Option(metavar="FILE", help="Our TREC run, to hold against theirs.")]
TheirRun = Annotated[Path | None, typer.Option(metavar="FILE", help="The authors' run of that system.")]
OurBaseline = Annotated[Path | None, typer.Option(metavar="FILE", help="Our run of a baseline, for the effect.")]
TheirBaseline = Annotated[Path | None, typer.Option(metavar="FILE", help="The authors' run of that baseline.")]
PlannedObjective = Annotated[
    str, typer.Option("--objective", "-o", metavar="NAME[:PRESET]", help="The objective to plan for.")
]
Benchmarks = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME ...]", help="Benchmarks; by default all but `scale`.")
]
Device = Annotated[str | None, typer.Option(metavar="cpu|cuda", help="The device, by default the first GPU.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="Check equality on small data, and time nothing.")]
Rounds = Annotated[int, typer.Option(min=0, metavar="N", help="The rounds of each side; 0 leaves them to the case.")]
Deadline = Annotated[
    float | None, typer.Option(min=0, metavar="SECONDS", help="The time after which no case or round begins.")
]
Minutes = Annotated[float, typer.Option(min=0, metavar="N", help="The time; what it is too short for is named.")]
AcceptLeaderboard = Annotated[
    Path | None, typer.Option("--leaderboard", metavar="DIR", help="Append the benchmarks to this folder of results.")
]
ResultFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results to this file too.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Name everything, and remove nothing.")]
Force = Annotated[
    bool, typer.Option("--force", help="Remove named items that rows need; prune a store that no row needs.")
]
StoreItems = Annotated[list[str] | None, typer.Argument(metavar="[STAGE/KEY]...", help="Items, as `list` names them.")]
ToArchive = Annotated[Path, typer.Option("--to", metavar="FILE", help="The archive, a tar.")]
Archive = Annotated[Path, typer.Argument(metavar="FILE", help="An archive of `store export`.")]
