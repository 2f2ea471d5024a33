"""The whole chain on a tiny track, in this process: every kind of entrant, to rows in one table."""

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
from retrobench.leaderboard.rows import Row, load_per_query, read
from retrobench.objective import Vocabulary
from retrobench.runs.rows import artifacts
from retrobench.runs.sweep import Request, Swept, sweep
from retrobench.scoring.measures import measure
from retrobench.stages import open_inputs
from retrobench.stages.mine import exclude
from retrobench.store import Store
from retrobench.training.contrastive import Contrastive
from retrobench.training.examples import Candidates, ContrastiveBatches, Examples

BUILT_IN = ("bert", "mlm", "retromae", "bow-mae", "dupmae")
MEASURES = ["MRR@10", "nDCG@10", "Recall@100", "Success@5", "MAP"]


class Ran(NamedTuple):
    """A sweep over every kind of entrant, and what it said."""

    tiny: tiny.Tiny
    entrants: list[str]
    swept: Swept

    def again(self, *entrants: str, seed: int = 0, overrides: tuple[str, ...] = (), **changed: Any) -> Swept:
        request = Request(entrants, str(self.tiny.track), (seed,), overrides, self.tiny.store, self.tiny.boards)
        return sweep(request._replace(**changed))

    def row(self, name: str) -> Row:
        return next(row for row in self.swept.rows if row.entrant == name)

    def experiment(self, name: str) -> Experiment:
        track = read_track(self.tiny.track, "tiny", [])
        return Experiment(track, read_entrant(name, discover(), []), 0)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    made = tiny.make(tmp_path_factory.mktemp("tiny"))
    dense, released = made.track.with_name("dupmae-cls.toml"), made.track.with_name("released.toml")
    dense.write_text('objective = "dupmae"\nrepresentation = "cls"\n')
    copy = shutil.copytree(made.base, made.base.with_name("released"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.0}))
    released.write_text(f'name = "released"\nobjective = "retromae"\ncheckpoint = "{copy}"\n')
    entrants = [*BUILT_IN, str(dense), "bm25", str(released)]
    yield Ran(made, entrants, sweep(Request(entrants, str(made.track), (0,), (), made.store, made.boards)))


def test_one_comparable_table_with_every_measure(ran: Ran) -> None:
    names = ["bert", "mlm", "retromae", "bow-mae", "dupmae", "dupmae-cls", "bm25", "released"]
    assert [row.entrant for row in ran.swept.rows] == names
    assert read(ran.swept.folder) == ran.swept.rows
    (table,) = compare(ran.swept.rows, lambda row: load_per_query(ran.swept.folder, row))
    assert sorted(line.entrant for line in table.lines) == sorted(names)
    assert table.columns == tuple((f"{ran.tiny.data}:test", name) for name in MEASURES)
    assert table.pairs and table.queries == 15
    shown = {line.entrant: line.representation for line in table.lines}
    assert shown["dupmae"] == "cls+terms" and shown["dupmae-cls"] == "cls" and shown["bm25"] == "bm25"
    assert {shown[name] for name in ("bert", "mlm", "retromae", "bow-mae", "released")} == {"cls"}
    for row in ran.swept.rows:
        assert all(0 <= row.measures[f"{ran.tiny.data}:test"][name] <= 1 for name in MEASURES)
    (bm25,) = [line for line in table.lines if line.entrant == "bm25"]
    assert (bm25.mean(f"{ran.tiny.data}:test", "MRR@10") or 0) > 0.8, "queries are words of their documents"


