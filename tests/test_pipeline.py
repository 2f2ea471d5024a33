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
from batches import Fixed, fixed, rivals_of, texts_of

from retrobench import pipeline
from retrobench.config import Experiment, Reading
from retrobench.config.discovery import discover
from retrobench.config.reading import read_entrant, read_track
from retrobench.data import TokenisedTexts, load
from retrobench.leaderboard.comparison import compare
from retrobench.leaderboard.evidence import load_per_query
from retrobench.leaderboard.rows import Row, read
from retrobench.objective import Vocabulary
from retrobench.runs.rows import artifacts
from retrobench.runs.sweep import Request, Swept, sweep
from retrobench.scoring.measures import measure
from retrobench.stages import open_inputs
from retrobench.store import Store
from retrobench.training.batches import Shard
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

    def row(self, name: str) -> Row:
        return next(row for row in self.swept.rows if row.entrant == name)

    def experiment(self, name: str) -> Experiment:
        track = read_track(self.tiny.track, "tiny", [])
        return Experiment(track, read_entrant(name, discover(), []), 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedSweep]:
    track = tiny.make(tmp_path_factory.mktemp("tiny"))
    dense = track.track.with_name("dupmae-cls.toml")
    dense.write_text('objective = "dupmae"\nrepresentation = "cls"\n')
    checkpoint = shutil.copytree(track.base, track.base.with_name("released"))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.0}))
    released = track.track.with_name("released.toml")
    released.write_text(f'name = "released"\nobjective = "retromae"\ncheckpoint = "{checkpoint}"\n')
    entrants = [*BUILT_IN, str(dense), "bm25", str(released)]
    yield FinishedSweep(
        track, entrants, sweep(Request(entrants, str(track.track), (0,), (), track.store, track.boards))
    )


def test_one_comparable_table_with_every_measure(finished: FinishedSweep) -> None:
    names = ["bert", "mlm", "retromae", "bow-mae", "dupmae", "dupmae-cls", "bm25", "released"]
    assert [row.entrant for row in finished.swept.rows] == names
    assert read(finished.swept.folder) == finished.swept.rows
    (table,) = compare(finished.swept.rows, lambda row: load_per_query(finished.swept.folder, row))
    assert sorted(line.entrant for line in table.lines) == sorted(names)
    assert table.columns == tuple((f"{finished.tiny.data}:test", name) for name in MEASURES)
    assert table.pairs and table.queries == 15
    representations = {line.entrant: line.representation for line in table.lines}
    assert representations == {**dict.fromkeys(names, "cls"), "dupmae": "cls+terms", "bm25": "bm25"}
    for row in finished.swept.rows:
        measures = row.measures[f"{finished.tiny.data}:test"]
        assert all(0 <= measures[name] <= 1 for name in MEASURES)
    (bm25,) = [line for line in table.lines if line.entrant == "bm25"]
    assert (bm25.mean(f"{finished.tiny.data}:test", "MRR@10") or 0) > 0.8, "queries are words of their documents"


def test_fields_of_a_row(finished: FinishedSweep) -> None:
    row = finished.row("dupmae")
    assert (row.track, row.overrides, row.objective, row.checkpoint, row.seed) == ("tiny", {}, "dupmae", None, 0)
    assert row.settings["bow_weight"] == 0.1
    assert set(row.selection) == {"in-batch", "mined"}
    assert row.chosen == max(row.selection, key=row.selection.__getitem__)
    test, train = f"{finished.tiny.data}:test", f"{finished.tiny.data}:train"
    assert set(row.artifacts) >= {"pretrain", "finetune in-batch", "finetune mined", f"mine {train}"}
    assert set(row.artifacts) >= {f"encode {test} passages", f"search {test}", f"score {test}"}
    for role, key in row.artifacts.items():
        assert (finished.tiny.store / role.split()[0] / key / "entry.json").is_file()
    assert row.plugin == {"distribution": "retrobench", "version": row.version}
    assert {"python", "torch", "transformers", "ranx", "numpy"} <= set(row.libraries)
    assert row.hardware["threads"] == 1 and row.hardware["processor"]
    cost = row.cost["pretrain"]
    assert cost["tokens_per_second"] == pytest.approx(cost["tokens"] / cost["seconds"])
    assert cost["tokens"] > 6 * 8 * 3 and cost["peak_memory_bytes"] > 1e7
    assert row.cost["finetune"]["seconds"] > 0 and row.date.endswith("+00:00")
    assert row.command == f"retrobench run --objective dupmae --track {finished.tiny.track} --seed 0"
    values = load_per_query(finished.swept.folder, row)[f"{finished.tiny.data}:test"]
    assert sorted(values["MRR@10"]) == sorted(f"q{number}" for number in tiny.SPLITS["test"])
    for name, mean in row.measures[f"{finished.tiny.data}:test"].items():
        assert mean == pytest.approx(np.mean(list(values[name].values())))
    assert finished.row("bm25").seed is None and finished.row("bm25").chosen == ""
    checkpoint = finished.row("released").checkpoint
    assert checkpoint is not None and checkpoint["name"] == str(finished.tiny.base.with_name("released"))
    assert "pretrain" not in finished.row("released").artifacts and "pretrain" not in finished.row("bert").artifacts


