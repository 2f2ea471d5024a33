"""The rules compared with ir_datasets' list of datasets, and the means of complete groups."""

from __future__ import annotations

import ir_datasets
import pytest

from retrobench.core.settings import build_record
from retrobench.data.catalogue import published
from retrobench.data.datasets import load
from retrobench.data.groups import GROUPS, averages, expand, incomplete
from retrobench.data.rules import Rule, rule
from retrobench.errors import RetrobenchError
from retrobench.scoring.measures import canonical

DATASET_IDS = list(ir_datasets.registry)
FORUMS = expand("beir/cqadupstack")
ZERO_SHOT = {
    *("beir/trec-covid", "beir/nfcorpus/test", "beir/nq", "beir/hotpotqa/test", "beir/fiqa/test", "beir/arguana"),
    *("beir/webis-touche2020/v2", "beir/quora/test", "beir/dbpedia-entity/test", "beir/scidocs", "beir/fever/test"),
    *("beir/climate-fever", "beir/scifact/test"),
}
DEEP = {
    "beir/msmarco/test",
    "msmarco-passage/trec-dl-2019",
    "msmarco-passage/trec-dl-2019/judged",
    "msmarco-passage/trec-dl-2020",
    "msmarco-passage/trec-dl-2020/judged",
    "msmarco-passage/trec-dl-hard",
    "msmarco-passage/trec-dl-hard/fold1",
    "msmarco-passage/trec-dl-hard/fold2",
    "msmarco-passage/trec-dl-hard/fold3",
    "msmarco-passage/trec-dl-hard/fold4",
    "msmarco-passage/trec-dl-hard/fold5",
    "msmarco-passage-v2/trec-dl-2021",
    "msmarco-passage-v2/trec-dl-2021/judged",
    "msmarco-passage-v2/trec-dl-2022",
    "msmarco-passage-v2/trec-dl-2022/judged",
    "msmarco-passage-v2/trec-dl-2023",
    "msmarco-passage-v2/trec-dl-2023/judged",
}
DROPPING = {"beir/arguana", "beir/quora", "beir/quora/dev", "beir/quora/test"}


def test_own_documents_are_dropped_from_arguana_and_quora_and_nothing_else() -> None:
    assert set(DATASET_IDS) >= DROPPING
    for dataset_id in DATASET_IDS:
        assert rule(dataset_id).drop_self is (dataset_id in DROPPING), dataset_id


def test_binary_measures_count_from_grade_2_on_trec_dl_passages_and_nowhere_else() -> None:
    assert set(DATASET_IDS) >= DEEP
    for dataset_id in DATASET_IDS:
        expected = 1
        if dataset_id in DEEP:
            expected = 2
        assert rule(dataset_id).relevance_level == expected, dataset_id


def test_measures_of_every_rule_can_be_computed() -> None:
    for dataset_id in DATASET_IDS:
        for measure in rule(dataset_id).measures:
            assert canonical(measure) == measure
    assert rule("msmarco-passage/dev/small").measures[0] == "MRR@10"
    assert rule("beir/nfcorpus/test").measures == ("nDCG@10", "Recall@100")
    assert rule("a/folder").measures == ("nDCG@10", "Recall@100")


def test_documents_are_excluded_in_bright_and_nowhere_else() -> None:
    marked = {name for name in DATASET_IDS if rule(name).excluded_grade is not None}
    assert marked == {name for name in DATASET_IDS if name.startswith("bright/")}
    assert len(marked) == 20
    assert {rule(name).excluded_grade for name in marked} == {-100}
    assert rule("bright/biology-long").measures[0] == "Recall@1"
    assert rule("bright/biology").measures[0] == "nDCG@10"


def test_nano_beir_drops_nothing() -> None:
    for name in expand("nano-beir"):
        assert not rule(name).departures(), name
    assert "no document is dropped" in rule("nano-beir/arguana").note


@pytest.mark.parametrize(
    "name", ["beir/trec-covid", "beir/webis-touche2020/v2", "beir/dbpedia-entity/test", "msmarco-passage/trec-dl-2019"]
)
def test_pooled_sets_show_the_share_of_judged_hits(name: str) -> None:
    assert rule(name).measures[:2] == ("nDCG@10", "Judged@10")


def test_every_rule_that_departs_from_the_default_names_its_source() -> None:
    departing = [name for name in DATASET_IDS if rule(name).departures()]
    assert len(departing) > 40
    for name in departing:
        assert rule(name).source.startswith("https://"), name


def test_the_members_of_every_group_are_ir_datasets_ids() -> None:
    sizes = {name: len(expand(name)) for name in GROUPS}
    assert sizes == {
        "beir/cqadupstack": 12,
        "beir": 25,
        "nano-beir": 13,
        "bright": 12,
        "bright-long": 8,
        "lotte/search": 5,
        "lotte/forum": 5,
        "lotte": 12,
        "msmarco-passage-v2": 3,
    }
    for name, group in GROUPS.items():
        assert set(expand(name)) <= set(DATASET_IDS), name
        assert group.source.startswith("https://"), name