def test_fields_of_a_row(ran: Ran) -> None:
    row = ran.row("dupmae")
    assert (row.track, row.overrides, row.objective, row.checkpoint, row.seed) == ("tiny", {}, "dupmae", None, 0)
    assert row.settings["bow_weight"] == 0.1
    assert set(row.selection) == {"in-batch", "mined"}
    assert row.chosen == max(row.selection, key=row.selection.__getitem__)
    test, train = f"{ran.tiny.data}:test", f"{ran.tiny.data}:train"
    assert set(row.artifacts) >= {"pretrain", "finetune in-batch", "finetune mined", f"mine {train}"}
    assert set(row.artifacts) >= {f"encode {test} passages", f"search {test}", f"score {test}"}
    for role, key in row.artifacts.items():
        assert (ran.tiny.store / role.split()[0] / key / "entry.json").is_file()
    assert row.plugin == {"distribution": "retrobench", "version": row.version}
    assert {"python", "torch", "transformers", "ranx", "numpy"} <= set(row.libraries)
    assert row.hardware["threads"] == 1 and row.hardware["processor"]
    cost = row.cost["pretrain"]
    assert cost["tokens_per_second"] == pytest.approx(cost["tokens"] / cost["seconds"])
    assert cost["tokens"] > 6 * 8 * 3 and cost["peak_memory_bytes"] > 1e7
    assert row.cost["finetune"]["seconds"] > 0 and row.date.endswith("+00:00")
    assert row.command == f"retrobench run --objective dupmae --track {ran.tiny.track} --seed 0"
    values = load_per_query(ran.swept.folder, row)[f"{ran.tiny.data}:test"]
    assert sorted(values["MRR@10"]) == sorted(f"q{number}" for number in tiny.SPLITS["test"])
    for name, mean in row.measures[f"{ran.tiny.data}:test"].items():
        assert mean == pytest.approx(np.mean(list(values[name].values())))
    assert ran.row("bm25").seed is None and ran.row("bm25").chosen == ""
    assert ran.row("released").checkpoint == str(ran.tiny.base.with_name("released"))
    assert "pretrain" not in ran.row("released").artifacts and "pretrain" not in ran.row("bert").artifacts


def test_what_is_shared_is_made_once(ran: Ran) -> None:
    dense, full = ran.row("dupmae-cls"), ran.row("dupmae")
    assert dense.artifacts["pretrain"] == full.artifacts["pretrain"]
    assert dense.artifacts["finetune in-batch"] != full.artifacts["finetune in-batch"]
    assert len(ran.tiny.finished("pretrain")) == 4
    assert len(ran.tiny.finished("finetune")) == 14  # two rounds of seven entrants
    # The documents, and the queries of training, of mining, of choosing and of the test.
    assert len(ran.tiny.finished("tokenise")) == 5
    assert not list(ran.tiny.store.glob("*/*.partial")) and not list(ran.tiny.store.glob("*/*/step-*"))


def test_a_run_file_gives_the_scores_of_its_row(ran: Ran) -> None:
    row, dataset = ran.row("retromae"), load(f"{ran.tiny.data}:test")
    key = row.artifacts[f"search {dataset.id}"]
    lines = [line.split() for line in (ran.tiny.store / "search" / key / "run.trec").read_text().splitlines()]
    assert len(lines) == 15 * 50
    ids = [document.id for document in dataset.documents()]
    queries = list(dict.fromkeys(line[0] for line in lines))
    assert {line[1] for line in lines} == {"Q0"} and {line[5] for line in lines} == {"retromae"}
    assert [int(line[3]) for line in lines[:50]] == list(range(1, 51))
    scores = np.asarray([float(line[4]) for line in lines]).reshape(15, 50)
    assert (np.diff(scores) <= 0).all()
    hits = np.asarray([ids.index(line[2]) for line in lines]).reshape(15, 50)
    values = measure(queries, hits, ids, dataset.qrels(), MEASURES)
    assert {name: np.mean(list(of.values())) for name, of in values.items()} == pytest.approx(row.measures[dataset.id])


def test_a_cached_rerun_trains_nothing_and_appends_no_row(ran: Ran, capfd: pytest.CaptureFixture[str]) -> None:
    before = (ran.swept.folder / "rows.jsonl").read_bytes()
    stages = {path: path.stat().st_mtime_ns for path in ran.tiny.store.glob("*/*") if path.is_dir()}
    again = ran.again(*ran.entrants)
    said = capfd.readouterr().err
    assert again.rows == ran.swept.rows
    assert (ran.swept.folder / "rows.jsonl").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in ran.tiny.store.glob("*/*") if path.is_dir()} == stages
    lines = [line for line in said.splitlines() if not line.startswith("==")]
    assert len(lines) > 100
    assert all(
        re.search(r": cached \w{8} \((same settings and sources, made 20|made in this run)", line) for line in lines
    )


def test_another_seed_is_another_row_and_other_numbers(ran: Ran) -> None:
    (other,) = ran.again("retromae", seed=1).rows
    first = ran.row("retromae")
    assert (other.seed, other.identity) == (1, first.identity)
    assert other.measures != first.measures
    assert other.artifacts["pretrain"] != first.artifacts["pretrain"]
    rows = read(ran.swept.folder)
    (table,) = compare(rows)
    (line,) = [line for line in table.lines if line.entrant == "retromae"]
    assert [row.seed for row in line.rows] == [0, 1]