def test_shared_artifacts_are_made_once(finished: FinishedSweep) -> None:
    dense, full = finished.row("dupmae-cls"), finished.row("dupmae")
    assert dense.artifacts["pretrain"] == full.artifacts["pretrain"]
    assert dense.artifacts["finetune in-batch"] != full.artifacts["finetune in-batch"]
    assert len(finished.tiny.finished("pretrain")) == 4
    assert len(finished.tiny.finished("finetune")) == 14  # two rounds of seven entrants
    # The documents, and the queries of training, mining, validation and test.
    assert len(finished.tiny.finished("tokenise")) == 5
    assert not list(finished.tiny.store.glob("*/*.partial")) and not list(finished.tiny.store.glob("*/*/step-*"))


def test_a_run_file_gives_the_scores_of_its_row(finished: FinishedSweep) -> None:
    row, dataset = finished.row("retromae"), load(f"{finished.tiny.data}:test")
    key = row.artifacts[f"search {dataset.id}"]
    lines = [line.split() for line in (finished.tiny.store / "search" / key / "run.trec").read_text().splitlines()]
    assert len(lines) == 15 * 50
    ids = [document.id for document in dataset.documents()]
    queries = list(dict.fromkeys(line[0] for line in lines))
    assert {line[1] for line in lines} == {"Q0"} and {line[5] for line in lines} == {"retromae"}
    assert [int(line[3]) for line in lines[:50]] == list(range(1, 51))
    scores = np.asarray([float(line[4]) for line in lines]).reshape(15, 50)
    assert (np.diff(scores) <= 0).all()
    hits = np.asarray([ids.index(line[2]) for line in lines]).reshape(15, 50)
    per_query = measure(queries, hits, ids, dataset.qrels(), MEASURES)
    means = {name: np.mean(list(values.values())) for name, values in per_query.items()}
    assert means == pytest.approx(row.measures[dataset.id])


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
    assert sum(row.entrant == "bm25" for row in read(finished.swept.folder)) == 1


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
    assert changed.entrant == "mlm (changed)" and changed.settings == {"mask_ratio": 0.5}
    assert changed.identity == finished.row("mlm").identity
    (mean,) = finished.run("mlm", overrides=("entrant.representation=mean",), leaderboard=tmp_path).rows
    assert mean.representation == "mean"
    assert mean.artifacts["pretrain"] == finished.row("mlm").artifacts["pretrain"]
    assert mean.measures != finished.row("mlm").measures


def test_a_terms_only_entrant_runs(finished: FinishedSweep, tmp_path: Path) -> None:
    (row,) = finished.run("dupmae", overrides=("entrant.representation=terms",), leaderboard=tmp_path).rows
    assert row.representation == "terms"
    encoder = finished.tiny.store / "finetune" / row.artifacts[f"finetune {row.chosen}"]
    assert (encoder / "model.safetensors").exists() and not (encoder / "modules.json").exists()


