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
from recipe import (
    Judgements,
    RecipeTrack,
    artifact,
    listed_negatives,
    read_entry,
    read_judgements,
    read_log,
    read_taught,
)
from sentence_transformers import CrossEncoder
from test_resume import FORKING, IMPORTS, Kill, contents, killed
from torch import nn

from retrobench.data import groups
from retrobench.data.datasets import load
from retrobench.data.tokens import TokenisedTexts
from retrobench.leaderboard.rows import Row, read
from retrobench.model.loading import load_tokenizer
from retrobench.runs.sweep import Swept


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
    assert [row.entrant for row in rows] == ["retromae"] * 3 + ["bert"] * 3
    assert [row.round for row in rows] == ["in-batch", "mined", "distilled"] * 2
    identities = {row.identity for row in rows}
    assert len(identities) == 1
    numbers = {json.dumps(row.measures) for row in rows}
    assert len(numbers) == 6, "each round and entrant has different numbers"
    for row in rows:
        assert row.track == "msmarco"
        assert list(row.measures) == ["msmarco-titled:dev", "msmarco-titled:dl19", "msmarco-titled:dl20"]
        assert {"MRR@10", "Recall@1000", "Success@50", "nDCG@10"} <= row.measures["msmarco-titled:dev"].keys()
        assert row.selection == {}
        assert row.chosen == row.round


def test_only_an_entrant_with_pre_training_has_its_stages(msmarco: Swept) -> None:
    for row in msmarco.rows[:3]:
        assert {"pretrain", "adapt"} <= row.artifacts.keys()
    for row in msmarco.rows[3:]:
        assert row.artifacts.keys().isdisjoint({"pretrain", "adapt"})


def test_a_row_names_only_its_own_stages(msmarco: Swept) -> None:
    """The last round needs the first round's candidates, but not the second round's encoder."""
    first, second, third = msmarco.rows[:3]
    assert training_roles(first) == {"negatives", "in-batch"}
    assert training_roles(second) == {"negatives", "in-batch", "mine", "mined"}
    assert training_roles(third) == {"negatives", "in-batch", "mine", "teach", "distilled"}
    for row in (first, second, third):
        scored = [role for role in row.artifacts if role.startswith("score")]
        assert len(scored) == 3
        assert row.cost["pretrain"] == first.cost["pretrain"]
        assert row.cost["adapt"] == first.cost["adapt"]
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


def test_a_row_holds_the_hash_of_the_given_negatives(msmarco: Swept) -> None:
    for row in msmarco.rows:
        digest = row.content["negatives msmarco-titled:train"]
        assert len(digest) == 20
        assert digest != row.content["msmarco-titled:train"]


def test_negatives_are_the_listed_documents_that_are_not_relevant(recipe: RecipeTrack, msmarco: Swept) -> None:
    row = msmarco.rows[0]
    negatives = np.load(artifact(recipe, row, "negatives") / "candidates.npy")
    judgements = read_judgements(recipe, row)
    count = len(judgements.examples)
    assert count == len(negatives) == 60, "50 queries, 10 of which have two positives"
    assert judgements.query_id(0) == judgements.query_id(1) == "q0"
    for example in range(count):
        query_number = int(judgements.query_id(example).removeprefix("q"))
        relevant_ids = judgements.document_ids(judgements.examples.relevant[example])
        expected_ids = [name for name in listed_negatives(query_number) if name not in relevant_ids]
        assert judgements.document_ids(negatives[example]) == expected_ids


def test_adaptation_starts_from_the_general_encoder(recipe: RecipeTrack, msmarco: Swept) -> None:
    row = msmarco.rows[0]
    general = artifact(recipe, row, "pretrain")
    adapted = artifact(recipe, row, "adapt")
    entry = read_entry(adapted)
    assert entry["sources"][0] == f"pretrain/{general.name}"
    assert entry["settings"]["max_length"] == 40
    assert entry["settings"]["steps"] == 4
    general_log = read_log(general)
    adapted_log = read_log(adapted)
    assert len(general_log) == 2
    assert len(adapted_log) == 4
    assert adapted_log[0]["mlm"] != general_log[0]["mlm"]


