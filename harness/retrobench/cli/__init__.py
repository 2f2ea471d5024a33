"""
The commands. Each parses, makes one call and prints, and imports heavy libraries only when it runs.

* run           train and measure objectives under one track.
* objectives    list the installed objectives and their faults; show, check or begin one.
* leaderboard   print the rows of a track.
* report        write a page with tables and plots.
* compare       print two rows, entrants or run files side by side.
* verify        check rows against everything that they stand on.
* show          print everything that a row stands on.
* score         score a TREC run.
* evaluate      score an encoder, published or trained here.
* coverage      measure the words that vectors name.
* convert       turn a pickled checkpoint into safetensors.
* reproduce     compare the papers' tables with rows.
* plan          print the needs of a track.
* bench         measure speed and memory beside peers.
* accept        check a device, and measure it.
* data          list, prefetch and check datasets.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from retrobench.cli.data_commands import data
from retrobench.cli.groups import Grouped, Pairing
from retrobench.cli.measuring_commands import measuring
from retrobench.cli.objective_commands import objectives
from retrobench.cli.options import (
    AcceptLeaderboard,
    AllowOverlap,
    AsJson,
    BaselineName,
    BenchLeaderboard,
    Benchmarks,
    Caption,
    Checkpoints,
    ClaimedTable,
    ComparedMeasure,
    Conflicts,
    Deadline,
    Device,
    Energy,
    FirstSystem,
    Format,
    Fresh,
    Gpus,
    Hardware,
    Index,
    Judged,
    Label,
    Leaderboard,
    Level,
    Limit,
    Minutes,
    Model,
    NoTexts,
    Objectives,
    OneJson,
    OurBaseline,
    OurRun,
    Overrides,
    Pairs,
    PlannedObjective,
    Plugins,
    Qrels,
    Quiet,
    ReportedTracks,
    ReportFolder,
    ResultFile,
    Rounds,
    RowsFile,
    SecondSystem,
    Seeds,
    Shown,
    ShownColumns,
    ShownMeasures,
    ShownRow,
    Smoke,
    Store,
    Target,
    TheirBaseline,
    TheirRun,
    Track,
    Tracker,
    Verbose,
    Verified,
    Wide,
)
from retrobench.cli.process import end_interrupted, exit_at_limit, measure_screen, prepare, show_result
from retrobench.cli.store_commands import store
from retrobench.core import processes, signals
from retrobench.errors import RetrobenchError

__all__ = ["main"]

# Rich takes half of the time limit of --help.
app = typer.Typer(
    cls=Grouped,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(measuring)
app.add_typer(objectives, name="objectives")
app.add_typer(data, name="data")
app.add_typer(store, name="store")


def _version(is_requested: bool) -> None:
    if not is_requested:
        return
    from importlib.metadata import version

    show_result(f"retrobench {version('retrobench')}")
    raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compare pre-training objectives for retrieval under one recipe."""
    measure_screen()


@app.command()
def run(
    objective: Objectives,
    seed: Seeds,
    overrides: Overrides,
    plugin: Plugins,
    track: Track = "mini",
    limit: Limit = None,
    index: Index = None,
    store: Store = None,
    leaderboard: Leaderboard = None,
    fresh: Fresh = False,
    allow_overlap: AllowOverlap = False,
    tracker: Tracker = None,
    checkpoints: Checkpoints = True,
    energy: Energy = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    wide: Wide = False,
) -> None:
    """Train and measure objectives under one track."""
    prepare(encodes=True, trains=True)
    from retrobench import leaderboard as board
    from retrobench import runs

    choices = (store, leaderboard, plugin, fresh, allow_overlap, limit, tracker, index, checkpoints, energy)
    swept = runs.sweep(runs.Request(objective, track, seed, overrides, *choices))
    show_result(board.summarise_run(swept.rows, swept.folder, swept.paths))


@app.command()
def leaderboard(
    measure: ShownMeasures,
    track: Shown = "mini",
    format: Format = "text",
    baseline: BaselineName = None,
    columns: ShownColumns = "",
    label: Label = "",
    caption: Caption = "",
    leaderboard: Leaderboard = None,
    wide: Wide = False,
) -> None:
    """Print the rows of a track as tables."""
    from retrobench.leaderboard import View, show_track

    view = View(measure, columns.split(",") if columns else (), baseline, label, caption)
    show_result(show_track(track, leaderboard, format, view))


@app.command()
def compare(
    a: FirstSystem,
    b: SecondSystem,
    dataset: Judged = None,
    qrels: Qrels = None,
    measure: ComparedMeasure = None,
    relevance_level: Level = None,
    leaderboard: Leaderboard = None,
    json: OneJson = False,
    wide: Wide = False,
) -> None:
    """Print two rows, entrants or run files side by side, and the questions that differ most."""
    from retrobench import leaderboard as board

    prepare()
    compared = board.side_by_side(a, b, board.Judged(dataset, qrels, relevance_level), measure, leaderboard)
    show_result(compared.json() if json else compared.text())


