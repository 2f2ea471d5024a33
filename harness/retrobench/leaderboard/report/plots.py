"""
The plots of a page as Vega-Lite specifications, each with its data inside.

* plots_of        all of them, by name
* forest          each line minus the baseline, with its simultaneous interval
* cost_quality    the main measure against the time of pre-training, and the lines that no other beats in both
* curves          a logged value of pre-training against its steps
* gain_per_hour   the gain over the baseline for an hour of pre-training
* coverage        the term coverage of pre-trained encoders above that of shuffled texts
* checkpoints     term coverage and retrieval as pre-training goes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from retrobench.leaderboard.comparison import Comparison, DatasetMeasure
from retrobench.leaderboard.rows import ABOVE, STATES, CoverageRecord
from retrobench.leaderboard.tables import PROBE_VALUES, Probed

__all__ = [
    "Plot",
    "Spec",
    "checkpoints",
    "cost_quality",
    "coverage",
    "curves",
    "forest",
    "gain_per_hour",
    "plots_of",
]

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
HOUR = 3600
DIGITS = 6  # of numbers in a specification; the last bits of a float differ between machines
NO_LOSSES = ("step", "rate", "gradient_norm", *PROBE_VALUES)
# The places of a label beside its point.
LABELS: dict[str, Spec] = {
    "right, above": {"align": "left", "dx": 8, "dy": -6},
    "right, below": {"align": "left", "dx": 8, "dy": 8},
    "left, above": {"align": "right", "dx": -8, "dy": -6},
    "left, below": {"align": "right", "dx": -8, "dy": 8},
}
ROW = 26  # height of a line in a plot of lines, in pixels


class Plot(NamedTuple):
    """A plot and its caption."""

    caption: str
    spec: Spec


def plots_of(
    tested: Comparison, records: Sequence[CoverageRecord] = (), probed: Sequence[Probed] = ()
) -> dict[str, Plot]:
    """Return the plots of a comparison, of its rows' coverage and probes, by name, without those that lack lines."""
    if not tested.columns:
        return {}
    candidates = {
        "forest": ("Differences from the baseline", forest(tested)),
        "cost": ("Quality against the cost of pre-training", cost_quality(tested, tested.own_columns[0])),
        "gain": ("Gain for an hour of pre-training", gain_per_hour(tested)),
        "coverage": ("Term coverage before fine-tuning", coverage(records)),
        "checkpoints": ("Term coverage and retrieval over checkpoints", checkpoints(probed)),
    }
    return {name: Plot(caption, spec) for name, (caption, spec) in candidates.items() if spec is not None}


def forest(tested: Comparison) -> Spec | None:
    """Return the plot of the differences from the baseline; None where nothing is tested.

    Systems without seeds, as BM25, are left out: they lie far from the objectives.
    """
    values = []
    for index, _, pair in tested.against_baseline():
        if not tested.lines[index].seeds:
            continue
        low, high = pair.simultaneous or (None, None)
        record = {"line": tested.name(index), "difference": pair.difference, "low": low, "high": high}
        values.append({**record, "shown": "significant" if pair.significant else "not significant"})
    if not values or tested.baseline is None or tested.tested is None:
        return None
    dataset, measure = tested.tested
    title = f"{measure} minus {tested.name(tested.baseline)}"
    names = {"field": "line", "type": "nominal", "sort": None, "title": None}
    shape = {"field": "shown", "type": "nominal", "title": None, "scale": {"range": ["diamond", "circle"]}}
    shape["scale"] |= {"domain": ["significant", "not significant"]}  # type: ignore[operator]
    layers: list[Spec] = [
        {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"x": {"datum": 0}, "y": None}},
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 80},
            "encoding": {
                "x": {"field": "difference", "type": "quantitative", "title": title},
                "shape": shape,
                "tooltip": _tooltip("line", "difference", "low", "high"),
            },
        },
    ]
    return _spec(f"{dataset}: differences with simultaneous 95 % intervals", values, {"y": names}, layers)


