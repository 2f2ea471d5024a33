"""The recipes of the papers on a tiny collection: both kinds of negatives, adaptation, a teacher, a row a round."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recipe as recipes
import torch
from recipe import RecipeTrack, listed_negatives
from sentence_transformers import CrossEncoder
from test_resume import FORKING, IMPORTS, Kill, contents, killed
from torch import nn

from retrobench.data import rules
from retrobench.data.datasets import load
from retrobench.data.tokens import TokenisedTexts
from retrobench.leaderboard.rows import Row, read
from retrobench.model.loading import load_tokenizer
from retrobench.runs.sweep import Swept
from retrobench.training.examples import Examples


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecipeTrack]:
    recipe = recipes.make(tmp_path_factory.mktemp("recipe"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETROBENCH_DATA", str(recipe.data))
        yield recipe


@pytest.fixture(scope="module")
def msmarco(recipe: RecipeTrack) -> Swept:
    """Run the track `msmarco` for an entrant with pre-training and an entrant without."""
    return recipe.run("msmarco", "retromae", "bert")


def test_a_row_for_every_round(recipe: RecipeTrack, msmarco: Swept) -> None:
    rows = msmarco.rows
    assert read(msmarco.folder) == rows
    names = [(row.entrant, row.round) for row in rows]
    assert names == [(name, kind) for name in ("retromae", "bert") for kind in ("in-batch", "mined", "distilled")]
    assert len({row.identity for row in rows}) == 1 and rows[0].track == "msmarco"
    for row in rows:
        assert list(row.measures) == [f"msmarco-titled:{split}" for split in ("dev", "dl19", "dl20")]
        assert {"MRR@10", "Recall@1000", "Success@50", "nDCG@10"} <= row.measures["msmarco-titled:dev"].keys()
        assert row.selection == {} and row.chosen == row.round
        assert ("adapt" in row.artifacts) == ("pretrain" in row.artifacts) == (row.entrant == "retromae")
    assert len({json.dumps(row.measures) for row in rows}) == 6, "each round and entrant has different numbers"


def test_a_row_names_only_its_own_stages(msmarco: Swept) -> None:
    """The last round needs the first round's candidates, but not the second round's encoder."""
    first, second, third = msmarco.rows[:3]
    assert training_roles(first) == {"negatives", "in-batch"}
    assert training_roles(second) == {"negatives", "in-batch", "mine", "mined"}
    assert training_roles(third) == {"negatives", "in-batch", "mine", "teach", "distilled"}
    for row in (first, second, third):
        assert sum(name.startswith("score") for name in row.artifacts) == 3
        assert first.cost["pretrain"] == row.cost["pretrain"] and first.cost["adapt"] == row.cost["adapt"]
    # Mining and distilling add a round each to the in-batch round; which of them takes longer is the machine's affair.
    for row in (second, third):
        assert row.cost["finetune"]["seconds"] > first.cost["finetune"]["seconds"]
    assert third.cost["teach"]["seconds"] > 0


def training_roles(row: Row) -> set[str]:
    """Return the stages of fine-tuning in a row's artifacts, and its rounds."""
    roles = set()
    for role in row.artifacts:
        stage, _, detail = role.partition(" ")
        if stage == "finetune":
            roles.add(detail)
        elif stage in ("negatives", "mine", "teach"):
            assert detail == "msmarco-titled:train"
            roles.add(stage)
    return roles


def test_facts_of_a_row(msmarco: Swept) -> None:
    facts = msmarco.rows[0].facts["msmarco-titled:dev"]
    expected = {
        "titles": "[SEP]",
        "query_length": 12,
        "passage_length": 40,
        "similarity": "dot",
        "documents": 60,
        "queries": 15,
    }
    assert expected.items() <= facts.items()
    assert facts["precision"] in ("bf16", "fp32")
    assert len(facts["corpus"]) == 64
    assert {"qrels", "relevance_level", "missing", "self_hits_removed", "ties"} <= facts.keys()


def artifact(recipe: RecipeTrack, row: Row, stage: str) -> Path:
    """Return the artifact of the only role that begins with `stage`."""
    (key,) = [key for role, key in row.artifacts.items() if f"{role} ".startswith(f"{stage} ")]
    return recipe.tiny.store / stage.split(" ")[0] / key


