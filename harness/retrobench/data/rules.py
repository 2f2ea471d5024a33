"""
How each dataset is scored, and which datasets stand behind one name.

* Rule, rule(id)      self-hits, the least relevant grade, the usual measures, and what to know of a published dataset
* GROUPS, expand(id)  `beir` and `beir/cqadupstack`, and the split that an id without one means
* averages(scores)    the mean of every group that is complete, under a name that says of how many

Ids are those of ir_datasets. Nothing heavy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

__all__ = ["GROUPS", "Rule", "averages", "expand", "rule"]


@dataclass(frozen=True)
class Rule:
    """What the scorer has to know of a dataset."""

    # A query's own document, the one with its id, leaves its ranking. ArguAna and Quora alone: elsewhere equal ids
    # are a coincidence of numbering, and an unrelated document would go.
    drop_self: bool = False
    # The least grade that is relevant in measures that know two grades only; nDCG keeps them all.
    relevance_level: int = 1
    # Computed when nobody names any.
    measures: tuple[str, ...] = ("nDCG@10", "Recall@100")
    # One sentence for the reader of a score.
    note: str = ""
    # Judgements of documents that the corpus lacks, as published. Any other number is a fault of the copy.
    dangling: int = 0

    def __post_init__(self) -> None:
        if self.relevance_level < 1:
            raise ValueError(f"relevance_level is {self.relevance_level}, and grade 0 means not relevant")


FORUMS = tuple(
    f"beir/cqadupstack/{forum}"
    for forum in (
        *("android", "english", "gaming", "gis", "mathematica", "physics"),
        *("programmers", "stats", "tex", "unix", "webmasters", "wordpress"),
    )
)

CQADUPSTACK = "beir/cqadupstack"

# BEIR's zero-shot sets, less the four that are not public: BioASQ, Signal-1M, TREC-NEWS and Robust04. The last
# member stands for its 12 forums.
GROUPS: Mapping[str, tuple[str, ...]] = {
    CQADUPSTACK: FORUMS,
    "beir": (
        *("beir/trec-covid", "beir/nfcorpus/test", "beir/nq", "beir/hotpotqa/test", "beir/fiqa/test", "beir/arguana"),
        *("beir/webis-touche2020/v2", "beir/quora/test", "beir/dbpedia-entity/test", "beir/scidocs"),
        *("beir/fever/test", "beir/climate-fever", "beir/scifact/test", CQADUPSTACK),
    ),
}

MEANS = {CQADUPSTACK: "beir/cqadupstack (mean of 12 forums)", "beir": "beir (mean of 14 public sets)"}

# beir/msmarco/test is TREC DL 2019; the set that papers call MS MARCO is dev.
SPLITS = {"beir/msmarco": "beir/msmarco/dev"} | {
    f"beir/{name}": f"beir/{name}/test"
    for name in ("nfcorpus", "fiqa", "quora", "dbpedia-entity", "hotpotqa", "fever", "scifact")
}

# The columns of the three papers. In two of them R@k is Success@k: a query with any answer in the first k.
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

# The first pattern that matches the whole id.
_RULES: tuple[tuple[str, Rule], ...] = (
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
    """The rule of a dataset; the default one where nothing is known of it."""
    return next((found for pattern, found in _RULES if re.fullmatch(pattern, dataset_id)), Rule())


def expand(dataset_id: str) -> tuple[str, ...]:
    """The datasets that an id stands for: a group's members, a parent's test split, else itself."""
    if dataset_id in GROUPS:
        return tuple(_flat(dataset_id))
    return (SPLITS.get(dataset_id, dataset_id),)


def _flat(name: str) -> Iterator[str]:
    for member in GROUPS[name]:
        yield from _flat(member) if member in GROUPS else (member,)


def averages(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """
    Name of the mean -> measure -> mean, from dataset id -> measure -> value.

    Only groups of which every member is there, and only measures that every member has. A forum counts once among
    the 12, and their mean once among the 14. Of BEIR's 18 sets four are not public, so no mean here is one over 18.
    """
    known = {SPLITS.get(name, name): dict(values) for name, values in scores.items() if name not in GROUPS}
    found = {}
    for group, members in GROUPS.items():  # the forums first: their mean is a member of the other group
        if all(member in known for member in members):
            shared = [name for name in known[members[0]] if all(name in known[member] for member in members)]
            known[group] = {name: sum(known[member][name] for member in members) / len(members) for name in shared}
            found[MEANS[group]] = known[group]
    return found
