"""The evaluation pitfalls that moved published numbers, by number: vectors, self-hits, datasets and their means."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import ir_datasets
import numpy as np
import pytest
import rows
import tiny
import works
from laid import ranked
from runs import catalogued, claimed, collection, lay, reproduced, score, write

from retrobench.config.track import Evaluate, Finetune, Model, Pretrain, Reading, Titles, Track
from retrobench.data import doctor, rules
from retrobench.data.catalogue import published
from retrobench.data.datasets import load
from retrobench.data.rules import averages, expand, rule
from retrobench.data.tokens import TokenisedTexts
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.claims import read_tables
from retrobench.leaderboard.comparison import compare
from retrobench.leaderboard.rows import UnlikeError
from retrobench.scoring import ranking, trec
from retrobench.scoring.measures import measure
from retrobench.scoring.runfiles import write_run
from retrobench.scoring.score import score_file
from retrobench.stages import tokenise_documents


def kinds(dataset: str) -> dict[str, tuple[str, int]]:
    """Return the doctor's findings: kind -> level and count."""
    (checked,) = doctor.check(dataset).checked
    return {finding.kind: (finding.level, finding.count) for finding in checked.findings}


def test_pitfall_02_another_set_is_taken_for_the_dev_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The papers' dev set has 6,980 queries with 7,437 judgements; /dev has 101,093, and BEIR's /test is TREC DL's."""
    assert expand("beir/msmarco") == ("beir/msmarco/dev",) and load("beir/msmarco").id == "beir/msmarco/dev"
    for name in ("beir/msmarco/dev", "msmarco-passage/dev/small"):
        assert (published(name)["queries"], published(name)["qrels"]) == (6980, 7437)
        assert "6,980 queries" in rule(name).note
    assert rule("msmarco-passage/dev").note.startswith("Not the set of the papers, which is dev/small")
    assert rule("beir/msmarco/test").note.startswith("43 topics of TREC DL 2019, not MS MARCO's dev set.")
    # A set of another size under this name is a fault, and named with the size it should have.
    catalogued("beir/msmarco/dev", tmp_path, "a b", {"q1": {"a": 1}, "q2": {"a": 1, "b": 1}}, monkeypatch)
    report = doctor.check("beir/msmarco")
    assert (report.faults, report.exit_code) == (3, 1)
    assert "2 documents where 8,841,823 are published" in report.text()
    assert "2 queries where 6,980 are published" in report.text()
    assert "3 judgements where 7,437 are published" in report.text()


# Vectors


def test_pitfall_15_nan_and_minus_one_become_hits(tmp_path: Path) -> None:
    """A vector that is not finite is refused by the name of its text; faiss's -1, "nothing more", ends a list."""
    sound, ids = [[-1.0, 0.0], [-2.0, 0.0], [-3.0, 0.0]], ["a", "b", "c"]
    for number, value in enumerate((math.nan, math.inf, -math.inf)):
        spoilt = lay(tmp_path / f"spoilt{number}", [*sound[:2], [value, 0.0]])
        finite = lay(tmp_path / f"finite{number}", sound)
        with pytest.raises(RetrobenchError, match=r"^The vector of document 'c' .* is not finite"):
            ranked(finite, spoilt, ["q1", "q2", "q3"], ids, 2)
        with pytest.raises(RetrobenchError, match=r"^The vector of query 'q3' .* is not finite"):
            ranked(spoilt, finite, ["q1", "q2", "q3"], ids, 2)

    # Asked for five of three documents: each once, though all products are below the -1 that stood for NaN elsewhere.
    hits = ranked(lay(tmp_path / "q", [[1.0, 0.0]]), tmp_path / "finite0", ["q"], ids, 5)
    assert hits.rows.tolist() == [[0, 1, 2]]
    assert hits.scores.tolist() == [[-1.0, -2.0, -3.0]]

    # And what faiss itself says of five, through the ranking, a run file and the scorer.
    index = faiss.IndexFlatIP(2)
    index.add(np.asarray(sound[:2], np.float32))
    scores, rows = index.search(np.asarray([[1.0, 0.0]], np.float32), 5)
    assert rows.tolist() == [[0, 1, -1, -1, -1]] and scores[0, 4] < -1e38
    settled = ranking.finish(rows, np.where(rows < 0, 9.0, scores), ranking.precedence(ids), 5)
    assert settled.rows.tolist() == [[0, 1, -1, -1, -1]]
    assert settled.scores.tolist() == [[-1.0, -2.0, -math.inf, -math.inf, -math.inf]]
    write_run(tmp_path, ["q"], ids, settled, "short")
    assert (tmp_path / "run.trec").read_text() == "q Q0 a 1 -1 short\nq Q0 b 2 -2 short\n"
    names = ("RR", "Recall@10", "nDCG@10")
    assert measure(["q"], settled.rows, ids, {"q": {"c": 1}}, names) == {name: {"q": 0.0} for name in names}


