"""
The rule by which each published dataset is scored.

* Rule       removals, relevance threshold, default measures, clusters, source, and a note about a dataset
* rule(id)   the rule of a dataset, the default rule for an unknown id

Ids are ir_datasets' own. Importing this module is cheap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["Rule", "rule"]


@dataclass(frozen=True)
class Rule:
    """The facts about a dataset that scoring needs."""

    # Remove from each ranking the document with the query's id. Only ArguAna and Quora need it: elsewhere equal ids
    # are a coincidence of numbering, and the rule would remove an unrelated document.
    drop_self: bool = False
    # Remove from each ranking the documents that the judgements mark with this grade (BRIGHT: -100).
    excluded_grade: int | None = None
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
    # The address of the text or the code that sets the rule.
    source: str = ""

    def departures(self) -> list[str]:
        """Return in words how the rule departs from the default."""
        words = []
        if self.drop_self:
            words.append("a query's own document is dropped")
        if self.excluded_grade is not None:
            words.append(f"documents of grade {self.excluded_grade} are removed from their query's ranking")
        if self.relevance_level > 1:
            words.append(f"relevant from grade {self.relevance_level}")
        return words

    def __post_init__(self) -> None:
        if self.relevance_level < 1:
            raise ValueError(f"relevance_level is {self.relevance_level}, and grade 0 means not relevant")


# The columns of the three papers. Two papers call Success@k "R@k": the share of queries with an answer in the top k.
_MSMARCO = Rule(
    measures=(
        *("MRR@10", "MRR@100", "Recall@10", "Recall@50", "Recall@100", "Recall@1000"),
        *("Success@50", "Success@1000"),
    ),
    source="https://github.com/microsoft/MSMARCO-Passage-Ranking",
)
# Judgements of a pool: beside nDCG stands the share of the ranking that was judged at all.
_POOLED = Rule(measures=("nDCG@10", "Judged@10", "Recall@100"), source="https://arxiv.org/abs/2104.08663")
_DEEP = Rule(
    relevance_level=2,
    measures=("nDCG@10", "Judged@10", "MRR@10", "Recall@100", "Recall@1000", "MAP"),
    note="TREC DL: nDCG keeps all grades, with linear gain.",
    source="https://trec.nist.gov/data/deep2019.html",
)
_DEEP_V2 = replace(_DEEP, source="https://trec.nist.gov/data/deep2022.html")
_ARGUANA = Rule(
    drop_self=True,
    note="The queries are documents of the corpus; 5 judgements name documents that it lacks.",
    dangling=5,
    source="https://github.com/beir-cellar/beir/pull/91",
)
_NANO = Rule(
    measures=("nDCG@10", "MRR@10", "Recall@10"),
    source="https://github.com/huggingface/sentence-transformers, NanoBEIREvaluator",
)
_NANO_OWN = replace(
    _NANO, note="Unlike in BEIR, no document is dropped: neither NanoBEIREvaluator nor MTEB's Nano tasks drop any."
)
_BRIGHT = Rule(
    excluded_grade=-100,
    measures=("nDCG@10", "Recall@100"),
    source="https://github.com/xlang-ai/BRIGHT, retrievers.py",
)
_BRIGHT_LONG = replace(
    _BRIGHT,
    measures=("Recall@1", "Success@1"),
    note="Long documents: Recall@1, where ir_datasets names Success@1.",
    source="https://github.com/xlang-ai/BRIGHT/issues/22",
)
_LOTTE = Rule(
    measures=("Success@5", "Recall@100"),
    source="https://github.com/stanford-futuredata/ColBERT/blob/main/utility/evaluate/evaluate_lotte_rankings.py",
)
_COPIED = "Judgements are copied to near-duplicates, so scores of deduplicated runs are not comparable."

# The first pattern that matches the whole id gives the rule.
_RULES: tuple[tuple[str, Rule], ...] = (
    (r"retrobench/squad(/.+)?", Rule(clusters="title")),  # the title of a passage is that of its Wikipedia article
    (r"beir/arguana", _ARGUANA),
    (
        r"beir/quora(/.+)?",
        Rule(
            drop_self=True,
            note="The queries are documents of the corpus.",
            source="https://github.com/beir-cellar/beir/issues/72",
        ),
    ),
    (r"beir/msmarco/test", replace(_DEEP, note=f"43 topics of TREC DL 2019, not MS MARCO's dev set. {_DEEP.note}")),
    (
        r"beir/msmarco(/.+)?",
        replace(_MSMARCO, measures=("MRR@10", "nDCG@10", "Recall@100"), note="MS MARCO dev: 6,980 queries."),
    ),
    (
        r"beir/webis-touche2020",
        replace(_POOLED, note="Version 1 judgements, grades -2 to 5; the group beir has version 2, /v2."),
    ),
    (r"beir/webis-touche2020/v2", replace(_POOLED, note="Touche-2020 v2: 2,214 judgements, grades 0 to 2.")),
    (r"beir/(trec-covid|dbpedia-entity(/.+)?)", _POOLED),
    (
        r"beir/cqadupstack/.+",
        Rule(
            note="One of 12 forums; CQADupStack is the mean of their means.", source="https://arxiv.org/abs/2104.08663"
        ),
    ),
    (r"nano-beir/(arguana|quora)", _NANO_OWN),
    (r"nano-beir/.+", _NANO),
    (r"bright/.+-long", _BRIGHT_LONG),
    (r"bright/.+", _BRIGHT),
    (r"lotte/.+", _LOTTE),
    (r"msmarco-passage/trec-dl-(2019|2020|hard)(/.+)?", _DEEP),
    (r"msmarco-passage-v2/trec-dl-2021(/.+)?", _DEEP_V2),
    (r"msmarco-passage-v2/trec-dl-20\d\d(/.+)?", replace(_DEEP_V2, note=f"{_DEEP.note} {_COPIED}")),
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
