"""The evaluation pitfalls that moved published numbers, by number: datasets, their means and their texts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import leaderboard_rows as rows
import pytest
import tiny
import works
from pitfall_files import catalogued, claimed, collection, reproduced, score, write

from retrobench.config.track import Evaluate, Finetune, Model, Pretrain, Reading, Titles, Track
from retrobench.data import doctor, groups
from retrobench.data.catalogue import published
from retrobench.data.datasets import load
from retrobench.data.groups import averages, expand
from retrobench.data.rules import rule
from retrobench.data.tokens import TokenisedTexts
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.claims import read_tables
from retrobench.leaderboard.comparison import compare
from retrobench.leaderboard.rows import UnlikeError
from retrobench.scoring import trec
from retrobench.scoring.score import score_file
from retrobench.stages import tokenise_documents
from retrobench.store.store import Artifact


def kinds(dataset: str) -> dict[str, tuple[str, int]]:
    """Return the doctor's findings: kind -> level and count."""
    (checked,) = doctor.check(dataset).checked
    findings: dict[str, tuple[str, int]] = {}
    for finding in checked.findings:
        findings[finding.kind] = (finding.level, finding.count)
    return findings


def test_pitfall_02_another_set_is_taken_for_the_dev_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The papers' dev set has 6,980 queries with 7,437 judgements; /dev has 101,093, and BEIR's /test is TREC DL's."""
    assert expand("beir/msmarco") == ("beir/msmarco/dev",)
    assert load("beir/msmarco").id == "beir/msmarco/dev"
    for name in ("beir/msmarco/dev", "msmarco-passage/dev/small"):
        sizes = published(name)
        assert sizes["queries"] == 6980
        assert sizes["qrels"] == 7437
        assert "6,980 queries" in rule(name).note
    assert rule("msmarco-passage/dev").note.startswith("Not the set of the papers, which is dev/small")
    assert rule("beir/msmarco/test").note.startswith("43 topics of TREC DL 2019, not MS MARCO's dev set.")
    # A set of another size under this name is a fault, and named with the size it should have.
    qrels = {"q1": {"a": 1}, "q2": {"a": 1, "b": 1}}
    catalogued("beir/msmarco/dev", tmp_path, "a b", qrels, monkeypatch)
    report = doctor.check("beir/msmarco")
    text = report.text()
    assert report.faults == 3
    assert report.exit_code == 1
    assert "2 documents where 8,841,823 are published" in text
    assert "2 queries where 6,980 are published" in text
    assert "3 judgements where 7,437 are published" in text


# Groups and their means


def beir() -> dict[str, dict[str, float]]:
    """Return values of every set of BEIR: 0.1, 0.2, ... 1.3 for the single ones, 0.01, ... 0.12 for the forums."""
    single = [name for name in groups.GROUPS["beir"].members if name != "beir/cqadupstack"]
    values = {}
    for number, name in enumerate(single, 1):
        values[name] = {"nDCG@10": 0.1 * number}
    for number, forum in enumerate(groups.GROUPS["beir/cqadupstack"].members, 1):
        values[forum] = {"nDCG@10": 0.01 * number}
    return values


def beir_without(dataset: str) -> dict[str, dict[str, float]]:
    values = beir()
    del values[dataset]
    return values


def test_pitfall_18_a_mean_over_14_stands_in_a_column_of_18() -> None:
    """13 sets sum to 9.1 and CQADupStack is 0.065: the mean of 14 is 9.165 / 14, and says that it is one of 14."""
    means = averages(beir())
    assert means["beir (mean of 14 public sets)"]["nDCG@10"] == pytest.approx(9.165 / 14, abs=1e-12)
    assert set(means) == {"beir (mean of 14 public sets)", "beir/cqadupstack (mean of 12 forums)"}
    # MS MARCO is no zero-shot set, and a mean of 13 is none.
    with_msmarco = {**beir(), "beir/msmarco/dev": {"nDCG@10": 1.0}}
    assert averages(with_msmarco) == means
    assert len(expand("beir")) == 13 + 12
    assert "beir/msmarco/dev" not in expand("beir")
    means_without_fever = averages(beir_without("beir/fever/test"))
    assert set(means_without_fever) == {"beir/cqadupstack (mean of 12 forums)"}


