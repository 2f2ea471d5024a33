"""
Groups of datasets, and their averages.

* Group, GROUPS       the members of a group, the name of their average, and the source of both
* expand(id)          the datasets behind an id: a group's members, a parent's default split, or the id itself
* averages(scores)    the mean of every complete group, with the number of its members in its name
* incomplete(scores)  the members that a group lacks

Ids are ir_datasets' own. Importing this module is cheap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["GROUPS", "SPLITS", "Group", "averages", "expand", "incomplete"]

CQADUPSTACK = "beir/cqadupstack"
FORUMS = "android english gaming gis mathematica physics programmers stats tex unix webmasters wordpress"
NANO = (
    "arguana climate-fever dbpedia-entity fever fiqa hotpotqa msmarco nfcorpus nq quora scidocs scifact "
    "webis-touche2020"
)
BRIGHT_EXCHANGE = "biology earth-science economics psychology robotics stackoverflow sustainable-living"
TOPICS = ("writing", "recreation", "science", "technology", "lifestyle")


@dataclass(frozen=True)
class Group:
    """Datasets that papers report together. Without an `average`, no mean of the members is published or shown."""

    members: tuple[str, ...]  # ids of datasets and of groups
    average: str = ""  # the name of the unweighted mean
    source: str = ""


def _prefixed(prefix: str, names: str, suffix: str = "") -> tuple[str, ...]:
    return tuple(f"{prefix}/{name}{suffix}" for name in names.split())


def _lotte(kind: str) -> tuple[str, ...]:
    return tuple(f"lotte/{topic}/test/{kind}" for topic in TOPICS)


_LOTTE_SOURCE = "https://github.com/stanford-futuredata/ColBERT/blob/main/utility/evaluate/evaluate_lotte_rankings.py"

# A group stands behind the groups that are its members.
GROUPS: Mapping[str, Group] = MappingProxyType(
    {
        CQADUPSTACK: Group(
            _prefixed(CQADUPSTACK, FORUMS), "beir/cqadupstack (mean of 12 forums)", "https://arxiv.org/abs/2104.08663"
        ),
        # BioASQ, Signal-1M, TREC-NEWS and Robust04 are not public. The last member is the group of 12 forums.
        "beir": Group(
            (
                *("beir/trec-covid", "beir/nfcorpus/test", "beir/nq", "beir/hotpotqa/test", "beir/fiqa/test"),
                *("beir/arguana", "beir/webis-touche2020/v2", "beir/quora/test", "beir/dbpedia-entity/test"),
                *("beir/scidocs", "beir/fever/test", "beir/climate-fever", "beir/scifact/test", CQADUPSTACK),
            ),
            "beir (mean of 14 public sets)",
            "https://arxiv.org/abs/2104.08663",
        ),
        "nano-beir": Group(
            _prefixed("nano-beir", NANO),
            "nano-beir (mean of 13 sets)",
            "https://huggingface.co/collections/zeta-alpha-ai/nanobeir-66e1a0af21dfd93e620cd9f6",
        ),
        "bright": Group(
            _prefixed("bright", f"{BRIGHT_EXCHANGE} leetcode pony aops theoremqa-questions theoremqa-theorems"),
            "bright (mean of 12 sets)",
            "https://github.com/xlang-ai/BRIGHT",
        ),
        "bright-long": Group(
            _prefixed("bright", f"{BRIGHT_EXCHANGE} pony", "-long"),
            "bright-long (mean of 8 sets)",
            "https://github.com/xlang-ai/BRIGHT/issues/22",
        ),
        # The authors print no mean. `pooled` is a search of its own, in the passages of all topics.
        "lotte/search": Group(_lotte("search"), "lotte/search (mean of 5 topics, ours)", _LOTTE_SOURCE),
        "lotte/forum": Group(_lotte("forum"), "lotte/forum (mean of 5 topics, ours)", _LOTTE_SOURCE),
        "lotte": Group(
            ("lotte/search", "lotte/forum", "lotte/pooled/test/search", "lotte/pooled/test/forum"),
            source=_LOTTE_SOURCE,
        ),
        # Also the id of the corpus, which `load` returns.
        "msmarco-passage-v2": Group(
            tuple(f"msmarco-passage-v2/trec-dl-{year}/judged" for year in (2021, 2022, 2023)),
            "msmarco-passage-v2 (mean of DL21 to DL23, ours)",
            "https://trec.nist.gov/data/deep2022.html",
        ),
    }
)

# Parent id -> the split that papers report. beir/msmarco/test is TREC DL 2019; papers report dev as MS MARCO.
SPLITS = {
    "beir/msmarco": "beir/msmarco/dev",
    "beir/nfcorpus": "beir/nfcorpus/test",
    "beir/fiqa": "beir/fiqa/test",
    "beir/quora": "beir/quora/test",
    "beir/dbpedia-entity": "beir/dbpedia-entity/test",
    "beir/hotpotqa": "beir/hotpotqa/test",
    "beir/fever": "beir/fever/test",
    "beir/scifact": "beir/scifact/test",
}


def expand(dataset_id: str) -> tuple[str, ...]:
    """Return the dataset ids behind an id: a group's members, a parent's default split, else the id itself."""
    if dataset_id in GROUPS:
        return tuple(_flat(dataset_id))
    return (SPLITS.get(dataset_id, dataset_id),)


def _flat(group: str) -> Iterator[str]:
    for member in GROUPS[group].members:
        if member in GROUPS:
            yield from _flat(member)
        else:
            yield member


def averages(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """
    Return the means of complete groups, as group title -> measure -> mean, from dataset id -> measure -> value.

    A mean covers the measures that every member has. Each forum counts once among the 12, and their mean counts once
    among the 14. BEIR has 18 sets, of which four are not public, so no mean covers 18.
    """
    by_id = _by_id(scores)
    means = {}
    for name, group in GROUPS.items():
        if group.average and all(member in by_id for member in group.members):
            by_id[name] = _means([by_id[member] for member in group.members])
            means[group.average] = by_id[name]
    return means


def incomplete(scores: Mapping[str, object]) -> dict[str, list[str]]:
    """Return the missing members of each group of which at least two datasets have scores."""
    names = {SPLITS.get(name, name) for name in scores}
    lacking = {}
    for name, group in GROUPS.items():
        members = expand(name)
        missing = [member for member in members if member not in names]
        if group.average and missing and len(members) - len(missing) >= 2:
            lacking[name] = missing
    return lacking


def _by_id(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    by_id = {}
    for name, values in scores.items():
        if name not in GROUPS:
            by_id[SPLITS.get(name, name)] = dict(values)
    return by_id


def _means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over datasets of each measure that all of them have."""
    means = {}
    for measure in scores[0]:
        if all(measure in values for values in scores):
            means[measure] = sum(values[measure] for values in scores) / len(scores)
    return means
