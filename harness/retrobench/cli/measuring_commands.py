"""
Commands that measure encoders and runs.

* evaluate   score an encoder, published or trained here.
* coverage   measure the words that vectors name.
* score      score a TREC run.
"""

from __future__ import annotations

import typer

from retrobench.cli.options import (
    AsJson,
    Bounds,
    CoverageDatasets,
    Datasets,
    Dtype,
    HeadModel,
    Index,
    Judged,
    Leaderboard,
    Length,
    Level,
    Measured,
    Measures,
    Model,
    OfQueries,
    OneJson,
    PerQuery,
    Pooling,
    Prefix,
    Qrels,
    Quiet,
    Run,
    Similarity,
    Store,
    Verbose,
    Wide,
)
from retrobench.cli.process import prepare, show_result

__all__ = ["measuring"]

measuring = typer.Typer()


@measuring.command()
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
    bounds: Bounds = False,
    json: OneJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    wide: Wide = False,
) -> None:
    """Score an encoder with the settings of its publication, or of its training by `run`."""
    prepare(encodes=True)
    from retrobench import runs

    choices = runs.Choices(pooling, query_prefix, passage_prefix, max_length, similarity, dtype)
    evaluated = runs.evaluate(model, dataset, measure, choices, store, index or "exact", bounds)
    show_result(evaluated.json() if json else evaluated.text())


@measuring.command()
def coverage(
    models: Measured,
    dataset: CoverageDatasets,
    queries: OfQueries = False,
    pooling: Pooling = None,
    max_length: Length = None,
    head: HeadModel = None,
    store: Store = None,
    leaderboard: Leaderboard = None,
    json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    wide: Wide = False,
) -> None:
    """Measure how many of a text's words its vector names, beside controls."""
    prepare(encodes=True)
    from retrobench import runs

    choices = runs.CoverageChoices(queries, pooling, max_length, head)
    covered = runs.coverage(models, dataset, choices, store, leaderboard)
    show_result(covered.json() if json else covered.text())


@measuring.command()
def score(
    run: Run,
    measure: Measures,
    dataset: Judged = None,
    qrels: Qrels = None,
    relevance_level: Level = None,
    per_query: PerQuery = False,
    bounds: Bounds = False,
    json: OneJson = False,
    wide: Wide = False,
) -> None:
    """Score a TREC run file."""
    from retrobench.scoring import score_file

    prepare()
    scored = score_file(run, dataset, qrels, measure, relevance_level, bounds)
    show_result(scored.json(per_query) if json else scored.text(per_query))