def test_fine_tuning_starts_from_the_adapted_encoder(recipe: RecipeTrack, msmarco: Swept) -> None:
    first, _, third = msmarco.rows[:3]
    adapted = f"adapt/{first.artifacts['adapt']}"
    in_batch = read_entry(artifact(recipe, first, "finetune in-batch"))
    assert in_batch["sources"][0] == adapted
    distilled = read_entry(artifact(recipe, third, "finetune distilled"))
    assert distilled["sources"][0] == adapted
    assert distilled["settings"]["round"] == "distilled"


def test_titles_end_in_the_separator(recipe: RecipeTrack, msmarco: Swept) -> None:
    documents = read_judgements(recipe, msmarco.rows[0]).examples.documents
    separator = load_tokenizer(recipe.tiny.base).sep_token_id
    for row in range(58):
        document = documents[row]
        *title, last = document.title.tolist()
        assert title
        assert separator not in title
        assert last == separator
        assert document.title_starts[-1]
    assert documents[59].title.tolist() == [], "no title, no separator"


def test_epochs_are_resolved_from_the_examples(recipe: RecipeTrack, msmarco: Swept) -> None:
    log = read_log(artifact(recipe, msmarco.rows[0], "finetune in-batch"))
    assert log[-1]["step"] == 60 // 16 - 1, "one epoch over 60 judgements in batches of 16"


def test_the_teacher_scored_candidates_and_positives(recipe: RecipeTrack, msmarco: Swept) -> None:
    row = msmarco.rows[2]
    folder = artifact(recipe, row, "teach")
    taught = read_taught(folder)
    mined = np.load(artifact(recipe, row, "mine") / "candidates.npy")
    assert np.array_equal(taught.candidates, mined)
    assert taught.candidates.shape == taught.scores.shape == (60, 10)
    assert taught.positive_scores.shape == (60, 1)
    assert np.isfinite(taught.positive_scores).all()
    assert np.array_equal(np.isfinite(taught.scores), taught.candidates >= 0)
    assert taught.scores.min() < 0, "logits, not probabilities"
    assert np.ptp(taught.scores) > 0.1
    assert not (folder / "scores.part").exists()


@pytest.mark.parametrize("example", [0, 17, 59])
def test_the_teachers_scores_are_those_of_its_model(recipe: RecipeTrack, msmarco: Swept, example: int) -> None:
    row = msmarco.rows[2]
    judgements = read_judgements(recipe, row)
    taught = read_taught(artifact(recipe, row, "teach"))
    dataset = load("msmarco-titled:train")
    document_texts = {document.id: f"{document.title} {document.text}".strip() for document in dataset.documents()}
    query_texts = {query.id: query.text for query in dataset.queries()}

    positive = judgements.examples.positives[example][0]
    first, *_, last = taught.candidates[example]
    document_ids = judgements.document_ids([positive, first, last])
    query = query_texts[judgements.query_id(example)]
    pairs = [[query, document_texts[document_id]] for document_id in document_ids]
    model = CrossEncoder(str(recipe.teacher), device="cpu", max_length=60)
    bf16 = row.facts["msmarco-titled:dev"]["precision"] == "bf16"
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        expected = model.predict(pairs, activation_fn=nn.Identity())

    first_score, *_, last_score = taught.scores[example]
    scores = [taught.positive_scores[example, 0], first_score, last_score]
    assert scores == pytest.approx(expected.tolist(), abs=1e-2)


def test_a_rerun_is_read_from_the_store(recipe: RecipeTrack, msmarco: Swept, capfd: pytest.CaptureFixture[str]) -> None:
    assert recipe.run("msmarco", "bert").rows == msmarco.rows[3:]
    log = capfd.readouterr().err.splitlines()
    lines = [line for line in log if not line.startswith("==")]
    assert len(lines) > 30
    for line in lines:
        assert ": cached " in line


# --- a track with other texts in its test


@pytest.fixture(scope="module")
def beir(recipe: RecipeTrack) -> Swept:
    """Train one round without titles, and test with titles, longer texts and a group's mean."""
    longer = ("evaluate.passage_length=60", "evaluate.query_length=20")
    with pytest.MonkeyPatch.context() as patch:
        group = groups.Group(("msmarco-titled:dev", "msmarco-titled:dl19"), "beir (mean of 2 tiny sets)")
        patch.setattr(groups, "GROUPS", {"beir": group})
        return recipe.run("beir", "retromae", "bm25", more=longer)


