"""`coverage`: rows before and after fine-tuning, models of one's own, controls, records, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny
import torch
from typer.testing import CliRunner

from retrobench.cli import app
from retrobench.data import open_collections
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import Row, find_row
from retrobench.leaderboard.pages import render_readme
from retrobench.leaderboard.rows import COVERAGE_FILE, read_coverage
from retrobench.model import load_tokenizer, load_with_head
from retrobench.retrieval import Texts, draw_texts, measure_encoder, word_groups
from retrobench.runs import CoverageChoices, Request, coverage, sweep

PROJECTIONS = {"base's head", "linear probe", "own head", "tied embedding", "unigram prior"}


class Trained(NamedTuple):
    """A tiny track with a row of BoW prediction and a row of mlm."""

    track: tiny.Tiny
    bow: Row
    mlm: Row

    @property
    def dataset(self) -> str:
        return f"{self.track.data}:test"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    track = tiny.make(tmp_path_factory.mktemp("coverage"))
    overrides = ("mine.depth=0", "finetune.negatives=0", "evaluate.select=")
    rows = sweep(Request(["bow-mae", "mlm"], str(track.track), (0,), overrides, track.store, track.boards)).rows
    return Trained(track, *rows)


def test_a_row_is_measured_before_and_after_fine_tuning_beside_mlm(trained: Trained) -> None:
    track = trained.track
    covered = coverage([trained.bow.id], [trained.dataset], CoverageChoices(), track.store, track.boards)
    (record,) = covered.records
    assert set(record.measures) == {"pre-trained", "fine-tuned"}
    assert record.encoders["pre-trained"] == f"pretrain/{trained.bow.artifacts['pretrain']}"
    assert record.control == trained.mlm.id
    assert record.texts == 30  # of 60 documents; the others fit the probe
    for state in record.measures.values():
        assert set(state) == PROJECTIONS
        for projection in PROJECTIONS - {"unigram prior"}:
            means = {name: value["mean"] for name, value in state[projection].items()}
            assert means["above shuffled"] == pytest.approx(means["R-coverage"] - means["shuffled"])
            assert 0 < means["R-coverage"] < 1
    # Random weights: both encoders start from one base, and mlm's own difference is 0.
    (mlm,) = coverage([trained.mlm.id], [trained.dataset], CoverageChoices(), track.store, track.boards).records
    assert mlm.control == ""
    own, control = (record.measures["pre-trained"]["own head"] for record in (record, mlm))
    difference = own["above shuffled"]["mean"] - control["above shuffled"]["mean"]
    assert own["less mlm"]["mean"] == pytest.approx(difference)


def test_records_of_rows_are_kept_once_and_shown_on_the_page(trained: Trained) -> None:
    track = trained.track
    folder = track.boards / track.track.stem
    for _ in range(2):
        coverage([trained.bow.id], [trained.dataset], CoverageChoices(), track.store, track.boards)
    records = [record for record in read_coverage(folder) if record.row == trained.bow.id]
    assert len(records) == 1
    assert records[0].command == f"retrobench coverage {trained.bow.id} --dataset {trained.dataset}"
    page = render_readme(folder)
    assert "### Term coverage" in page
    assert f"{records[0].mean('pre-trained', 'own head', 'R-coverage'):.4f}" in page


def test_the_probe_and_the_heads_name_the_words_that_vectors_hold(trained: Trained, tmp_path: Path) -> None:
    """An encoder whose [CLS] vector is the mean of its words' embeddings has high coverage by construction."""
    (collection,) = open_collections([trained.dataset]).values()
    tokenizer = load_tokenizer(trained.track.base)
    texts = Texts.write(tmp_path, draw_texts(collection, "passage"), tokenizer, True, 40)
    backbone, has_head = load_with_head(trained.track.base)
    assert has_head
    rows = [np.pad(bag, (0, 64 - len(bag)), constant_values=-1) for bag in texts.bags]
    vectors = torch.zeros(len(rows), backbone.config.hidden_size)
    directions = torch.nn.functional.normalize(backbone.word_matrix.detach(), dim=1)
    for number, row in enumerate(rows):
        vectors[number] = directions[torch.from_numpy(row[row >= 0])].sum(0)
    with torch.no_grad():
        backbone.word_matrix.copy_(directions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrobench.retrieval.term_coverage.projections._embed", lambda *_: vectors)
        values = measure_encoder(backbone, has_head, backbone, "cls", texts, word_groups(texts, tokenizer))
    tied, shuffled = (np.nanmean(values[f"tied embedding/{name}"]) for name in ("R-coverage", "shuffled"))
    assert tied > 1.5 * shuffled
    assert np.nanmean(values["tied embedding/random"]) < tied / 2
    prior = np.nanmean(values["unigram prior/R-coverage"])
    frequencies = texts.frequencies.copy()
    frequencies[~texts.is_word] = -1
    best = np.argsort(-frequencies, kind="stable")
    by_hand = []
    for bag in texts.bags[: texts.measured]:
        if len(bag):
            by_hand.append(np.isin(bag, best[: len(bag)]).mean())
    assert prior == pytest.approx(np.mean(by_hand))


def test_words_fall_into_one_class_and_one_quartile(trained: Trained, tmp_path: Path) -> None:
    (collection,) = open_collections([trained.dataset]).values()
    tokenizer = load_tokenizer(trained.track.base)
    texts = Texts.write(tmp_path, draw_texts(collection, "query"), tokenizer, True, 12)
    assert all(len(bag) <= 10 for bag in texts.bags)
    groups = word_groups(texts, tokenizer)
    classes = np.sum([groups[name] for name in ("content", "stop word", "punctuation", "piece")], axis=0)
    assert classes[texts.is_word].tolist() == [1] * int(texts.is_word.sum())
    quartiles = np.sum([groups[f"IDF {number}"] for number in range(1, 5)], axis=0)
    assert set(quartiles.tolist()) == {1}


def test_a_folder_is_measured_without_a_record_and_its_base_is_named(trained: Trained) -> None:
    track = trained.track
    words = ["coverage", str(track.base), "--dataset", trained.dataset, "--store", str(track.store)]
    words += ["--max-length", "20", "--queries", "--json", "--head", str(track.base)]
    result = CliRunner().invoke(app, words)
    (record,) = json.loads(result.stdout)
    assert (record["kind"], record["max_length"], record["texts"]) == ("query", 20, 7)
    measures = record["measures"]["published"]
    assert measures["own head"]["R-coverage"] == measures["base's head"]["R-coverage"]
    assert "Kept in" not in result.stdout


@pytest.mark.parametrize(
    ("models", "choices", "words"),
    [
        (["tiny:nothing:0"], CoverageChoices(), ["row 'tiny:nothing:0'", "tiny:bow-mae:0"]),
        (["tiny:mlm:0"], CoverageChoices(head="x"), ["--head is x", "Leave it out"]),
        (["{base}"], CoverageChoices(pooling="max"), ["--pooling must be cls or mean", "'max'"]),
    ],
)
def test_what_is_refused(models: list[str], choices: CoverageChoices, words: list[str], trained: Trained) -> None:
    names = [name.format(base=trained.track.base) for name in models]
    with pytest.raises(RetrobenchError) as error:
        coverage(names, [trained.dataset], choices, trained.track.store, trained.track.boards)
    for word in words:
        assert word in str(error.value)


def test_an_encoder_that_is_not_in_the_store_names_the_command_that_makes_it(trained: Trained, tmp_path: Path) -> None:
    _, line = find_row(trained.mlm.id, trained.track.boards)
    assert line.row is not None
    with pytest.raises(RetrobenchError, match="is not in the store") as error:
        coverage([trained.mlm.id], [trained.dataset], CoverageChoices(), tmp_path, trained.track.boards)
    assert line.row.command in str(error.value)


def test_a_damaged_record_is_named(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / COVERAGE_FILE).write_text('{"row": 3}\n')
    with pytest.raises(RetrobenchError, match=r"coverage.jsonl:1 is no record of coverage"):
        read_coverage(tmp_path)
