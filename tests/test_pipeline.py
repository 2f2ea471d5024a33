"""The whole chain on a tiny track: every kind of entrant, to rows in one table."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
import torch
from batches import Fixed, fixed, rivals_of, shard_of, texts_of

from retrobench import pipeline
from retrobench.config import Experiment, Reading, read_entrant, read_track
from retrobench.config.discovery import discover
from retrobench.data import TokenisedTexts, load
from retrobench.leaderboard.comparison import compare
from retrobench.leaderboard.rows import Row, load_per_query, read
from retrobench.objective import Vocabulary
from retrobench.runs.rows import artifacts
from retrobench.runs.sweep import Request, Swept, sweep
from retrobench.scoring.measures import measure
from retrobench.stages import open_inputs
from retrobench.store import Store
from retrobench.training.contrastive import Contrastive
from retrobench.training.examples import Candidates, ContrastiveBatches, Examples

BUILT_IN = ("bert", "mlm", "retromae", "bow-mae", "dupmae")
MEASURES = ["MRR@10", "nDCG@10", "Recall@100", "Success@5", "MAP"]


class FinishedSweep(NamedTuple):
    """A sweep over every kind of entrant."""

    tiny: tiny.Tiny
    entrants: list[str]
    swept: Swept

    def run(self, *entrants: str, seed: int = 0, overrides: tuple[str, ...] = (), **changed: Any) -> Swept:
        request = Request(entrants, str(self.tiny.track), (seed,), overrides, self.tiny.store, self.tiny.boards)
        return sweep(request._replace(**changed))

    @property
    def test(self) -> str:
        """Return the id of the test's dataset."""
        return f"{self.tiny.data}:test"

    @property
    def train(self) -> str:
        """Return the id of the training's dataset."""
        return f"{self.tiny.data}:train"

    def row(self, name: str) -> Row:
        (row,) = [row for row in self.swept.rows if row.entrant == name]
        return row

    def artifact(self, row: Row, role: str) -> Path:
        """Return the folder of a role's artifact."""
        stage, _, _ = role.partition(" ")
        return self.tiny.store / stage / row.artifacts[role]

    def experiment(self, name: str) -> Experiment:
        track = read_track(self.tiny.track, "tiny", [])
        entrant = read_entrant(name, discover(), [])
        return Experiment(track, entrant, 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedSweep]:
    track = tiny.make(tmp_path_factory.mktemp("tiny"))
    dense = track.track.with_name("dupmae-cls.toml")
    dense.write_text('objective = "dupmae"\nrepresentation = "cls"\n')
    checkpoint = shutil.copytree(track.base, track.base.with_name("released"))
    config = json.loads((checkpoint / "config.json").read_text())
    config["hidden_dropout_prob"] = 0.0
    (checkpoint / "config.json").write_text(json.dumps(config))
    released = track.track.with_name("released.toml")
    released.write_text(f'name = "released"\nobjective = "retromae"\ncheckpoint = "{checkpoint}"\n')
    entrants = [*BUILT_IN, str(dense), "bm25", str(released)]
    swept = sweep(Request(entrants, str(track.track), (0,), (), track.store, track.boards))
    yield FinishedSweep(track, entrants, swept)


REPRESENTATIONS = {
    "bert": "cls",
    "mlm": "cls",
    "retromae": "cls",
    "bow-mae": "cls",
    "dupmae": "cls+terms",
    "dupmae-cls": "cls",
    "bm25": "bm25",
    "released": "cls",
}


def test_each_entrant_has_a_row_with_every_measure(finished: FinishedSweep) -> None:
    rows = finished.swept.rows
    assert [row.entrant for row in rows] == list(REPRESENTATIONS)
    assert read(finished.swept.folder) == rows
    for row in rows:
        measures = row.measures[finished.test]
        assert list(measures) == MEASURES
        for value in measures.values():
            assert 0 <= value <= 1


def test_all_rows_share_one_table(finished: FinishedSweep) -> None:
    (table,) = compare(finished.swept.rows, lambda row: load_per_query(finished.swept.folder, row))
    assert len(table.lines) == len(REPRESENTATIONS)
    lines = {line.entrant: line for line in table.lines}
    assert {name: line.representation for name, line in lines.items()} == REPRESENTATIONS
    assert table.columns == tuple((finished.test, name) for name in MEASURES)
    assert table.pairs
    assert table.queries == 15
    mrr = lines["bm25"].mean(finished.test, "MRR@10")
    assert mrr is not None
    assert mrr > 0.8, "queries are words of their documents"