def test_bm25_has_one_row_whatever_the_seeds(ran: Ran) -> None:
    swept = ran.again("bm25", seeds=(0, 1, 2))
    assert [row.entrant for row in swept.rows] == ["bm25"]
    assert sum(row.entrant == "bm25" for row in read(ran.swept.folder)) == 1


def test_an_override_makes_a_differing_track(ran: Ran, tmp_path: Path) -> None:
    swept = ran.again("bert", "mlm", overrides=("pretrain.steps=4", "evaluate.depth=50"), leaderboard=tmp_path)
    bert, mlm = swept.rows
    assert bert.identity == mlm.identity != ran.row("bert").identity
    assert bert.overrides == mlm.overrides == {"pretrain.steps": 4}, "depth was 50 before"
    assert bert.measures == ran.row("bert").measures, "bert does not pre-train"
    assert mlm.artifacts["pretrain"] != ran.row("mlm").artifacts["pretrain"]
    # In one folder with the others, bert stands in the differing track's table too, though nothing was made for it.
    ran.again("bert", overrides=("pretrain.steps=4",))
    tables = compare(read(ran.swept.folder))
    assert [table.overrides for table in tables] == ["", "pretrain.steps=4"]
    assert [line.entrant for line in tables[1].lines] == ["bert"]


def test_an_override_of_the_objective_is_another_entrant(ran: Ran, tmp_path: Path) -> None:
    (changed,) = ran.again("mlm", overrides=("objective.mask_ratio=0.5",), leaderboard=tmp_path).rows
    assert changed.entrant == "mlm (changed)" and changed.settings == {"mask_ratio": 0.5}
    assert changed.identity == ran.row("mlm").identity
    (mean,) = ran.again("mlm", overrides=("entrant.representation=mean",), leaderboard=tmp_path).rows
    assert mean.representation == "mean"
    assert mean.artifacts["pretrain"] == ran.row("mlm").artifacts["pretrain"]
    assert mean.measures != ran.row("mlm").measures


def test_a_terms_only_entrant_runs(ran: Ran, tmp_path: Path) -> None:
    (row,) = ran.again("dupmae", overrides=("entrant.representation=terms",), leaderboard=tmp_path).rows
    assert row.representation == "terms"
    encoder = ran.tiny.store / "finetune" / row.artifacts[f"finetune {row.chosen}"]
    assert (encoder / "model.safetensors").exists() and not (encoder / "modules.json").exists()


def test_fewer_documents_than_asked_for(ran: Ran, tmp_path: Path) -> None:
    (row,) = ran.again("dupmae", overrides=("evaluate.depth=1000", "mine.depth=100"), leaderboard=tmp_path).rows
    key = row.artifacts[f"search {ran.tiny.data}:test"]
    hits = np.load(ran.tiny.store / "search" / key / "rows.npy")
    assert hits.shape == (15, tiny.DOCUMENTS)
    assert all(sorted(of.tolist()) == list(range(tiny.DOCUMENTS)) for of in hits)
    assert row.measures[f"{ran.tiny.data}:test"]["Recall@100"] == 1.0
    candidates = np.load(ran.tiny.store / "mine" / row.artifacts[f"mine {ran.tiny.data}:train"] / "candidates.npy")
    assert candidates.shape == (40, 100)
    assert ((candidates >= 0).sum(1) >= tiny.DOCUMENTS - 2).all() and (candidates == -1).any()


def mined(ran: Ran, name: str) -> tuple[Examples, np.ndarray]:
    """The second round's examples and candidates, found again through a cached run."""
    experiment = ran.experiment(name)
    (inputs,) = open_inputs([experiment])
    (result,) = pipeline.run(experiment, inputs, Store(ran.tiny.store))
    by_role, train = artifacts(result), f"{ran.tiny.data}:train"
    candidates = np.load(by_role[f"mine {train}"].path / "candidates.npy")
    documents = next(artifact for role, artifact in by_role.items() if role.startswith("tokenise") and "docum" in role)
    queries = by_role[f"tokenise {train} sampled queries"]
    texts = TokenisedTexts.open(queries.path), TokenisedTexts.open(documents.path)
    return Examples(*texts, load(train)), candidates