def examples(recipe: RecipeTrack, row: Row, kind: Any = "judgement") -> Examples:
    """Return the training examples in the form of the stages."""
    entry = json.loads((artifact(recipe, row, "negatives") / "entry.json").read_text())
    documents, queries = (recipe.tiny.store / source for source in entry["sources"])
    texts = TokenisedTexts.open(queries), TokenisedTexts.open(documents)
    return Examples(*texts, load("msmarco-titled:train"), kind)


def test_given_negatives(recipe: RecipeTrack, msmarco: Swept) -> None:
    row = msmarco.rows[0]
    negatives = np.load(artifact(recipe, row, "negatives") / "candidates.npy")
    judgements = examples(recipe, row)
    assert len(judgements) == len(negatives) == 60, "50 queries, 10 of which have two positives"
    document_ids = judgements.documents.ids
    query_ids = [judgements.queries.ids[query] for query in judgements.query_rows]
    assert query_ids[:2] == ["q0", "q0"]
    for example, query_id in enumerate(query_ids):
        relevant_ids = [document_ids[document] for document in judgements.relevant[example]]
        listed_ids = listed_negatives(int(query_id[1:]))
        expected = [name for name in listed_ids if name not in relevant_ids]
        assert [document_ids[document] for document in negatives[example] if document >= 0] == expected


def test_adaptation_starts_from_the_general_encoder(recipe: RecipeTrack, msmarco: Swept) -> None:
    row = msmarco.rows[0]
    entry = json.loads((artifact(recipe, row, "adapt") / "entry.json").read_text())
    assert entry["sources"][0] == f"pretrain/{row.artifacts['pretrain']}"
    assert entry["settings"]["max_length"] == 40 and entry["settings"]["steps"] == 4
    tuned = json.loads((artifact(recipe, row, "finetune in-batch") / "entry.json").read_text())
    assert tuned["sources"][0] == f"adapt/{row.artifacts['adapt']}"
    third = json.loads((artifact(recipe, msmarco.rows[2], "finetune distilled") / "entry.json").read_text())
    assert third["sources"][0] == tuned["sources"][0] and third["settings"]["round"] == "distilled"
    general_log = read_log(artifact(recipe, row, "pretrain"))
    adapted_log = read_log(artifact(recipe, row, "adapt"))
    assert (len(general_log), len(adapted_log)) == (2, 4)
    assert adapted_log[0]["mlm"] != general_log[0]["mlm"]


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_titles_end_in_the_separator(recipe: RecipeTrack, msmarco: Swept) -> None:
    texts = examples(recipe, msmarco.rows[0]).documents
    separator = load_tokenizer(recipe.tiny.base).sep_token_id
    titled = [texts[row].title.tolist() for row in range(58)]
    assert all(len(title) > 1 and title[-1] == separator and separator not in title[:-1] for title in titled)
    assert texts[59].title.tolist() == [], "no title, no separator"
    assert all(texts[row].title_starts[-1] for row in range(58))


def test_epochs_are_resolved_from_the_examples(recipe: RecipeTrack, msmarco: Swept) -> None:
    log = read_log(artifact(recipe, msmarco.rows[0], "finetune in-batch"))
    assert log[-1]["step"] == 60 // 16 - 1, "one epoch over 60 judgements in batches of 16"