def test_fewer_documents_than_the_depth(finished: FinishedSweep, tmp_path: Path) -> None:
    (row,) = finished.run("dupmae", overrides=("evaluate.depth=1000", "mine.depth=100"), leaderboard=tmp_path).rows
    key = row.artifacts[f"search {finished.tiny.data}:test"]
    hits = np.load(finished.tiny.store / "search" / key / "rows.npy")
    assert hits.shape == (15, tiny.DOCUMENTS)
    for ranking in hits.tolist():
        assert sorted(ranking) == list(range(tiny.DOCUMENTS))
    assert row.measures[f"{finished.tiny.data}:test"]["Recall@100"] == 1.0
    candidates = np.load(
        finished.tiny.store / "mine" / row.artifacts[f"mine {finished.tiny.data}:train"] / "candidates.npy"
    )
    assert candidates.shape == (40, 100)
    counts = (candidates >= 0).sum(1)
    assert (counts >= tiny.DOCUMENTS - 2).all()
    assert (counts < 100).all()


def mined(finished: FinishedSweep, name: str) -> tuple[Examples, np.ndarray]:
    """Return the second round's examples and candidates from a cached run."""
    experiment = finished.experiment(name)
    (inputs,) = open_inputs([experiment])
    (result,) = pipeline.run(experiment, inputs, Store(finished.tiny.store))
    by_role, train = artifacts(result), f"{finished.tiny.data}:train"
    candidates = np.load(by_role[f"mine {train}"].path / "candidates.npy")
    documents = next(artifact for role, artifact in by_role.items() if role.startswith("tokenise") and "docum" in role)
    queries = by_role[f"tokenise {train} sampled queries"]
    texts = TokenisedTexts.open(queries.path), TokenisedTexts.open(documents.path)
    return Examples(*texts, load(train)), candidates


@pytest.mark.parametrize("name", ["bert", "dupmae"])
def test_mined_negatives_are_never_positives(name: str, finished: FinishedSweep) -> None:
    examples, candidates = mined(finished, name)
    qrels = load(f"{finished.tiny.data}:train").qrels()  # all of grade 1
    assert candidates.shape == (40, 10)
    positives = [qrels[examples.queries.ids[query]].keys() for query in examples.query_rows]
    assert sum(len(ids) > 1 for ids in positives) >= 5
    for positive_ids, rows in zip(positives, candidates, strict=True):
        negative_ids = {examples.documents.ids[row] for row in rows}
        assert len(negative_ids) == 10
        assert not positive_ids & negative_ids


def test_a_query_competes_with_all_passages_but_its_positives(finished: FinishedSweep) -> None:
    examples, candidates = mined(finished, "bert")
    vocabulary = Vocabulary(153, 0, 2, 3, 4, frozenset({0, 1, 2, 3, 4}))
    maker = ContrastiveBatches(examples, vocabulary, Reading(True, 12, 40), Candidates(candidates), negatives=2)
    batch = maker.collate(np.arange(40), torch.Generator().manual_seed(0))
    competes = rivals_of(batch).numpy()
    assert competes.shape == (40, 40 + 2 * 40)
    texts = texts_of(batch.passages)
    assert len(set(texts)) < len(texts), "the batch has a repeated passage"
    masked_count = 0
    for query in range(40):
        positives = {packed_document(examples, row) for row in examples.positives[query]}
        negatives = texts[40 + 2 * query : 42 + 2 * query]
        assert not positives.intersection(negatives)
        expected = [text not in positives for text in texts]
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
    queries, passages = torch.tensor([[2.0], [4.0]]), torch.tensor([[1.0], [3.0], [9.0]])
    batch = fixed(queries, passages, [[0, 2], [1, -1]])
    step = model(0.0, [Shard(np.arange(2), 0, batch, tokens=0.0)])
    first_loss = -1 + np.log(np.exp(1) + np.exp(3))
    second_loss = -6 + np.log(np.exp(2) + np.exp(6) + np.exp(18))
    assert step.losses["contrastive"].item() == pytest.approx((first_loss + second_loss) / 2)
    assert step.metrics["accuracy"].item() == 0.0
    assert step.metrics["negatives"].item() == model.negatives == 1.5


DAMAGED = {"finetune": "model.safetensors", "encode": "*.npy", "search": "run.trec", "tokenise": "tokens.bin"}


@pytest.mark.parametrize("stage", DAMAGED)
def test_a_corrupted_artifact_is_made_again(
    stage: str, finished: FinishedSweep, capfd: pytest.CaptureFixture[str]
) -> None:
    row = finished.row("dupmae")
    keys = [key for role, key in row.artifacts.items() if role.split()[0] == stage]
    folder = finished.tiny.store / stage / keys[0]
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