def test_pitfall_18_the_papers_mean_of_18_has_no_counterpart(tmp_path: Path) -> None:
    """A row with NFCorpus and the mean of 14: the first is held against the paper's, the mean against nothing."""
    nfcorpus = "beir/nfcorpus/test"
    tables = {table.id: table for table in read_tables()}
    table = tables["retromae/table-1"]
    measured = rows.row(
        "retromae",
        track="beir",
        settings={},
        artifacts={"finetune": "0"},
        measures={"beir (mean of 14 public sets)": {"nDCG@10": 0.452}, nfcorpus: {"nDCG@10": 0.31}},
        facts={nfcorpus: dict(table.excerpts[0].datasets[nfcorpus].needs)},
    )
    cells = {}
    for cell in reproduced(tmp_path, [measured], table.id):
        if cell["model"] == "RetroMAE":
            cells[cell["dataset"]] = cell
    assert cells[nfcorpus]["verdict"] == "WITHIN (one seed)"
    assert cells["beir/nq"]["verdict"] == "NOT RUN"
    mean = cells["AVERAGE (18 sets)"]
    assert mean["published"] == 0.452
    assert mean["measured"] is None
    assert mean["verdict"] == "N/A"
    assert mean["reason"].startswith("a mean over 18 sets, of which 4 are not public")


def test_pitfall_19_a_forum_of_cqadupstack_is_missing() -> None:
    """The mean of the forums' means, (0.01 + ... + 0.12) / 12 = 0.065, and none of eleven: nor then of the 14."""
    forums = expand("beir/cqadupstack")
    assert len(forums) == 12
    values = beir()
    forum_values = {forum: values[forum] for forum in forums}
    mean = {"nDCG@10": pytest.approx(0.065, abs=1e-12)}
    assert averages(forum_values) == {"beir/cqadupstack (mean of 12 forums)": mean}
    for forum in forums:
        assert averages(beir_without(forum)) == {}


def test_pitfall_20_touche_has_two_sets_of_judgements(tmp_path: Path) -> None:
    """Version 2, 2,214 judgements from 0 to 2, not the first, 2,962 from -2 to 5; below 0 a grade counts as 0."""
    touche = [name for name in expand("beir") if "touche" in name]
    assert touche == ["beir/webis-touche2020/v2"]
    assert published("beir/webis-touche2020/v2")["qrels"] == 2214
    assert published("beir/webis-touche2020")["qrels"] == 2962
    assert rule("beir/webis-touche2020/v2").note.startswith("Touche-2020 v2: 2,214 judgements")
    # a has a negative grade, which counts as 0: the only gain is b's, 2 / log2 3 of an ideal 2.
    qrels = {"q": {"a": -2, "b": 2}}
    expected = {"nDCG@10": 1 / math.log2(3), "RR": 1 / 2, "Recall@10": 1.0}
    scored = score(tmp_path, {"q": "a b"}, qrels, *expected)
    assert scored.measures == pytest.approx(expected, abs=1e-12)
    data = collection(tmp_path / "data", "a b", qrels)
    assert kinds(str(data))["negative-grades"] == ("remark", 1)


def test_pitfall_21_judged_documents_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`gone` is relevant and not in the corpus: recall is 1 of 2, and the doctor names it."""
    data = str(collection(tmp_path / "data", "a b", {"q": {"a": 1, "gone": 1}}))
    run, _ = write(tmp_path, {"q": "a b"}, {})
    ndcg = 1 / (1 + 1 / math.log2(3))
    expected = {"Recall@10": 1 / 2, "nDCG@10": ndcg, "MAP": 1 / 2}
    scored = score_file(run, data, None, list(expected))
    assert scored.measures == pytest.approx(expected, abs=1e-12)
    report = doctor.check(data)
    assert report.faults == 1
    assert report.exit_code == 1
    assert "1 judgements name documents that the corpus lacks: gone" in report.text()


@pytest.mark.parametrize(("missing", "level"), [(5, "remark"), (4, "fault")])
def test_pitfall_21_documents_missing_from_the_published_arguana(
    missing: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ArguAna was published with five such judgements, a remark and no fault of the copy; four are a fault."""
    qrels = {f"q{row}": {f"gone{row}": 1} for row in range(missing)}
    qrels["answered"] = {"a": 1}
    catalogued("beir/arguana", tmp_path, "a b", qrels, monkeypatch)
    assert kinds("beir/arguana")["dangling-documents"] == (level, missing)


# Texts and judgements


def titled(folder: Path, title: str) -> str:
    """Write a collection of one passage with this title, and return the dataset's id."""
    collection(folder, "a", {"q": {"a": 1}})
    passage = json.dumps({"_id": "a", "title": title, "text": "fege"})
    (folder / "corpus.jsonl").write_text(f"{passage}\n")
    return str(folder)