@pytest.mark.parametrize("name", ["bert", "dupmae"])
def test_mined_negatives_never_hold_a_querys_own_positives(name: str, ran: Ran) -> None:
    examples, candidates = mined(ran, name)
    positives = load(f"{ran.tiny.data}:train").qrels()  # grade 1 throughout
    assert candidates.shape == (40, 10)
    assert sum(len(positives[examples.queries.ids[row]]) > 1 for row in examples.query_rows) >= 5
    for row, found in enumerate(candidates):
        own = set(positives[examples.queries.ids[examples.query_rows[row]]])
        names = [examples.documents.ids[at] for at in found]
        assert len(set(names)) == 10 and not own & set(names)


def test_exclude_by_hand() -> None:
    ranked = np.asarray([[5, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
    own = [np.asarray([1, 3]), np.asarray([7])]
    assert exclude(ranked, own, skip=1, depth=3).tolist() == [[2, 4, -1], [1, 2, 3]]


def test_what_a_query_is_compared_with(ran: Ran) -> None:
    examples, candidates = mined(ran, "bert")
    vocabulary = Vocabulary(153, 0, 2, 3, 4, frozenset({0, 1, 2, 3, 4}))
    round_ = ContrastiveBatches(examples, vocabulary, Reading(True, 12, 40), Candidates(candidates), negatives=2)
    batch = round_.collate(np.arange(40), torch.Generator().manual_seed(0))["batch"]
    rival = rivals_of(batch).numpy()
    assert rival.shape == (40, 40 + 2 * 40)
    assert rival[np.arange(40), np.arange(40)].all()
    texts = texts_of(batch.passages)
    assert len(set(texts)) < len(texts), "some passage stands twice in the batch"
    masked = 0
    for query in range(40):
        own = {packed_document(examples, at) for at in examples.positives[query]}
        for column, text in enumerate(texts):
            if column != query:
                assert rival[query, column] == (text not in own)
                masked += text in own
        assert not {*texts[40 + 2 * query : 42 + 2 * query]} & own
    assert masked > 5, "and it does happen"


def packed_document(examples: Examples, row: int) -> tuple[int, ...]:
    """A document as the batch holds it."""
    passage = examples.documents[row]
    return (2, *[*passage.title.tolist(), *passage.text.tolist()][:38], 3)


def test_a_masked_passage_has_no_part_in_the_loss() -> None:
    model = Contrastive(Fixed(), temperature=2.0)  # type: ignore[arg-type]
    queries, passages = torch.tensor([[2.0], [4.0]]), torch.tensor([[1.0], [3.0], [9.0]])
    out = model(0.0, fixed(queries, passages, [[0, 2], [1, -1]]))
    first = -1 + np.log(np.exp(1) + np.exp(3))
    second = -6 + np.log(np.exp(2) + np.exp(6) + np.exp(18))
    assert out.losses["contrastive"].item() == pytest.approx((first + second) / 2)
    assert out.metrics["accuracy"].item() == 0.0
    assert out.metrics["negatives"].item() == model.negatives == 1.5


DAMAGED = {"finetune": "model.safetensors", "encode": "*.npy", "search": "run.trec", "tokenise": "tokens.bin"}


@pytest.mark.parametrize("stage", DAMAGED)
def test_a_corrupted_artifact_is_made_again(stage: str, ran: Ran, capfd: pytest.CaptureFixture[str]) -> None:
    first = ran.row("dupmae")
    folder = ran.tiny.store / stage / next(key for role, key in first.artifacts.items() if role.split()[0] == stage)
    file = sorted(folder.glob(DAMAGED[stage]))[0]
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    (again,) = ran.again("dupmae").rows
    said = capfd.readouterr().err
    what = f"{folder.name[:8]} is damaged and is made again ({file.name} does not match its checksum)"
    assert said.count(what) == 1 and said.count("is damaged") == 1
    assert again == first
    assert file.read_bytes() == good


def test_fresh_makes_all_again_to_the_same_row(ran: Ran, capfd: pytest.CaptureFixture[str]) -> None:
    (again,) = ran.again("retromae", fresh=True).rows
    assert again == ran.row("retromae")
    said = capfd.readouterr().err
    assert said.count("made afresh, in place of") == len(again.artifacts)