@pytest.mark.parametrize("name", ["nano-beir", "bright", "bright-long", "lotte/search", "msmarco-passage-v2"])
def test_a_mean_needs_every_member(name: str) -> None:
    scores = {member: {"nDCG@10": 0.1 * number} for number, member in enumerate(expand(name))}
    title = GROUPS[name].average
    assert averages(scores) == {title: {"nDCG@10": pytest.approx(0.05 * (len(scores) - 1))}}
    assert incomplete(scores) == {}
    missing = expand(name)[1]
    del scores[missing]
    assert averages(scores) == {}
    assert incomplete(scores) == {name: [missing]}


def test_lotte_has_no_mean_of_search_and_forum() -> None:
    scores = {member: {"Success@5": 0.5} for member in expand("lotte")}
    assert list(averages(scores)) == [GROUPS["lotte/search"].average, GROUPS["lotte/forum"].average]


def test_the_corpus_with_the_name_of_a_group_is_loaded() -> None:
    assert load("msmarco-passage-v2").has("docs")
    with pytest.raises(RetrobenchError, match="'bright' is a group of datasets"):
        load("bright")


def test_a_level_below_1_is_refused() -> None:
    with pytest.raises(RetrobenchError, match="relevance_level is 0"):
        build_record(Rule, {"relevance_level": 0}, "dataset.toml")


def test_beir_is_13_sets_and_12_forums() -> None:
    forums = {name for name in DATASET_IDS if name.startswith("beir/cqadupstack/")}
    assert len(forums) == 12
    assert set(FORUMS) == forums
    assert set(GROUPS["beir/cqadupstack"].members) == forums
    assert set(GROUPS["beir"].members) == {*ZERO_SHOT, "beir/cqadupstack"}
    names = expand("beir")
    assert len(names) == 25
    assert set(names) == ZERO_SHOT | forums
    for name in names:
        dataset = ir_datasets.load(name)
        assert dataset.has("docs")
        assert dataset.has("queries")
        assert dataset.has("qrels")


def test_split_of_a_parent_is_the_one_papers_report() -> None:
    assert expand("beir/msmarco") == ("beir/msmarco/dev",)  # /test is TREC DL 2019
    assert expand("beir/nfcorpus") == ("beir/nfcorpus/test",)
    for name in ("beir/webis-touche2020", "beir/arguana", "msmarco-passage/dev/small", "some/folder:dev"):
        assert expand(name) == (name,)
    parents = 0
    for name in DATASET_IDS:
        if name.startswith("beir/") and not ir_datasets.load(name).has("qrels"):
            parents += 1
            split = expand(name)[0]
            assert ir_datasets.load(split).has("qrels")
    assert parents == 8


def test_notes_tell_ms_marcos_dev_sets_apart() -> None:
    small = published("msmarco-passage/dev/small")
    large = published("msmarco-passage/dev")
    assert small["queries"] == 6980
    assert small["qrels"] == 7437
    assert large["queries"] == 101093
    assert large["qrels"] == 59273
    assert "6,980 queries, 7,437 judgements" in rule("msmarco-passage/dev/small").note
    assert "101,093 queries but only 59,273" in rule("msmarco-passage/dev").note
    assert "not MS MARCO's dev set" in rule("beir/msmarco/test").note
    assert "/v2" in rule("beir/webis-touche2020").note


def test_forums_have_a_mean_only_when_all_12_are_there() -> None:
    mean = "beir/cqadupstack (mean of 12 forums)"
    scores = {}
    for number, name in enumerate(FORUMS, 1):
        scores[name] = {"nDCG@10": number / 100}
    assert averages(scores) == {mean: {"nDCG@10": pytest.approx(0.065)}}
    assert averages({**scores, "beir/cqadupstack/tex": {"MAP": 0.1}}) == {mean: {}}
    del scores["beir/cqadupstack/tex"]
    assert averages(scores) == {}


def test_mean_over_14_takes_the_forums_as_one_and_says_14() -> None:
    scores = {"beir/msmarco/dev": {"nDCG@10": 0.0}}  # in domain: never part of the mean
    for name in ZERO_SHOT:
        scores[name] = {"nDCG@10": 0.5}
    for name in FORUMS:
        scores[name] = {"nDCG@10": 0.8}
    means = averages(scores)
    expected = (13 * 0.5 + 0.8) / 14
    assert means["beir (mean of 14 public sets)"] == {"nDCG@10": pytest.approx(expected)}
    assert list(means) == ["beir/cqadupstack (mean of 12 forums)", "beir (mean of 14 public sets)"]
    del scores["beir/webis-touche2020/v2"]
    scores["beir/webis-touche2020"] = {"nDCG@10": 0.5}  # version 1 does not stand in for version 2
    assert list(averages(scores)) == ["beir/cqadupstack (mean of 12 forums)"]
    assert averages({}) == {}