def test_the_teacher_scored_candidates_and_positives(recipe: RecipeTrack, msmarco: Swept) -> None:
    row = msmarco.rows[2]
    folder = artifact(recipe, row, "teach")
    judgements = examples(recipe, row)
    candidates = np.load(folder / "candidates.npy")
    scores = np.load(folder / "scores.npy")
    positives = np.load(folder / "positive_scores.npy")
    assert np.array_equal(candidates, np.load(artifact(recipe, row, "mine") / "candidates.npy"))
    assert scores.shape == candidates.shape == (60, 10) and positives.shape == (60, 1)
    assert np.array_equal(np.isfinite(scores), candidates >= 0) and np.isfinite(positives).all()
    dataset = load("msmarco-titled:train")
    document_texts = {document.id: f"{document.title} {document.text}".strip() for document in dataset.documents()}
    query_texts = {query.id: query.text for query in dataset.queries()}
    model = CrossEncoder(str(recipe.teacher), device="cpu", max_length=60)
    bf16 = row.facts["msmarco-titled:dev"]["precision"] == "bf16"
    for example in (0, 17, 59):
        query = query_texts[judgements.queries.ids[judgements.query_rows[example]]]
        documents = [judgements.positives[example][0], candidates[example, 0], candidates[example, 9]]
        pairs = [[query, document_texts[judgements.documents.ids[document]]] for document in documents]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            expected = model.predict(pairs, activation_fn=nn.Identity())
        computed = [positives[example, 0], scores[example, 0], scores[example, 9]]
        assert computed == pytest.approx(expected.tolist(), abs=1e-2)
    assert scores.min() < 0 and np.ptp(scores) > 0.1, "logits, not probabilities"
    assert not (folder / "scores.part").exists()


def test_a_rerun_is_read_from_the_store(recipe: RecipeTrack, msmarco: Swept, capfd: pytest.CaptureFixture[str]) -> None:
    assert recipe.run("msmarco", "bert").rows == msmarco.rows[3:]
    lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("==")]
    assert len(lines) > 30
    assert all(": cached " in line for line in lines)