def test_a_row_names_its_settings_and_stages(finished: FinishedSweep) -> None:
    row = finished.row("dupmae")
    assert (row.track, row.overrides, row.objective, row.checkpoint, row.seed) == ("tiny", {}, "dupmae", None, 0)
    assert row.settings["bow_weight"] == 0.1
    assert row.selection.keys() == {"in-batch", "mined"}
    assert row.chosen == max(row.selection, key=row.selection.__getitem__)
    test = finished.test
    assert row.artifacts.keys() >= {"pretrain", "finetune in-batch", "finetune mined", f"mine {finished.train}"}
    assert row.artifacts.keys() >= {f"encode {test} passages", f"search {test}", f"score {test}"}
    for role in row.artifacts:
        assert (finished.artifact(row, role) / "entry.json").is_file()


def test_a_row_names_its_origin_and_costs(finished: FinishedSweep) -> None:
    row = finished.row("dupmae")
    assert row.plugin == {"distribution": "retrobench", "version": row.version}
    assert row.libraries.keys() >= {"python", "torch", "transformers", "ranx", "numpy"}
    assert row.hardware["threads"] == 1
    assert row.hardware["processor"]
    assert row.date.endswith("+00:00")
    assert row.command == f"retrobench run --objective dupmae --track {finished.tiny.track} --seed 0"
    cost = row.cost["pretrain"]
    assert cost["tokens_per_second"] == pytest.approx(cost["tokens"] / cost["seconds"])
    assert cost["tokens"] > 6 * 8 * 3
    assert cost["peak_memory_bytes"] > 1e7
    assert row.cost["finetune"]["seconds"] > 0


def test_a_row_has_the_means_of_its_values_by_query(finished: FinishedSweep) -> None:
    row = finished.row("dupmae")
    values = load_per_query(finished.swept.folder, row)[finished.test]
    query_ids = {f"q{number}" for number in tiny.SPLITS["test"]}
    assert values["MRR@10"].keys() == query_ids
    for name, mean in row.measures[finished.test].items():
        assert mean == pytest.approx(np.mean(list(values[name].values())))


def test_rows_of_entrants_without_training_or_pre_training(finished: FinishedSweep) -> None:
    bm25 = finished.row("bm25")
    assert bm25.seed is None
    assert bm25.chosen == ""
    released = finished.row("released")
    assert released.checkpoint is not None
    assert released.checkpoint["name"] == str(finished.tiny.base.with_name("released"))
    assert "pretrain" not in released.artifacts
    assert "pretrain" not in finished.row("bert").artifacts


def test_shared_artifacts_are_made_once(finished: FinishedSweep) -> None:
    dense, full = finished.row("dupmae-cls"), finished.row("dupmae")
    assert dense.artifacts["pretrain"] == full.artifacts["pretrain"]
    assert dense.artifacts["finetune in-batch"] != full.artifacts["finetune in-batch"]
    assert len(finished.tiny.finished("pretrain")) == 4
    assert len(finished.tiny.finished("finetune")) == 14  # two rounds of seven entrants
    # The documents, and the queries of training, mining, validation and test.
    assert len(finished.tiny.finished("tokenise")) == 5
    assert list(finished.tiny.store.glob("*/*.partial")) == []
    assert list(finished.tiny.store.glob("*/*/step-*")) == []


def test_a_run_file_gives_the_scores_of_its_row(finished: FinishedSweep) -> None:
    row = finished.row("retromae")
    dataset = load(finished.test)
    document_ids = [document.id for document in dataset.documents()]
    file = finished.artifact(row, f"search {dataset.id}") / "run.trec"
    query_ids: list[str] = []
    hits = []  # rows of documents
    scores = []
    for number, line in enumerate(file.read_text().splitlines()):
        query_id, q0, document_id, rank, score, tag = line.split()
        assert (q0, tag) == ("Q0", "retromae")
        assert int(rank) == number % 50 + 1
        if rank == "1":
            query_ids.append(query_id)
        assert query_id == query_ids[-1]
        hits.append(document_ids.index(document_id))
        scores.append(float(score))
    assert len(scores) == 15 * 50
    assert len(set(query_ids)) == 15
    falls = np.diff(np.reshape(scores, (15, 50)))
    assert (falls <= 0).all()
    per_query = measure(query_ids, np.reshape(hits, (15, 50)), document_ids, dataset.qrels(), MEASURES)
    for name, values in per_query.items():
        mean = np.mean(list(values.values()))
        assert mean == pytest.approx(row.measures[dataset.id][name])
    assert per_query.keys() == row.measures[dataset.id].keys()