def test_pitfall_22_passages_with_titles_are_compared_with_those_without(tmp_path: Path) -> None:
    """The same passages with RocketQA's titles are another corpus, and rows measured on the two share no table."""
    with_titles = load(titled(tmp_path / "with", "bada")).corpus_fingerprint()
    without_titles = load(titled(tmp_path / "without", "")).corpus_fingerprint()
    assert with_titles != without_titles
    facts = {rows.DATASET: {"documents": 1, "queries": 1, "corpus": with_titles}}
    unlike_facts = {rows.DATASET: {"documents": 1, "queries": 1, "corpus": without_titles}}
    bert = rows.row("bert", facts=facts, settings={})
    (comparison,) = compare([bert, rows.row("mlm", facts=facts, settings={})])
    assert len(comparison.lines) == 2
    with pytest.raises(UnlikeError, match=r"cannot stand in one table: on .* their corpus differ") as refused:
        compare([bert, rows.row("mlm", facts=unlike_facts, settings={})])
    assert refused.value.exit_code == 3
    # A row without titles is not compared with a claim about passages with titles.
    table = claimed(tmp_path, rows.DATASET, 0.25, f'corpus = "{with_titles}"')
    (cell,) = reproduced(tmp_path, [bert], table)
    assert cell["verdict"] == "PASS"
    unlike = rows.row("bert", facts=unlike_facts, settings={})
    with pytest.raises(UnlikeError, match=rf"has corpus {without_titles} on .*, and demo/table-1 needs {with_titles}"):
        reproduced(tmp_path, [unlike], table)


def test_pitfall_23_titles_are_joined_in_several_ways(tmp_path: Path) -> None:
    """Left out, in front of the text, or parted by [SEP]: each its own tokens, its own key and its own track."""
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(tmp_path / "base")
    data = titled(tmp_path / "data", "bada")
    expected: dict[Titles, list[str]] = {
        False: ["fe", "##ge"],
        True: ["ba", "##da", "fe", "##ge"],
        "[SEP]": ["ba", "##da", "[SEP]", "fe", "##ge"],
    }
    keys: set[str] = set()
    identities: set[str] = set()
    for titles, tokens in expected.items():
        artifact = tokenise_titled(tmp_path, data, titles)
        assert tokenizer.convert_ids_to_tokens(token_ids(artifact)) == tokens
        keys.add(artifact.key)
        identities.add(titles_track(data, titles).identity)
    assert len(keys) == 3
    assert len(identities) == 3
    # A passage without a title gets no separator.
    bare = tokenise_titled(tmp_path, titled(tmp_path / "bare", ""), "[SEP]")
    assert tokenizer.convert_ids_to_tokens(token_ids(bare)) == ["fe", "##ge"]


def tokenise_titled(folder: Path, data: str, titles: Titles) -> Artifact:
    """Tokenise a collection's documents with the tokenizer in `folder`/base."""
    work = works.work(folder / "store", data, base=folder / "base")
    corpus = work.inputs.collections[data].corpus
    return tokenise_documents(work, corpus, titles)


def token_ids(artifact: Artifact) -> list[int]:
    """Return the ids of the first passage, title and text."""
    passage = TokenisedTexts.open(artifact.path)[0]
    return [*passage.title, *passage.text]


def titles_track(data: str, titles: Titles) -> Track:
    budget: dict[str, Any] = {"steps": 1, "batch": 2, "learning_rate": 1e-3}
    pretrain = Pretrain(**budget)
    finetune = Finetune(**budget, queries=data, reading=Reading(titles=titles))
    return Track("tiny", Model("unused"), pretrain, finetune, Evaluate((data,)))


@pytest.mark.parametrize("titles", ["space", "none"])
def test_pitfall_23_a_claim_of_one_way_is_not_measured_by_another(titles: str, tmp_path: Path) -> None:
    table = claimed(tmp_path, rows.DATASET, 0.25, 'titles = "[SEP]"')
    measured = rows.row("bert", settings={}, facts={rows.DATASET: {"titles": titles}})
    with pytest.raises(UnlikeError, match=rf"has titles {titles} on .*, and demo/table-1 needs \[SEP\]"):
        reproduced(tmp_path, [measured], table)


def test_pitfall_24_a_pair_is_judged_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As 1 and as 0: nDCG would take one and RR the other. Refused wherever it comes from; twice the same is none."""
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("q 0 a 1\nq 0 b 1\nq 0 b 1\nq 0 a 0\n")
    with pytest.raises(RetrobenchError, match=r"qrels\.txt, line 4: query 'q' and document 'a' are judged 0 here and"):
        trec.read_qrels(qrels)
    run, _ = write(tmp_path, {"q": "a b"}, {})
    message = r"judges query 'q' and document 'a' twice, as 1 and as 0; remove one of the two\.$"

    folder = collection(tmp_path / "data", "a b", {"q": {"a": 1}})
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q\ta\t0\n")
    with pytest.raises(RetrobenchError, match=message):
        score_file(run, str(folder), None, ["RR"])
    assert kinds(str(folder))["contradictions"] == ("fault", 1)

    judged = catalogued("beir/fiqa/test", tmp_path, "a b", {"q": {"a": 1}}, monkeypatch)
    with judged.open("a") as file:
        file.write("q 0 a 0\n")
    with pytest.raises(RetrobenchError, match=message):
        score_file(run, "beir/fiqa/test", None, ["RR"])
