"""Queries about one document, or about documents of one title, are one cluster."""

from __future__ import annotations

from pathlib import Path

from retrobench.data import load, query_clusters, register
from retrobench.data.rules import rule

CORPUS = """{"_id": "d1", "title": "Whales", "text": "one"}
{"_id": "d2", "title": "Whales", "text": "two"}
{"_id": "d10", "title": "", "text": "three"}
{"_id": "d3", "title": "", "text": "four"}
"""
QRELS = """query-id	corpus-id	score
a	d2	1
a	d10	2
a	d3	2
b	d1	1
c	d2	1
c	d1	1
d	d2	1
e	d1	0
f	d3	0
g	d3	1
"""


def collection(folder: Path, description: str = "") -> str:
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_text(CORPUS)
    (folder / "queries.jsonl").write_text("".join(f'{{"_id": "{query}", "text": "?"}}\n' for query in "abcdefg"))
    (folder / "qrels" / "test.tsv").write_text(QRELS)
    (folder / "dataset.toml").write_text(description)
    return str(folder)


def test_a_cluster_is_the_smallest_document_of_the_highest_grade(tmp_path: Path) -> None:
    clusters = query_clusters(load(collection(tmp_path)))
    # a: d10 is before d3 and has the highest grade. c: d1 before d2. e and f have no relevant document.
    assert clusters == {"a": 0, "b": 1, "c": 1, "d": 2, "e": 3, "f": 4, "g": 5}


def test_a_rule_may_cluster_by_title(tmp_path: Path) -> None:
    clusters = query_clusters(load(collection(tmp_path, 'clusters = "title"\n')))
    # d1 and d2 are of one title. An empty title is none, so d10 and d3 stay apart.
    assert clusters == {"a": 0, "b": 1, "c": 1, "d": 1, "e": 2, "f": 3, "g": 4}


def test_questions_of_squad_are_clustered_by_article() -> None:
    register()
    assert rule("retrobench/squad/test").clusters == rule("retrobench/squad").clusters == "title"
    assert rule("beir/nfcorpus/test").clusters == "document"
    clusters = query_clusters(load("retrobench/squad/test"))
    assert len(clusters) == 10570
    assert set(clusters.values()) == set(range(48)), "as many articles as SQuAD v1.1's development set has"