@app.command(cls=Pairing)
def report(
    tracks: ReportedTracks = None,
    output: ReportFolder = Path(),
    leaderboard: Leaderboard = None,
    pair: Pairs = None,
    no_texts: NoTexts = False,
) -> None:
    """Write a page with tables and plots that opens from disk."""
    from retrobench import leaderboard as board

    prepare()
    pairs = [board.NamedPair(*names) for names in pair or ()]
    show_result(board.write_report(tracks or (), output, leaderboard, not no_texts, pairs).text())


@app.command()
def verify(
    track: Verified = "",
    store: Store = None,
    leaderboard: Leaderboard = None,
    json: AsJson = False,
    wide: Wide = False,
) -> None:
    """Check rows against the runs, data and files behind them. Exit 1 at a difference."""
    from retrobench import runs

    prepare()
    report = runs.verify(track, store, leaderboard)
    show_result(report.json() if json else report.text())
    raise typer.Exit(report.exit_code)


@app.command()
def show(row: ShownRow, leaderboard: Leaderboard = None, json: OneJson = False, wide: Wide = False) -> None:
    """Print everything that a row stands on."""
    from retrobench.leaderboard import show_row

    show_result(show_row(row, leaderboard, json))


@app.command()
def convert(model: Model, to: Target) -> None:
    """Turn a pickled checkpoint into safetensors, which alone are loaded."""
    from retrobench import runs

    show_result(runs.convert(model, to).text())


@app.command()
def reproduce(
    table: ClaimedTable = "",
    format: Format = "text",
    rows: RowsFile = None,
    leaderboard: Leaderboard = None,
    conflicts: Conflicts = False,
    run: OurRun = None,
    against: TheirRun = None,
    baseline_run: OurBaseline = None,
    baseline_against: TheirBaseline = None,
    dataset: Judged = None,
    qrels: Qrels = None,
    wide: Wide = False,
) -> None:
    """Print a paper's table beside measured rows, conflicting prints, or a run beside the authors'."""
    from retrobench.leaderboard import RunFiles, reproduce

    prepare()
    files = RunFiles(run, against, baseline_run, baseline_against, dataset, qrels)
    report = reproduce(table, format, rows, leaderboard, conflicts, files)
    show_result(report.text)
    raise typer.Exit(report.exit_code)


@app.command()
def plan(
    overrides: Overrides,
    plugin: Plugins,
    track: Track = "mini",
    limit: Limit = None,
    objective: PlannedObjective = "retromae",
    hardware: Hardware = "this",
    gpus: Gpus = 1,
    leaderboard: Leaderboard = None,
    wide: Wide = False,
) -> None:
    """Print the downloads, disk, memory and hours that a track needs."""
    from retrobench import plan

    prepare()
    overrides += [f"data.limit={limit}"] if limit else []
    show_result(plan.plan(track, objective, hardware, gpus, overrides, leaderboard, plugin))


@app.command()
def bench(
    name: Benchmarks = None,
    device: Device = None,
    smoke: Smoke = False,
    rounds: Rounds = 0,
    deadline: Deadline = None,
    json: ResultFile = None,
    leaderboard: BenchLeaderboard = None,
    wide: Wide = False,
) -> None:
    """Measure speed and memory beside peers, after a check that the results are equal."""
    from retrobench import bench

    benched = bench.bench(name or (), device, smoke, json, leaderboard, rounds, deadline)
    show_result(benched.text)
    raise typer.Exit(benched.exit_code)


@app.command()
def accept(
    device: Device = None,
    minutes: Minutes = 9.0,
    json: ResultFile = None,
    leaderboard: AcceptLeaderboard = None,
    wide: Wide = False,
) -> None:
    """Check that a device computes as a processor does, and how fast. Exit 1 at a fault."""
    from retrobench import bench

    accepted = bench.accept(device, minutes, json, leaderboard)
    show_result(accepted.text)
    raise typer.Exit(accepted.exit_code)


def main() -> None:
    """Run the command line. Print a user's error as one line; every other exception keeps its traceback."""
    try:
        with signals.handled():
            app(prog_name="retrobench")
    except RetrobenchError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (OSError, MemoryError, RuntimeError) as error:
        exit_at_limit(error)
        raise
    except SystemExit as stop:
        if not stop.code:
            processes.leave()
        # Typer turns an interrupt into a silent exit, and the EOFError of a truncated file into "Aborted!".
        cause = getattr(stop.__context__, "__cause__", None)
        if isinstance(cause, EOFError):
            raise cause from None
        if isinstance(cause, KeyboardInterrupt):
            end_interrupted(cause)
        raise
