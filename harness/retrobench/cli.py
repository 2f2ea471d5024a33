"""
The commands: each parses, makes one call and prints. Nothing heavy is imported before it is called for.

* run           objectives, trained and measured under one track
* objectives    what is installed, and what is wrong with what is not usable
* leaderboard   the rows measured so far
* evaluate      any encoder on any dataset
* score         any TREC run
* reproduce     the papers' tables beside what was measured
* plan          what a track would need, before it starts
* bench         speed and memory beside peers
* data          datasets: listed, prefetched, checked
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrobench.core import Column, Table, processes
from retrobench.errors import RetrobenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from retrobench.config import Found

__all__ = ["main"]

LISTED = ("name", "distribution", "version", "paper", "status", "reason")  # of an objective

# Rich would cost half of the time in which --help has to answer.
app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data = typer.Typer(no_args_is_help=True, help="List, prefetch and check datasets.")
app.add_typer(data, name="data")

Objectives = Annotated[
    list[str],
    typer.Option("--objective", "-o", metavar="NAME[:PRESET]", help="An objective or a .toml file; repeatable."),
]
Track = Annotated[str, typer.Option(metavar="NAME", help="A track or a .toml file.")]
Shown = Annotated[str, typer.Argument(metavar="TRACK", help="A track or a .toml file.")]
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
        metavar="FILE",
        help="A .py file with objectives; repeatable.",
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where finished stages are kept, if not $RETROBENCH_HOME or ~/.cache/retrobench."),
]
Leaderboard = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where rows are, and tracks are looked up first, if not ./leaderboards."),
]
Speeds = Annotated[Path | None, typer.Option("--leaderboard", metavar="DIR", help="Kept here, if not ./leaderboards.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Make every stage again.")]
Format = Annotated[str, typer.Option(metavar="text|md|csv|json|latex", help="How the tables are written.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON array.")]


Hardware = Annotated[str, typer.Option(metavar="h200|a100|v100|this", help="The machine to plan for.")]
Gpus = Annotated[int, typer.Option(min=1, metavar="N", help="How many GPUs of it.")]
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
        help="A measure, such as nDCG@10 or RR(rel=2)@10; the dataset's own if none is given; repeatable.",
    ),
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A sentence-transformers or Hugging Face encoder.")]
Pooling = Annotated[str | None, typer.Option(metavar="cls|mean|...", help="If the model does not say.")]
Prefix = Annotated[str | None, typer.Option(metavar="TEXT", help="In place of the model's prompt.")]
Length = Annotated[int | None, typer.Option(metavar="N", min=3, help="Tokens per text.")]
Similarity = Annotated[str | None, typer.Option(metavar="dot|cos", help="In place of the model's.")]
Dtype = Annotated[str | None, typer.Option(metavar="float32|bfloat16|float16", help="Of the model's numbers.")]
Index = Annotated[
    str | None,
    typer.Option(metavar="FACTORY", help="exact, or faiss's words for an approximate index, such as IVF64,Flat."),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A TREC run file, gzipped or not.")]
Judged = Annotated[
    str | None, typer.Option("--dataset", metavar="ID", help="The dataset whose judgements and rules hold.")
]
Qrels = Annotated[Path | None, typer.Option(metavar="FILE", help="Judgements in TREC's format.")]
Level = Annotated[int | None, typer.Option(metavar="N", min=1, help="Least grade that is relevant.")]
PerQuery = Annotated[bool, typer.Option("--per-query", help="Every query's values too.")]
OneJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
OneId = Annotated[str, typer.Argument(metavar="ID", help="A dataset id or a folder PATH[:SPLIT].")]


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        _print(f"retrobench {version('retrobench')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compare pre-training objectives for retrieval: one recipe, nothing but the objective changed."""


@app.command()
def run(
    objective: Objectives,
    seed: Seeds,
    overrides: Overrides,
    plugin: Plugins,
    track: Track = "mini",
    index: Index = None,
    store: Store = None,
    leaderboard: Leaderboard = None,
    fresh: Fresh = False,
) -> None:
    """Train and measure objectives under one track."""
    from retrobench import leaderboard as board
    from retrobench import runs

    _prepare(encodes=True, trains=True)
    overrides += [f"evaluate.index={index}"] if index else []
    swept = runs.sweep(runs.Request(objective, track, seed, overrides, store, leaderboard, plugin, fresh))
    _print(board.summary(swept.rows, board.loader(swept.folder, swept.rows), swept.places))


@app.command()
def objectives(plugin: Plugins, json: AsJson = False) -> None:
    """List the objectives found, and why one cannot be used."""
    from retrobench.config import discover

    found = discover(plugin)
    _print(_as_json(found) if json else _table(found))


@app.command()
def leaderboard(track: Shown = "mini", format: Format = "text", leaderboard: Leaderboard = None) -> None:
    """Print the rows of a track as tables."""
    from retrobench.leaderboard import show

    _print(show(track, leaderboard, format))