def test_a_cached_rerun_trains_nothing_and_appends_no_row(
    finished: FinishedSweep, capfd: pytest.CaptureFixture[str]
) -> None:
    rows_file = finished.swept.folder / "rows.jsonl"
    content = rows_file.read_bytes()
    times = entry_times(finished.tiny.store)
    rerun = finished.run(*finished.entrants)
    printed = capfd.readouterr().err
    assert rerun.rows == finished.swept.rows
    assert rows_file.read_bytes() == content
    assert entry_times(finished.tiny.store) == times
    lines = [line for line in printed.splitlines() if not line.startswith("==")]
    assert len(lines) > 100
    for line in lines:
        assert re.search(r": cached \w{8} \((same settings and sources, made 20|made in this run)", line)


def entry_times(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.glob("*/*") if path.is_dir()}


def test_a_second_seed_has_a_row_and_numbers_of_its_own(finished: FinishedSweep) -> None:
    (second,) = finished.run("retromae", seed=1).rows
    first = finished.row("retromae")
    assert (second.seed, second.identity) == (1, first.identity)
    assert second.measures != first.measures
    assert second.artifacts["pretrain"] != first.artifacts["pretrain"]
    rows = read(finished.swept.folder)
    (table,) = compare(rows)
    (line,) = [line for line in table.lines if line.entrant == "retromae"]
    assert [row.seed for row in line.rows] == [0, 1]


def test_bm25_has_one_row_for_all_seeds(finished: FinishedSweep) -> None:
    swept = finished.run("bm25", seeds=(0, 1, 2))
    assert [row.entrant for row in swept.rows] == ["bm25"]
    entrants = [row.entrant for row in read(finished.swept.folder)]
    assert entrants.count("bm25") == 1


def test_an_override_makes_a_differing_track(finished: FinishedSweep, tmp_path: Path) -> None:
    swept = finished.run("bert", "mlm", overrides=("pretrain.steps=4", "evaluate.depth=50"), leaderboard=tmp_path)
    bert, mlm = swept.rows
    assert bert.identity == mlm.identity != finished.row("bert").identity
    assert bert.overrides == mlm.overrides == {"pretrain.steps": 4}, "the track's own depth is 50"
    assert bert.measures == finished.row("bert").measures, "bert does not pre-train"
    assert mlm.artifacts["pretrain"] != finished.row("mlm").artifacts["pretrain"]
    # In the folder of the first rows, bert is in the changed track's table too, although nothing was made for it.
    finished.run("bert", overrides=("pretrain.steps=4",))
    tables = compare(read(finished.swept.folder))
    assert [table.overrides for table in tables] == ["", "pretrain.steps=4"]
    assert [line.entrant for line in tables[1].lines] == ["bert"]


def test_an_override_of_the_objective_renames_the_entrant(finished: FinishedSweep, tmp_path: Path) -> None:
    (changed,) = finished.run("mlm", overrides=("objective.mask_ratio=0.5",), leaderboard=tmp_path).rows
    assert changed.entrant == "mlm (changed)"
    assert changed.settings == {"mask_ratio": 0.5}
    assert changed.identity == finished.row("mlm").identity
    (mean,) = finished.run("mlm", overrides=("entrant.representation=mean",), leaderboard=tmp_path).rows
    assert mean.representation == "mean"
    assert mean.artifacts["pretrain"] == finished.row("mlm").artifacts["pretrain"]
    assert mean.measures != finished.row("mlm").measures


def test_a_terms_only_entrant_runs(finished: FinishedSweep, tmp_path: Path) -> None:
    (row,) = finished.run("dupmae", overrides=("entrant.representation=terms",), leaderboard=tmp_path).rows
    assert row.representation == "terms"
    encoder = finished.artifact(row, f"finetune {row.chosen}")
    assert (encoder / "model.safetensors").exists()
    assert not (encoder / "modules.json").exists()


def test_fewer_documents_than_the_depth(finished: FinishedSweep, tmp_path: Path) -> None:
    (row,) = finished.run("dupmae", overrides=("evaluate.depth=1000", "mine.depth=100"), leaderboard=tmp_path).rows
    hits = np.load(finished.artifact(row, f"search {finished.test}") / "rows.npy")
    assert hits.shape == (15, tiny.DOCUMENTS)
    for ranking in hits.tolist():
        assert sorted(ranking) == list(range(tiny.DOCUMENTS))
    assert row.measures[finished.test]["Recall@100"] == 1.0
    candidates = np.load(finished.artifact(row, f"mine {finished.train}") / "candidates.npy")
    assert candidates.shape == (40, 100)
    counts = (candidates >= 0).sum(1)
    assert (counts >= tiny.DOCUMENTS - 2).all()
    assert (counts < 100).all()


