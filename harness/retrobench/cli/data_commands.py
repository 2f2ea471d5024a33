"""The commands below `retrobench data`."""

from __future__ import annotations

import typer

from retrobench.cli.options import Against, OneId, OneJson, Wide
from retrobench.cli.process import prepare, show_result

__all__ = ["data"]

data = typer.Typer(no_args_is_help=True, help="List, prefetch and check datasets.")


@data.command("list")
def data_list(json: OneJson = False, wide: Wide = False) -> None:
    """List the datasets with rules of their own, and the downloaded datasets."""
    from retrobench.data import list_datasets

    prepare()
    show_result(list_datasets(json))


@data.command("fetch")
def data_fetch(id: OneId) -> None:
    """Download or build a dataset, so that later runs work offline."""
    from retrobench.data import fetch_dataset

    prepare()
    show_result(fetch_dataset(id))


@data.command("check")
def data_check(id: OneId, against: Against = None, json: OneJson = False, wide: Wide = False) -> None:
    """Check counts, hashes, dangling judgements, duplicates and empty documents of a dataset. Exit 1 at a fault.

    With --against, a question that the dataset shares with the training is a fault too. Two questions are the same
    where two of three agree: id, text, a relevant document.
    """
    from retrobench.data import doctor

    prepare()
    report = doctor.check(id, against)
    show_result(report.json() if json else report.text())
    raise typer.Exit(report.exit_code)