def test_the_rows_of_the_beir_recipe(beir: Swept) -> None:
    retromae, bm25 = beir.rows
    assert retromae.round == ""
    assert retromae.chosen == "in-batch"
    assert retromae.selection == {}
    for role in retromae.artifacts:
        assert not role.startswith(("mine", "adapt"))
    assert list(retromae.measures) == ["beir (mean of 2 tiny sets)", "msmarco-titled:dev", "msmarco-titled:dl19"]
    for row in (retromae, bm25):
        average, dev, dl19 = row.measures.values()
        mean = (dev["nDCG@10"] + dl19["nDCG@10"]) / 2
        assert average["nDCG@10"] == pytest.approx(mean)
        assert row.facts.keys() == {"msmarco-titled:dev", "msmarco-titled:dl19"}
        assert row.facts["msmarco-titled:dev"]["titles"] == "space"
    facts = retromae.facts["msmarco-titled:dev"]
    assert facts["query_length"] == 20
    assert facts["passage_length"] == 60


def test_the_beir_recipe_trains_on_texts_without_titles(recipe: RecipeTrack, beir: Swept) -> None:
    entry = read_entry(artifact(recipe, beir.rows[0], "finetune in-batch"))
    settings = entry["settings"]
    assert settings["reading"]["titles"] is False
    assert settings["reading"]["passage_length"] == 40
    assert settings["negatives"] == 1
    texts = TokenisedTexts.open(recipe.tiny.store / entry["sources"][1])
    assert not texts.title_lengths.any()


def test_the_beir_recipe_encodes_longer_texts_than_it_trains_on(recipe: RecipeTrack, beir: Swept) -> None:
    encoder = artifact(recipe, beir.rows[0], "finetune in-batch")
    lengths = set()
    for folder in recipe.tiny.finished("encode"):
        entry = read_entry(folder)
        if entry["sources"][0].endswith(encoder.name):
            lengths.add(entry["settings"]["max_length"])
    assert lengths == {20, 60}


# --- resuming


@pytest.mark.slow
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
    resumed_rows = recipe.run("msmarco", "retromae", store=broken.store, leaderboard=broken.boards).rows
    assert "\ncontinuing at step 1 of 3\n" in capfd.readouterr().err
    for row, resumed_row in zip(msmarco.rows[:3], resumed_rows, strict=True):
        for name in ("round", "measures", "artifacts", "identity", "facts"):
            assert getattr(row, name) == getattr(resumed_row, name)
    resumed_files = contents(broken.store)
    unbroken_files = contents(recipe.tiny.store)
    file_names = {Path(path).name for path in resumed_files}
    assert file_names >= {"scores.npy", "model.safetensors", "run.trec"}
    for path, content in resumed_files.items():
        assert content == unbroken_files[path], path


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
    resumed = store / "teach" / whole.name
    for name in ("candidates.npy", "scores.npy", "positive_scores.npy"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


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
    _, mined_row, distilled_row = msmarco.rows[3:]
    file = tmp_path / "scores.tsv"
    write_scores(file, read_judgements(recipe, distilled_row), artifact(recipe, distilled_row, "teach"))
    more = ("distil.teacher=", f"distil.scores={file}")
    in_batch, mined, distilled = recipe.run("msmarco", "bert", more=more, leaderboard=tmp_path).rows
    assert [in_batch.round, mined.round, distilled.round] == ["in-batch", "mined", "distilled"]
    assert mined.artifacts["finetune mined"] == mined_row.artifacts["finetune mined"]
    assert distilled.measures == distilled_row.measures


def write_scores(file: Path, judgements: Judgements, folder: Path) -> None:
    """Write a teacher's scores of positives and candidates as TSV."""
    taught = read_taught(folder)
    lines = ["query-id\tcorpus-id\tscore\n"]
    for example, candidates in enumerate(taught.candidates):
        query_id = judgements.query_id(example)
        positive = judgements.examples.positives[example][0]
        document_ids = judgements.document_ids([positive, *candidates])
        scores = [taught.positive_scores[example, 0], *taught.scores[example]]
        for document_id, score in zip(document_ids, scores, strict=True):
            lines.append(f"{query_id}\t{document_id}\t{float(score)!r}\n")
    # A query with two positives is two examples with equal candidates.
    file.write_text("".join(dict.fromkeys(lines)))