def test_pitfall_16_a_single_query_fails(tmp_path: Path) -> None:
    """One query, one document, one measure, from vectors to a score."""
    hits = ranked(lay(tmp_path / "q", [[2.0]]), lay(tmp_path / "p", [[0.5]]), ["q"], ["d"], 10)
    assert hits.rows.tolist() == [[0]]
    assert hits.scores.tolist() == [[1.0]]
    write_run(tmp_path, ["q"], ["d"], hits, "one")
    data = collection(tmp_path / "data", "d", {"q": {"d": 1}})
    for name in ("nDCG@10", "MRR@10", "RR", "Recall@10"):
        assert score_file(tmp_path / "run.trec", str(data), None, [name]).values == {name: {"q": 1.0}}


# Self-hits


def test_pitfall_17_own_documents_stay_in_arguana(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its own document the answer of each query moves up: ranks 1, 1 and 2, no longer 2, 1 and 3."""
    qrels = {"a": {"b": 1}, "b": {"c": 1}, "c": {"b": 1}}
    catalogued("beir/arguana", tmp_path, "a b c d", qrels, monkeypatch)
    run, judged = write(tmp_path, {"a": "a b", "b": "c d b", "c": "c d b"}, qrels)
    scored = score_file(run, "beir/arguana", None, ["RR", "nDCG@10"])
    assert scored.values["RR"] == {"a": 1.0, "b": 1.0, "c": 1 / 2}
    assert scored.self_hits_removed == 3
    assert "self-hits removed  3 (the dataset's rule)" in scored.text()
    # Judgements alone say nothing of it, and nothing is removed.
    plain = score_file(run, None, judged, ["RR"])
    assert (plain.values["RR"], plain.self_hits_removed) == ({"a": 1 / 2, "b": 1.0, "c": 1 / 3}, 0)


def test_pitfall_17_own_documents_go_by_chance_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In FiQA query 7 and document 7 have nothing to do with each other: the document stays, here the right one."""
    assert {name for name in ir_datasets.registry if rule(name).drop_self} == {
        *("beir/arguana", "beir/quora", "beir/quora/dev", "beir/quora/test")
    }
    catalogued("beir/fiqa/test", tmp_path, "7 8", {"7": {"7": 1}}, monkeypatch)
    run, _ = write(tmp_path, {"7": "7 8"}, {})
    scored = score_file(run, "beir/fiqa/test", None, ["RR"])
    assert (scored.measures, scored.self_hits_removed) == ({"RR": 1.0}, 0)


def test_pitfall_17_a_list_is_one_short(tmp_path: Path) -> None:
    """Documents a to d score 4, 3, 2, 1: the first two for query a are b and c, for query x still a and b."""
    queries = lay(tmp_path / "q", [[1.0], [1.0]])
    passages = lay(tmp_path / "p", [[4.0], [3.0], [2.0], [1.0]])
    ids = ["a", "b", "c", "d"]
    hits = ranked(queries, passages, ["a", "x"], ids, 2, drop_self=True)
    assert hits.rows.tolist() == [[1, 2], [0, 1]]
    assert hits.scores.tolist() == [[3.0, 2.0], [4.0, 3.0]]
    assert hits.self_hits == 1
    # Query c has its own document right below the cut: nothing was removed that anybody would have seen.
    assert ranked(queries, passages, ["c", "x"], ids, 2, drop_self=True).self_hits == 0


def test_pitfall_17_the_callers_arrays_stay_unchanged() -> None:
    ids = ["a", "b", "c", "d"]
    rows = np.asarray([[0, 1, 2]], np.int32)
    scores = np.asarray([[3.0, 2.0, 1.0]], np.float32)
    settled = ranking.finish(rows, scores, ranking.precedence(ids), 2, ranking.own_rows(["a"], ids))
    assert settled.rows.tolist() == [[1, 2]]
    assert rows.tolist() == [[0, 1, 2]]
    assert scores.tolist() == [[3.0, 2.0, 1.0]]


# Groups and their means


def beir(**left_out: str) -> dict[str, dict[str, float]]:
    """Values of every set of BEIR: 0.1, 0.2, ... 1.3 for the single ones, 0.01, 0.02, ... 0.12 for the forums."""
    single = [name for name in rules.GROUPS["beir"] if name != "beir/cqadupstack"]
    values = {name: 0.1 * number for number, name in enumerate(single, 1)}
    values |= {name: 0.01 * number for number, name in enumerate(rules.GROUPS["beir/cqadupstack"], 1)}
    return {name: {"nDCG@10": value} for name, value in values.items() if name not in left_out.values()}


def test_pitfall_18_a_mean_over_14_stands_in_a_column_of_18() -> None:
    """13 sets sum to 9.1 and CQADupStack is 0.065: the mean of 14 is 9.165 / 14, and says that it is one of 14."""
    means = averages(beir())
    assert means["beir (mean of 14 public sets)"]["nDCG@10"] == pytest.approx(9.165 / 14, abs=1e-12)
    assert set(means) == {"beir (mean of 14 public sets)", "beir/cqadupstack (mean of 12 forums)"}
    # MS MARCO is no zero-shot set, and a mean of 13 is none.
    assert averages(beir() | {"beir/msmarco/dev": {"nDCG@10": 1.0}}) == means
    assert len(expand("beir")) == 13 + 12 and "beir/msmarco/dev" not in expand("beir")
    assert set(averages(beir(left_out="beir/fever/test"))) == {"beir/cqadupstack (mean of 12 forums)"}


def test_pitfall_18_the_papers_mean_of_18_has_no_counterpart(tmp_path: Path) -> None:
    """A row with NFCorpus and the mean of 14: the first is held against the paper's, the mean against nothing."""
    nfcorpus, table = "beir/nfcorpus/test", next(table for table in read_tables() if table.id == "retromae/table-1")
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
    assert len(expand("beir/cqadupstack")) == 12
    forums = {name: values for name, values in beir().items() if name in expand("beir/cqadupstack")}
    assert averages(forums) == {"beir/cqadupstack (mean of 12 forums)": {"nDCG@10": pytest.approx(0.065, abs=1e-12)}}
    for forum in expand("beir/cqadupstack"):
        assert averages(beir(left_out=forum)) == {}


def test_pitfall_20_touche_has_two_sets_of_judgements(tmp_path: Path) -> None:
    """Version 2, 2,214 judgements from 0 to 2, not the first, 2,962 from -2 to 5; below 0 a grade counts as 0."""
    touche = [name for name in expand("beir") if "touche" in name]
    assert touche == ["beir/webis-touche2020/v2"]
    assert [published(name)["qrels"] for name in (*touche, "beir/webis-touche2020")] == [2214, 2962]
    assert rule(touche[0]).note.startswith("Touche-2020 v2: 2,214 judgements")
    # a is worse than nothing, which is nothing: what it leaves is the gain of b, 2 / log2 3 of an ideal 2.
    qrels = {"q": {"a": -2, "b": 2}}
    scored = score(tmp_path, {"q": "a b"}, qrels, "nDCG@10", "RR", "Recall@10")
    assert scored.measures == pytest.approx({"nDCG@10": 1 / math.log2(3), "RR": 1 / 2, "Recall@10": 1.0}, abs=1e-12)
    assert kinds(str(collection(tmp_path / "data", "a b", qrels)))["negative-grades"] == ("remark", 1)


def test_pitfall_21_judged_documents_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`gone` is relevant and not in the corpus: recall is 1 of 2, and the doctor names it."""
    data = str(collection(tmp_path / "data", "a b", {"q": {"a": 1, "gone": 1}}))
    run, _ = write(tmp_path, {"q": "a b"}, {})
    scored = score_file(run, data, None, ["Recall@10", "nDCG@10", "MAP"])
    ndcg = 1 / (1 + 1 / math.log2(3))
    assert scored.measures == pytest.approx({"Recall@10": 1 / 2, "nDCG@10": ndcg, "MAP": 1 / 2}, abs=1e-12)
    report = doctor.check(data)
    assert (report.faults, report.exit_code) == (1, 1)
    assert "1 judgements name documents that the corpus lacks: gone" in report.text()
    # ArguAna was published with five such judgements, which is told and no fault of the copy; four are one.
    for count, level in ((5, "remark"), (4, "fault")):
        qrels = {f"q{row}": {"a" if row >= count else f"gone{row}": 1} for row in range(6)}
        with monkeypatch.context() as patch:
            catalogued("beir/arguana", tmp_path, "a b", qrels, patch)
            assert kinds("beir/arguana")["dangling-documents"] == (level, count)


# Texts and judgements


def titled(folder: Path, title: str) -> Path:
    collection(folder, "a", {"q": {"a": 1}})
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": "a", "title": title, "text": "fege"}) + "\n")
    return folder


def test_pitfall_22_passages_with_titles_are_compared_with_those_without(tmp_path: Path) -> None:
    """The same passages with RocketQA's titles are another corpus, and rows measured on the two share no table."""
    corpora = [load(str(titled(tmp_path / name, title))) for name, title in (("with", "bada"), ("without", ""))]
    hashes = [dataset.corpus_fingerprint() for dataset in corpora]
    assert hashes[0] != hashes[1]
    facts = [{rows.DATASET: {"documents": 1, "queries": 1, "corpus": corpus}} for corpus in hashes]
    like, unlike = rows.row("bert", facts=facts[0]), rows.row("mlm", facts=facts[1])
    assert len(compare([like, rows.row("mlm", facts=facts[0])])[0].lines) == 2
    with pytest.raises(UnlikeError, match=r"cannot stand in one table: on .* their corpus differ") as refused:
        compare([like, unlike])
    assert refused.value.exit_code == 3
    # Nor is the one without held against what is claimed of the one with.
    table = claimed(tmp_path, rows.DATASET, 0.25, f'corpus = "{hashes[0]}"')
    (cell,) = reproduced(tmp_path, [replace(like, settings={})], table)
    assert cell["verdict"] == "PASS"
    with pytest.raises(UnlikeError, match=rf"has corpus {hashes[1]} on .*, and demo/table-1 needs {hashes[0]}"):
        reproduced(tmp_path, [replace(unlike, entrant="bert", objective="bert", settings={})], table)


def test_pitfall_23_titles_are_joined_in_several_ways(tmp_path: Path) -> None:
    """Left out, in front of the text, or parted by [SEP]: each its own tokens, its own key and its own track."""
    words, data = tiny.tokenizer(), str(titled(tmp_path / "data", "bada"))
    words.save_pretrained(tmp_path / "base")
    work = works.work(tmp_path / "store", data, base=tmp_path / "base")
    expected: dict[Titles, list[str]] = {False: [], True: ["ba", "##da"], "[SEP]": ["ba", "##da", "[SEP]"]}
    keys: set[str] = set()
    identities: set[str] = set()
    budget: dict[str, Any] = {"steps": 1, "batch": 2, "learning_rate": 1e-3}
    for titles, title_tokens in expected.items():
        artifact = tokenise_documents(work, work.inputs.collections[data].corpus, titles)
        passage = TokenisedTexts.open(artifact.path)[0]
        assert words.convert_ids_to_tokens([*passage.title, *passage.text]) == [*title_tokens, "fe", "##ge"]
        finetune = Finetune(**budget, queries=data, reading=Reading(titles=titles))
        track = Track("tiny", Model("unused"), Pretrain(**budget), finetune, Evaluate((data,)))
        keys.add(artifact.key)
        identities.add(track.identity)
    assert len(keys) == len(identities) == 3
    # A passage without a title has nothing to be parted from.
    name = str(titled(tmp_path / "bare", ""))
    work = works.work(tmp_path / "store", name, base=tmp_path / "base")
    bare = tokenise_documents(work, work.inputs.collections[name].corpus, "[SEP]")
    assert words.convert_ids_to_tokens(TokenisedTexts.open(bare.path).tokens.tolist()) == ["fe", "##ge"]
    # What is claimed of one way is not measured by another.
    table = claimed(tmp_path, rows.DATASET, 0.25, 'titles = "[SEP]"')
    for joined in ("space", "none"):
        measured = rows.row("bert", settings={}, facts={rows.DATASET: {"titles": joined}})
        with pytest.raises(UnlikeError, match=rf"has titles {joined} on .*, and demo/table-1 needs \[SEP\]"):
            reproduced(tmp_path, [measured], table)


def test_pitfall_24_a_pair_is_judged_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As 1 and as 0: nDCG would take one and RR the other. Refused wherever it comes from; twice the same is none."""
    (tmp_path / "qrels.txt").write_text("q 0 a 1\nq 0 b 1\nq 0 b 1\nq 0 a 0\n")
    with pytest.raises(
        RetrobenchError, match=r"qrels\.txt, line 4: query 'q' and document 'a' are judged 0 here and 1"
    ):
        trec.read_qrels(tmp_path / "qrels.txt")
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