def test_the_beir_recipe(recipe: RecipeTrack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train one round without titles, and test with titles, longer texts and a group's mean."""
    monkeypatch.setattr(rules, "GROUPS", {"beir": ("msmarco-titled:dev", "msmarco-titled:dl19")})
    monkeypatch.setattr(rules, "MEANS", {"beir": "beir (mean of 2 tiny sets)"})
    more = ("evaluate.passage_length=60", "evaluate.query_length=20")
    retro, bm25 = recipe.run("beir", "retromae", "bm25", more=more).rows
    assert retro.round == "" and retro.chosen == "in-batch" and retro.selection == {}
    assert list(retro.measures) == ["beir (mean of 2 tiny sets)", "msmarco-titled:dev", "msmarco-titled:dl19"]
    for row in (retro, bm25):
        average, *datasets = row.measures.values()
        assert average["nDCG@10"] == pytest.approx(np.mean([values["nDCG@10"] for values in datasets]))
        assert row.facts.keys() == {"msmarco-titled:dev", "msmarco-titled:dl19"}
    facts = retro.facts["msmarco-titled:dev"]
    assert (facts["titles"], facts["query_length"], facts["passage_length"]) == ("space", 20, 60)
    assert bm25.facts["msmarco-titled:dev"]["titles"] == "space"
    assert not [role for role in retro.artifacts if role.startswith(("mine", "adapt"))]
    tuned = json.loads((artifact(recipe, retro, "finetune in-batch") / "entry.json").read_text())
    settings = tuned["settings"]
    assert (settings["reading"]["titles"], settings["reading"]["passage_length"], settings["negatives"]) == (
        False,
        40,
        1,
    )
    trained_on = TokenisedTexts.open(recipe.tiny.store / tuned["sources"][1])
    assert not trained_on.title_lengths.any()
    encoded = [json.loads(file.read_text()) for file in recipe.tiny.store.glob("encode/*/entry.json")]
    lengths = {entry["settings"]["max_length"] for entry in encoded if entry["sources"][0].endswith(tuned["key"])}
    assert lengths == {20, 60}


# Resuming


@pytest.mark.skipif(FORKING is None, reason="needs fork")
def test_a_run_killed_in_the_distilled_round_resumes(
    recipe: RecipeTrack, msmarco: Swept, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert FORKING is not None
    FORKING.set_forkserver_preload(IMPORTS)
    broken = recipe.tiny._replace(store=tmp_path / "store", boards=tmp_path / "boards")
    words = [*broken.options("retromae"), "--track", "msmarco"]
    for override in recipe.overrides("msmarco"):
        words += ["--set", override]
    third = msmarco.rows[2].artifacts["finetune distilled"]
    kill = Kill("finetune", "step-000000002.new/state.json", "step-000000001/state.safetensors", 2, third)
    assert "(distilled negatives): new" in killed(words, broken, kill)
    capfd.readouterr()
    resumed = recipe.run("msmarco", "retromae", store=broken.store, leaderboard=broken.boards).rows
    assert "\ncontinuing at step 1\n" in capfd.readouterr().err
    for row, resumed_row in zip(msmarco.rows[:3], resumed, strict=True):
        for name in ("round", "measures", "artifacts", "identity", "facts"):
            assert getattr(row, name) == getattr(resumed_row, name)
    unbroken_files = contents(recipe.tiny.store)
    files = contents(broken.store)
    assert {Path(name).name for name in files} >= {"scores.npy", "model.safetensors", "run.trec"}
    assert [name for name in files if files[name] != unbroken_files[name]] == []


def test_an_interrupted_teacher_resumes(
    recipe: RecipeTrack,
    msmarco: Swept,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    whole = artifact(recipe, msmarco.rows[5], "teach")
    store = tmp_path / "store"
    shutil.copytree(recipe.tiny.store, store)
    shutil.rmtree(store / "teach" / whole.name)
    with monkeypatch.context() as patch:
        interrupt_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            recipe.run("msmarco", "bert", store=store, leaderboard=tmp_path)
    partial = store / "teach" / f"{whole.name}.partial" / "scores.part"
    assert partial.stat().st_size == 32 * 11 * 4, "32 of 60 examples, a positive and 10 candidates each"
    with partial.open("ab") as file:
        file.write(b"half a line")
    capfd.readouterr()
    recipe.run("msmarco", "bert", store=store, leaderboard=tmp_path)
    assert "\ncontinuing at query 32\n" in capfd.readouterr().err
    for name in ("candidates.npy", "scores.npy", "positive_scores.npy"):
        assert (whole / name).read_bytes() == (store / "teach" / whole.name / name).read_bytes()


def interrupt_second_block(patch: pytest.MonkeyPatch) -> None:
    """Interrupt the teacher before its second block of examples."""
    pairs = importlib.import_module("retrobench.stages.teach")._Pairs
    make_predictor = pairs._predictor
    calls: list[int] = []

    def predictor(self: Any, teacher: Path) -> Any:
        predict = make_predictor(self, teacher)

        def call(queries: np.ndarray, documents: np.ndarray) -> Any:
            if calls:
                raise KeyboardInterrupt
            calls.append(len(queries))
            return predict(queries, documents)

        return call

    patch.setattr(pairs, "_predictor", predictor)


def test_a_file_of_scores_replaces_a_teacher(recipe: RecipeTrack, msmarco: Swept, tmp_path: Path) -> None:
    taught_row = msmarco.rows[5]
    write_scores(tmp_path / "scores.tsv", examples(recipe, msmarco.rows[0]), artifact(recipe, taught_row, "teach"))
    more = ("distil.teacher=", f"distil.scores={tmp_path / 'scores.tsv'}")
    swept = recipe.run("msmarco", "bert", more=more, leaderboard=tmp_path)
    assert [row.round for row in swept.rows] == ["in-batch", "mined", "distilled"]
    assert swept.rows[1].artifacts["finetune mined"] == msmarco.rows[4].artifacts["finetune mined"]
    assert swept.rows[2].measures == taught_row.measures


def write_scores(file: Path, judgements: Examples, folder: Path) -> None:
    """Write a teacher's scores of positives and candidates as TSV."""
    candidates = np.load(folder / "candidates.npy")
    scores = np.load(folder / "scores.npy")
    positive_scores = np.load(folder / "positive_scores.npy")
    lines = ["query-id\tcorpus-id\tscore\n"]
    for example, query in enumerate(judgements.query_rows):
        query_id = judgements.queries.ids[query]
        documents = [judgements.positives[example][0], *candidates[example]]
        values = [positive_scores[example, 0], *scores[example]]
        for document, score in zip(documents, values, strict=True):
            lines.append(f"{query_id}\t{judgements.documents.ids[document]}\t{float(score)!r}\n")
    # A query with two positives is two examples with equal candidates.
    file.write_text("".join(dict.fromkeys(lines)))