@app.command()
def evaluate(
    model: Model,
    dataset: Datasets,
    measure: Measures,
    pooling: Pooling = None,
    query_prefix: Prefix = None,
    passage_prefix: Prefix = None,
    max_length: Length = None,
    similarity: Similarity = None,
    dtype: Dtype = None,
    index: Index = None,
    store: Store = None,
    json: OneJson = False,
) -> None:
    """Score an encoder exactly as it was published."""
    from retrobench import runs

    _prepare(encodes=True)
    choices = runs.Choices(pooling, query_prefix, passage_prefix, max_length, similarity, dtype)
    found = runs.evaluate(model, dataset, measure, choices, store, index or "exact")
    _print(found.json() if json else found.text())


@app.command()
def score(
    run: Run,
    measure: Measures,
    dataset: Judged = None,
    qrels: Qrels = None,
    relevance_level: Level = None,
    per_query: PerQuery = False,
    json: OneJson = False,
) -> None:
    """Score a TREC run file."""
    from retrobench.scoring import score_file

    _prepare()
    scored = score_file(run, dataset, qrels, measure, relevance_level)
    _print(scored.json(per_query) if json else scored.text(per_query))


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(metavar="[PAPER/TABLE]", help="Such as retromae/table-2; all if empty.")] = "",
    format: Format = "text",
    rows: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows to hold against the table, whatever their track.")
    ] = None,
    leaderboard: Leaderboard = None,
) -> None:
    """Print a paper's table: published, measured, difference and verdict."""
    from retrobench.leaderboard import reproduce

    report = reproduce(table, format, rows, leaderboard)
    _print(report.text)
    raise typer.Exit(report.exit_code)


@app.command()
def plan(
    overrides: Overrides,
    track: Track = "mini",
    objective: Annotated[
        str, typer.Option("--objective", "-o", metavar="NAME[:PRESET]", help="Whose costs.")
    ] = "retromae",
    hardware: Hardware = "this",
    gpus: Gpus = 1,
    leaderboard: Leaderboard = None,
) -> None:
    """Print what a track needs before anything starts: downloads, disk, memory, hours."""
    from retrobench import plan

    _prepare()
    _print(plan.plan(track, objective, hardware, gpus, overrides, leaderboard))


@app.command()
def bench(
    name: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME ...]", help="Benchmarks; all but `scale` if empty.")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="cpu|cuda", help="The first GPU if there is one.")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Small sizes, for equality and not for time.")] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results there too.")] = None,
    leaderboard: Speeds = None,
) -> None:
    """Measure speed and memory beside peers: equal first, then timed in turn."""
    from retrobench import bench

    benched = bench.bench(name or (), device, smoke, json, leaderboard)
    _print(benched.text)
    raise typer.Exit(benched.exit_code)


@data.command("list")
def data_list(json: OneJson = False) -> None:
    """List the datasets with rules of their own, and which are at hand."""
    from retrobench.data import list_datasets

    _prepare()
    _print(list_datasets(json))


@data.command("fetch")
def data_fetch(id: OneId) -> None:
    """Download or build a dataset, so that runs work offline afterwards."""
    from retrobench.data import fetch_dataset

    _prepare()
    _print(fetch_dataset(id))


@data.command("check")
def data_check(id: OneId, json: OneJson = False) -> None:
    """Verify a dataset: counts, hashes, dangling judgements, duplicates, empty documents. Exit 1 at a fault."""
    from retrobench.data import doctor

    _prepare()
    report = doctor.check(id)
    _print(report.json() if json else report.text())
    raise typer.Exit(report.exit_code)


def _as_json(discovered: Sequence[Found]) -> str:
    import json

    return json.dumps(_listed(discovered, LISTED).records(), indent=2, ensure_ascii=False)


def _table(discovered: Sequence[Found]) -> RenderableType:
    reasons = any(objective.reason for objective in discovered)
    return _listed(discovered, LISTED if reasons else LISTED[:-1]).fitted()


def _listed(discovered: Sequence[Found], names: Sequence[str]) -> Table:
    rows = []
    for objective in discovered:
        rows.append([getattr(objective, name) or None for name in names])
    return Table([Column(name) for name in names], rows)


def _prepare(encodes: bool = False, trains: bool = False) -> None:
    """Set up this process for a command that reads datasets; and for one that `encodes` texts or `trains`."""
    from retrobench import core, data

    data.register()
    data.quiet_ir_datasets()
    if encodes:
        core.quiet_transformers()
    if trains:
        core.keep_freed_memory()


def _print(shown: object) -> None:
    """Print a text, or something of rich's, on standard output. Of several processes the first one prints."""
    if not processes.leads():
        return
    if isinstance(shown, str):
        print(shown)
        return
    from rich.console import Console

    # A pipe or a file has no edge to fold at.
    Console(width=None if sys.stdout.isatty() else 10_000, highlight=False).print(shown)


def main() -> None:
    """Run the command line. A user's error is one line on standard error; all else keeps its traceback."""
    try:
        app(prog_name="retrobench")
    except RetrobenchError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        # Typer makes exits of both: of an interrupt silently, of a truncated file (EOFError) as "Aborted!".
        cause = getattr(stop.__context__, "__cause__", None)
        if isinstance(cause, EOFError):
            raise cause from None
        if isinstance(cause, KeyboardInterrupt):
            print("Interrupted. Finished stages are kept; the same command goes on from them.", file=sys.stderr)
        raise
