"""
The rule by which each dataset is scored, and the groups of datasets.

* Rule, rule(id)      self-hits, relevance threshold, default measures, clusters, and a note about a published dataset
* GROUPS, expand(id)  the members of `beir` and `beir/cqadupstack`, and the default split of a parent id
* averages(scores)    the mean of every complete group, with the number of its members in its name

Ids are ir_datasets' own. Importing this module is cheap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["GROUPS", "Rule", "averages", "expand", "rule"]


@dataclass(frozen=True)
class Rule:
    """The facts about a dataset that scoring needs."""

    # Remove from each ranking the document with the query's id. Only ArguAna and Quora need it: elsewhere equal ids
    # are a coincidence of numbering, and the rule would remove an unrelated document.
    drop_self: bool = False
    # The lowest relevant grade for binary measures. nDCG uses every grade.
    relevance_level: int = 1
    # Default measures, used when the user names none.
    measures: tuple[str, ...] = ("nDCG@10", "Recall@100")
    # Queries whose first relevant documents are equal, or have equal titles, depend on each other. Intervals of
    # differences count them as one cluster.
    clusters: Literal["document", "title"] = "document"
    # One sentence for the reader of a score.
    note: str = ""
    # The published number of judgements whose document the corpus lacks. Any other number is a fault of the copy.
    dangling: int = 0

    def __post_init__(self) -> None:
        if self.relevance_level < 1:
            raise ValueError(f"relevance_level is {self.relevance_level}, and grade 0 means not relevant")


CQADUPSTACK = "beir/cqadupstack"

FORUM_NAMES = "android english gaming gis mathematica physics programmers stats tex unix webmasters wordpress"
FORUMS = tuple(f"{CQADUPSTACK}/{name}" for name in FORUM_NAMES.split())

# BEIR's public zero-shot sets. BioASQ, Signal-1M, TREC-NEWS and Robust04 are not public. The last member is the group
# of 12 forums.
GROUPS: Mapping[str, tuple[str, ...]] = {
    CQADUPSTACK: FORUMS,
    "beir": (
        *("beir/trec-covid", "beir/nfcorpus/test", "beir/nq", "beir/hotpotqa/test", "beir/fiqa/test", "beir/arguana"),
        *("beir/webis-touche2020/v2", "beir/quora/test", "beir/dbpedia-entity/test", "beir/scidocs"),
        *("beir/fever/test", "beir/climate-fever", "beir/scifact/test", CQADUPSTACK),
    ),
}

MEANS = {CQADUPSTACK: "beir/cqadupstack (mean of 12 forums)", "beir": "beir (mean of 14 public sets)"}

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

# The columns of the three papers. Two papers call Success@k "R@k": the share of queries with an answer in the top k.
_MSMARCO = Rule(
    measures=(
        *("MRR@10", "MRR@100", "Recall@10", "Recall@50", "Recall@100", "Recall@1000"),
        *("Success@50", "Success@1000"),
    ),
)
_DEEP = Rule(
    relevance_level=2,
    measures=("nDCG@10", "MRR@10", "Recall@100", "Recall@1000", "MAP"),
    note="TREC DL: nDCG keeps all grades, with linear gain.",
)
_ARGUANA = Rule(
    drop_self=True,
    note="The queries are documents of the corpus; 5 judgements name documents that it lacks.",
    dangling=5,
)

# The first pattern that matches the whole id gives the rule.
_RULES: tuple[tuple[str, Rule], ...] = (
    (r"retrobench/squad(/.+)?", Rule(clusters="title")),  # the title of a passage is that of its Wikipedia article
    (r"beir/arguana", _ARGUANA),
    (r"beir/quora(/.+)?", Rule(drop_self=True, note="The queries are documents of the corpus.")),
    (r"beir/msmarco/test", replace(_DEEP, note=f"43 topics of TREC DL 2019, not MS MARCO's dev set. {_DEEP.note}")),
    (
        r"beir/msmarco(/.+)?",
        replace(_MSMARCO, measures=("MRR@10", "nDCG@10", "Recall@100"), note="MS MARCO dev: 6,980 queries."),
    ),
    (r"beir/webis-touche2020", Rule(note="Version 1 judgements, grades -2 to 5; the group beir has version 2, /v2.")),
    (r"beir/webis-touche2020/v2", Rule(note="Touche-2020 v2: 2,214 judgements, grades 0 to 2.")),
    (r"beir/cqadupstack/.+", Rule(note="One of 12 forums; CQADupStack is the mean of their means.")),
    (r"msmarco-passage/trec-dl-(2019|2020|hard)(/.+)?", _DEEP),
    (r"msmarco-passage-v2/trec-dl-20\d\d(/.+)?", _DEEP),
    (
        r"msmarco-passage/dev/small",
        replace(_MSMARCO, note="The official dev set: 6,980 queries, 7,437 judgements. No titles."),
    ),
    (
        r"msmarco-passage/dev(/judged)?",
        replace(
            _MSMARCO,
            note="Not the set of the papers, which is dev/small: /dev has 101,093 queries but only 59,273 judgements.",
        ),
    ),
    (r"msmarco-passage(-v2)?(/.+)?", replace(_MSMARCO, note="No titles: they are a corpus variant of their own.")),
)


def rule(dataset_id: str) -> Rule:
    """Return the rule of a dataset, and the default rule for an id that no pattern matches."""
    for pattern, published_rule in _RULES:
        if re.fullmatch(pattern, dataset_id):
            return published_rule
    return Rule()


def expand(dataset_id: str) -> tuple[str, ...]:
    """Return the dataset ids behind an id: a group's members, a parent's default split, else the id itself."""
    if dataset_id in GROUPS:
        return tuple(_flat(dataset_id))
    return (SPLITS.get(dataset_id, dataset_id),)


def _flat(group: str) -> Iterator[str]:
    for member in GROUPS[group]:
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
    by_id = {}
    for name, values in scores.items():
        if name not in GROUPS:
            by_id[SPLITS.get(name, name)] = dict(values)
    means = {}
    for group, members in GROUPS.items():  # the forums come first, because their mean is a member of `beir`
        if all(member in by_id for member in members):
            by_id[group] = _means([by_id[member] for member in members])
            means[MEANS[group]] = by_id[group]
    return means


def _means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over datasets of each measure that all of them have."""
    means = {}
    for measure in scores[0]:
        if all(measure in values for values in scores):
            means[measure] = sum(values[measure] for values in scores) / len(scores)
    return means