def mined(finished: FinishedSweep, name: str) -> tuple[Examples, np.ndarray]:
    """Return the second round's examples and candidates from a cached run."""
    experiment = finished.experiment(name)
    (inputs,) = open_inputs([experiment])
    (result,) = pipeline.run(experiment, inputs, Store(finished.tiny.store))
    by_role = artifacts(result)
    candidates = np.load(by_role[f"mine {finished.train}"].path / "candidates.npy")
    queries = TokenisedTexts.open(by_role[f"tokenise {finished.train} sampled queries"].path)
    document_roles = [role for role in by_role if role.startswith("tokenise") and "documents" in role]
    documents = TokenisedTexts.open(by_role[document_roles[0]].path)
    return Examples(queries, documents, load(finished.train)), candidates


@pytest.mark.parametrize("name", ["bert", "dupmae"])
def test_mined_negatives_are_never_positives(name: str, finished: FinishedSweep) -> None:
    examples, candidates = mined(finished, name)
    qrels = load(finished.train).qrels()  # all of grade 1
    assert candidates.shape == (40, 10)
    with_several_positives = 0
    for query, rows in zip(examples.query_rows, candidates, strict=True):
        positive_ids = qrels[examples.queries.ids[query]].keys()
        negative_ids = {examples.documents.ids[row] for row in rows}
        assert len(negative_ids) == 10
        assert positive_ids.isdisjoint(negative_ids)
        if len(positive_ids) > 1:
            with_several_positives += 1
    assert with_several_positives >= 5


def test_a_query_competes_with_all_passages_but_its_positives(finished: FinishedSweep) -> None:
    examples, candidates = mined(finished, "bert")
    vocabulary = Vocabulary(153, 0, 2, 3, 4, frozenset({0, 1, 2, 3, 4}))
    batches = ContrastiveBatches(examples, vocabulary, Reading(True, 12, 40), Candidates(candidates), negatives=2)
    batch = batches.collate(np.arange(40), torch.Generator().manual_seed(0))
    competes = rivals_of(batch).numpy()
    assert competes.shape == (40, 40 + 2 * 40)
    passages = texts_of(batch.passages)
    assert len(set(passages)) < len(passages), "the batch has a repeated passage"
    masked_count = 0
    for query in range(40):
        positives = {packed_document(examples, row) for row in examples.positives[query]}
        first_negative = 40 + 2 * query
        negatives = passages[first_negative : first_negative + 2]
        assert positives.isdisjoint(negatives)
        expected = [passage not in positives for passage in passages]
        masked_count += expected.count(False) - 1
        expected[query] = True  # the answer
        assert competes[query].tolist() == expected
    assert masked_count > 5


def packed_document(examples: Examples, row: int) -> tuple[int, ...]:
    """Return a document as token ids with [CLS] and [SEP]."""
    passage = examples.documents[row]
    ids = [*passage.title.tolist(), *passage.text.tolist()]
    return (2, *ids[:38], 3)


def test_a_masked_passage_does_not_change_the_loss() -> None:
    model = Contrastive(Fixed(), temperature=2.0)  # type: ignore[arg-type]
    queries = torch.tensor([[2.0], [4.0]])
    passages = torch.tensor([[1.0], [3.0], [9.0]])
    batch = fixed(queries, passages, [[0, 2], [1, -1]])
    step = model(0.0, [shard_of(batch)])
    first_loss = -1 + np.log(np.exp([1, 3]).sum())
    second_loss = -6 + np.log(np.exp([2, 6, 18]).sum())
    loss = step.losses["contrastive"].item()
    assert loss == pytest.approx((first_loss + second_loss) / 2)
    assert step.metrics["accuracy"].item() == 0.0
    assert step.metrics["negatives"].item() == model.negatives == 1.5


DAMAGED = {"finetune": "model.safetensors", "encode": "*.npy", "search": "run.trec", "tokenise": "tokens.bin"}


@pytest.mark.parametrize("stage", DAMAGED)
def test_a_corrupted_artifact_is_made_again(
    stage: str, finished: FinishedSweep, capfd: pytest.CaptureFixture[str]
) -> None:
    row = finished.row("dupmae")
    roles = [role for role in row.artifacts if role.startswith(f"{stage} ")]
    folder = finished.artifact(row, roles[0])
    file = sorted(folder.glob(DAMAGED[stage]))[0]
    content = file.read_bytes()
    flipped = content[-1] ^ 1
    file.write_bytes(content[:-1] + bytes([flipped]))
    assert finished.run("dupmae").rows == [row]
    printed = capfd.readouterr().err
    message = f"{folder.name[:8]} is damaged and is made again ({file.name} does not match its checksum)"
    assert printed.count(message) == printed.count("is damaged") == 1
    assert file.read_bytes() == content


def test_fresh_makes_every_artifact_again(finished: FinishedSweep, capfd: pytest.CaptureFixture[str]) -> None:
    row = finished.row("retromae")
    assert finished.run("retromae", fresh=True).rows == [row]
    assert capfd.readouterr().err.count("made afresh, in place of") == len(row.artifacts)