def cost_quality(comparison: Comparison, column: DatasetMeasure) -> Spec | None:
    """Return the plot of the main measure against the minutes of pre-training; None without two points."""
    values = []
    for index, line in enumerate(comparison.lines):
        mean = line.mean(*column)
        if mean is None or not line.seeds:
            continue
        spread = line.deviation(*column) or 0.0
        minutes = (line.seconds("pretrain") or 0.0) / 60
        record: dict[str, Any] = {"line": comparison.name(index), "minutes": minutes, "score": mean}
        values.append({**record, "low": mean - spread, "high": mean + spread})
    if len(values) < 2:
        return None
    for record in values:
        record["best"] = "yes" if _is_best(record, values) else "no"
        record["label"] = _label_place(record, values)
    dataset, measure = column
    y = {"field": "score", "type": "quantitative", "scale": {"zero": False}, "title": measure}
    x = {"field": "minutes", "type": "quantitative", "title": "minutes of pre-training"}
    shape = {"field": "best", "type": "nominal", "title": "on the Pareto front"}
    layers: list[Spec] = [
        {
            "transform": [{"filter": "datum.best === 'yes'"}],
            "mark": {"type": "line", "strokeDash": [4, 3], "interpolate": "step-after"},
        },
        {"mark": {"type": "rule"}, "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}}},
        {
            "mark": {"type": "point", "filled": True, "size": 80},
            "encoding": {"shape": shape, "tooltip": _tooltip("line", "minutes", "score")},
        },
    ]
    for place, mark in LABELS.items():
        layers.append(
            {
                "transform": [{"filter": f"datum.label === '{place}'"}],
                "mark": {"type": "text", **mark},
                "encoding": {"text": {"field": "line"}},
            }
        )
    return _spec(f"{dataset}: quality against cost", values, {"x": x, "y": y}, layers, height=320)


def _is_best(record: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether no line that costs at most as much scores more."""
    affordable = [other["score"] for other in others if other["minutes"] <= record["minutes"]]
    return bool(record["score"] >= max(affordable))


def _label_place(record: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """Return the side of a point that has room for its label: within the plot, and off a near point's label."""
    minutes = max(other["minutes"] for other in others) or 1.0
    scores = [other["score"] for other in others]
    height = (max(scores) - min(scores)) or 1.0
    side = "left" if record["minutes"] > 0.6 * minutes else "right"
    for other in others:
        is_near = abs(other["minutes"] - record["minutes"]) < 0.2 * minutes
        if is_near and 0 < other["score"] - record["score"] < 0.1 * height:
            return f"{side}, below"
    return f"{side}, above"


def gain_per_hour(tested: Comparison) -> Spec | None:
    """Return the plot of the gain over the baseline for an hour of pre-training; None where nothing is tested."""
    values: list[dict[str, Any]] = []
    for index, _, pair in tested.against_baseline():
        seconds = tested.lines[index].seconds("pretrain")
        if not seconds:
            continue
        hours = seconds / HOUR
        low, high = pair.interval or (None, None)
        bounds = {} if low is None or high is None else {"low": low / hours, "high": high / hours}
        values.append({"line": tested.name(index), "gain": pair.difference / hours, **bounds})
    if not values or tested.baseline is None or tested.tested is None:
        return None
    dataset, measure = tested.tested
    title = f"{measure} over {tested.name(tested.baseline)}, for an hour of pre-training"
    values.sort(key=lambda record: -record["gain"])
    names = {"field": "line", "type": "nominal", "sort": None, "title": None}
    layers: list[Spec] = [
        {"mark": {"type": "bar", "opacity": 0.6}, "encoding": {"x": {"field": "gain", "type": "quantitative"}}},
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {
                "x": {"field": "low", "type": "quantitative", "title": title},
                "x2": {"field": "high"},
                "tooltip": _tooltip("line", "gain", "low", "high"),
            },
        },
    ]
    return _spec(f"{dataset}: gain per hour, with 95 % intervals", values, {"y": names}, layers)


def curves(documents: Sequence[Mapping[str, Any]]) -> Spec | None:
    """Return the plot of the most widely logged value of pre-training against its steps; None without curves."""
    logged = [document for document in documents if document["training"] == "pretrain"]
    counts: dict[str, int] = {}
    for document in logged:
        for name in document["values"]:
            if name not in NO_LOSSES:
                counts[name] = counts.get(name, 0) + 1
    if not counts:
        return None
    name = max(counts, key=lambda value: counts[value])
    values = []
    for document in logged:
        for step, value in zip(document["values"]["step"], document["values"].get(name, []), strict=False):
            if value is not None:
                values.append({"line": document["line"], "step": step, "value": value})
    encoding = {
        "x": {"field": "step", "type": "quantitative"},
        "y": {"field": "value", "type": "quantitative", "title": name, "scale": {"zero": False}},
        "color": {"field": "line", "type": "nominal", "title": None},
    }
    return _spec(f"pretrain: {name}", values, encoding, [{"mark": {"type": "line"}}], height=280)


def coverage(records: Sequence[CoverageRecord]) -> Spec | None:
    """Return the plot of R-coverage above that of shuffled texts, by projection; None without records.

    Points are means over seeds, and bars reach from the smallest to the largest. The first dataset is shown.
    """
    means: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if (record.dataset, record.kind) != (records[0].dataset, records[0].kind):
            continue
        for projection in record.measures.get(STATES[0], {}):
            value = record.mean(STATES[0], projection, ABOVE)
            if value is not None:
                means.setdefault((record.line, projection), []).append(value)
    if not means:
        return None
    values = []
    for (line, projection), seeds in means.items():
        values.append(
            {"line": line, "projection": projection, "coverage": fmean(seeds), "low": min(seeds), "high": max(seeds)}
        )
    lines = {line for line, _ in means}
    encoding = {
        "y": {"field": "line", "type": "nominal", "title": None, "sort": {"field": "coverage", "order": "descending"}},
        "yOffset": {"field": "projection"},
        "color": {"field": "projection", "type": "nominal", "title": None},
    }
    title = "R-coverage above shuffled texts"
    layers: list[Spec] = [
        {
            "mark": {"type": "rule"},
            "encoding": {"x": {"field": "low", "type": "quantitative", "title": title}, "x2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 40},
            "encoding": {
                "x": {"field": "coverage", "type": "quantitative", "title": title},
                "tooltip": _tooltip("line", "coverage", "low", "high"),
            },
        },
    ]
    return _spec(f"{records[0].dataset}: term coverage", values, encoding, layers, height=2 * ROW * len(lines))


def checkpoints(probed: Sequence[Probed]) -> Spec | None:
    """Return the plot of retrieval against term coverage, a path over the checkpoints of each run; None without runs.

    The runs of the first row's track are shown: probes of other settings do not compare.
    """
    if not probed:
        return None
    values = []
    for run in probed:
        if run.settings != probed[0].settings:
            continue
        name = run.line if run.seed is None else f"{run.line}, seed {run.seed}"
        for step, coverage, score in zip(run.steps, run.coverages, run.scores, strict=True):
            values.append({"line": name, "step": step, "coverage": coverage, "score": score})
    axis: Spec = {"type": "quantitative", "scale": {"zero": False}}
    encoding = {
        "x": {**axis, "field": "coverage", "title": "R-coverage of the own head, above shuffled texts"},
        "y": {**axis, "field": "score", "title": f"{probed[0].measure} of a probe"},
        "color": {"field": "line", "type": "nominal", "title": None},
    }
    size = {"field": "step", "type": "quantitative", "legend": None, "scale": {"range": [15, 150]}}
    layers: list[Spec] = [
        {"mark": {"type": "line"}, "encoding": {"order": {"field": "step", "type": "quantitative"}}},
        {
            "mark": {"type": "point", "filled": True},
            "encoding": {"size": size, "tooltip": _tooltip("line", "step", "coverage", "score")},
        },
    ]
    return _spec("term coverage and retrieval: larger points are later checkpoints", values, encoding, layers, 320)


def _rounded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record whose numbers are equal on every machine."""
    return {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in record.items()}


def _tooltip(name: str, *fields: str) -> list[Spec]:
    numbers: list[Spec] = [{"field": field, "type": "quantitative", "format": ".4f"} for field in fields]
    return [{"field": name, "type": "nominal"}, *numbers]


def _spec(
    title: str, values: Sequence[Mapping[str, Any]], encoding: Spec, layers: Sequence[Spec], height: int | None = None
) -> Spec:
    return {
        "$schema": SCHEMA,
        "description": title,
        "title": {"text": title.split(": ", 1), "anchor": "start"},  # in two lines, for narrow screens
        "width": "container",
        "height": height or ROW * len(values),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": [_rounded(record) for record in values]},
        "encoding": encoding,
        "layer": [
            {**layer, "mark": {"aria": False, **layer["mark"]}} for layer in layers
        ],  # the tables are for readers
    }
