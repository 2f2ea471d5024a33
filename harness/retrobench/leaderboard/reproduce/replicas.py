"""
A run beside the authors' run of the same system, and the effect of a pair of systems.

* RunFiles       the files that the user names
* compare_runs   their agreement, in any format

The JSON is
    {run, against, baseline_run, baseline_against, dataset or qrels, queries,
     measures: {name: {theirs, ours, delta, rmse, effect_ratio, delta_relative_improvement}},
     rankings: {kendall_tau_union, rbo, rbo_p, depth, queries, left_out}}
where the two effects are null without a baseline's pair. A CSV record is a measure with the rankings' agreement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrobench.core import Column, Table
from retrobench.data import Exclusions
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.tables import Block, Section, format_number, lay_out
from retrobench.scoring import Scored, replicability, score_file

__all__ = ["RunFiles", "compare_runs"]

NUMBERS = ("theirs", "ours", "delta", "rmse", "effect_ratio", "delta_relative_improvement")
HEADERS = ("theirs", "ours", "delta", "RMSE", "effect ratio", "delta RI")
PAIR = "Give --run FILE and --against FILE: ours, and the authors' run of the same system."
BASELINES = "Give --baseline-run FILE and --baseline-against FILE together: our baseline and the authors'."


@dataclass(frozen=True)
class RunFiles:
    """Our run and the authors', a baseline's pair of runs, and the judgements of all."""

    run: Path | None = None
    against: Path | None = None
    baseline_run: Path | None = None
    baseline_against: Path | None = None
    dataset: str | None = None
    qrels: Path | None = None

    @property
    def given(self) -> bool:
        """Return whether the user named any of them."""
        return self != RunFiles()

    def pair(self) -> tuple[Path, Path]:
        """Return our run and the authors'. RetrobenchError where one is missing."""
        if self.run is None or self.against is None:
            raise RetrobenchError(PAIR)
        return self.run, self.against

    def baselines(self) -> tuple[Path, Path] | None:
        """Return our baseline and the authors', None without. RetrobenchError where one is missing."""
        if self.baseline_run is None and self.baseline_against is None:
            return None
        if self.baseline_run is None or self.baseline_against is None:
            raise RetrobenchError(BASELINES)
        return self.baseline_run, self.baseline_against

    def score(self, file: Path) -> Scored:
        """Return the scores of a run file, by the dataset's own measures."""
        return score_file(file, self.dataset, self.qrels, ())


def compare_runs(files: RunFiles, format: str) -> str:
    """Return the agreement of a run with the authors' as text, Markdown, LaTeX, CSV or JSON."""
    document = _document(files)
    if format == "json":
        return json.dumps(document, indent=2, ensure_ascii=False)
    if format == "csv":
        return _table_of_records(document).csv()
    return lay_out([_section(document)], format)


def _document(files: RunFiles) -> dict[str, Any]:
    run, against = files.pair()
    baselines = files.baselines()
    ours, theirs = files.score(run), files.score(against)
    measures = {}
    for name, values in theirs.values.items():
        measures[name] = {
            "theirs": theirs.measures[name],
            "ours": ours.measures[name],
            "delta": ours.measures[name] - theirs.measures[name],
            "rmse": replicability.root_mean_square_error(values, ours.values[name]),
            "effect_ratio": None,
            "delta_relative_improvement": None,
        }
    if baselines:
        our_baseline, their_baseline = files.score(baselines[0]), files.score(baselines[1])
        for name, numbers in measures.items():
            effects = (theirs.values[name], their_baseline.values[name], ours.values[name], our_baseline.values[name])
            numbers["effect_ratio"] = replicability.effect_ratio(*effects)
            numbers["delta_relative_improvement"] = replicability.delta_relative_improvement(*effects)
    judgements = {"dataset": ours.dataset} if ours.dataset else {"qrels": ours.qrels}
    return {
        "run": str(run),
        "against": str(against),
        "baseline_run": str(baselines[0]) if baselines else None,
        "baseline_against": str(baselines[1]) if baselines else None,
        **judgements,
        "queries": ours.queries,
        "measures": measures,
        "rankings": _compare_files(against, run, ours.exclusions),
    }


def _compare_files(against: Path, run: Path, exclusions: Exclusions) -> dict[str, Any]:
    agreement = replicability.compare_rankings(
        replicability.Rankings.read(against, exclusions), replicability.Rankings.read(run, exclusions)
    )
    return {
        "kendall_tau_union": agreement.tau,
        "rbo": agreement.overlap,
        "rbo_p": replicability.PERSISTENCE,
        "depth": replicability.DEPTH,
        "queries": agreement.queries,
        "left_out": agreement.left_out,
    }


def _table_of_records(document: Mapping[str, Any]) -> Table:
    rankings = document["rankings"]
    records = []
    for name, numbers in document["measures"].items():
        agreement = {key: rankings[key] for key in ("kendall_tau_union", "rbo")}
        records.append({"measure": name, **numbers, **agreement, "queries": document["queries"]})
    return Table.from_records(records)


def _section(document: Mapping[str, Any]) -> Section:
    paired = document["baseline_run"] is not None
    columns = [Column("measure"), *(Column(header, "right", "measure") for header in HEADERS)]
    rows = []
    for name, numbers in document["measures"].items():
        cells = []
        for key in NUMBERS:
            spec = "+.4f" if key.startswith("delta") else ".4f"
            cells.append(format_number(numbers[key], spec))
        rows.append([name, *cells])
    if not paired:
        columns = columns[:-2]
        rows = [row[:-2] for row in rows]
    blocks: list[Block] = [Table(columns, rows), *_explain(document)]
    judgements = document.get("dataset") or document["qrels"]
    return Section(f"{document['run']} beside {document['against']} on {judgements}", tuple(blocks))


def _explain(document: Mapping[str, Any]) -> list[str]:
    """Return the sentences about rankings and conventions."""
    rankings = document["rankings"]
    sentences = [
        f"Rankings: Kendall's tau over the union {format_number(rankings['kendall_tau_union'], '.4f')}, rank-biased "
        f"overlap {format_number(rankings['rbo'], '.4f')} (p {replicability.PERSISTENCE}, extrapolated); means over "
        f"{rankings['queries']} queries, at most {replicability.DEPTH} documents each.",
        f"RMSE: root of the mean squared difference by query, over {document['queries']} judged queries.",
    ]
    if rankings["left_out"]:
        sentences.append(f"Queries in one run alone, left out of the rankings' means: {rankings['left_out']}.")
    if document["baseline_run"] is not None:
        sentences.append(
            f"Pair: {document['run']} over {document['baseline_run']}, and {document['against']} over "
            f"{document['baseline_against']}. Effect ratio: our mean improvement divided by theirs, 1 where it is "
            "reproduced whole. Delta RI: their relative improvement minus ours, 0 likewise."
        )
    sentences.append("Measures: Breuer et al., SIGIR 2020.")
    return sentences
