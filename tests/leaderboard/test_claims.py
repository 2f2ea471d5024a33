"""Every published number that the list has is recorded, with a recipe that its track accepts."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from retrobench.config import Experiment, read_entrant, read_track, resolve
from retrobench.config.discovery import discover
from retrobench.data.groups import GROUPS
from retrobench.leaderboard.claims import Cell, ClaimedTable, Excerpt, System, read_tables
from retrobench.leaderboard.reproduce.recipes import claimed_recipe
from retrobench.leaderboard.rows import locate

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "reference" / "published.csv"
TABLES = {table.id: table for table in read_tables(ROOT / "leaderboards")}

# Table -> lines of it, cells, and cells without a number.
COUNTS = {
    "retromae/table-1": (9, 9 * 19, 0),
    "retromae/table-2": (9 + 9, 9 * 10, 0),
    "retromae/table-3": (9 + 9, 9 * 10, 0),
    "retromae/table-4": (2, 2 * 4, 2),
    "retromae/table-5": (5, 5 * 4, 8),
    "retromae/table-6": (14 + 14, 14 * 8, 0),
    "dupmae/table-1": (14 + 16, 14 * 3 + 16 * 5, 6 + 23),
    "dupmae/table-2": (14, 14 * 3, 1),
    "dupmae/table-3": (10, 10 * 19, 0),
    "dupmae/table-4": (8, 8 * 5, 0),
    "bow/table-3": (11 + 11 + 1 + 1, 11 * 9 + 2 + 15, 4 + 19 + 2 + 15),
    "bow/speed": (5, 5 * 4, 2),
    "simlm/readme": (3, 3 * 5, 2),
    "simlm/model-card": (1, 5, 0),
    "cot-mae/readme": (2, 2 * 3, 0),
    "cot-mae-qc/readme": (5 + 5, 10 * 5, 0),
    "lexmae/abstract": (1, 1, 0),
}


def tracked_excerpts() -> list[Excerpt]:
    """Return the excerpts of all papers that a track measures."""
    excerpts: list[Excerpt] = []
    for table in TABLES.values():
        excerpts += [excerpt for excerpt in table.excerpts if excerpt.track]
    return excerpts


def systems_of(table: ClaimedTable) -> Iterator[tuple[Excerpt, System]]:
    for excerpt in table.excerpts:
        for system in excerpt.systems:
            yield excerpt, system


def find_system(table: str, model: str) -> System:
    """Return the first line of a table for a model."""
    for _, system in systems_of(TABLES[table]):
        if system.model == model:
            return system
    raise AssertionError(f"{table} has no line for {model}")


def find_cell(table: str, model: str, column: str) -> Cell:
    cells: list[Cell] = []
    for _, system in systems_of(TABLES[table]):
        for cell in system.cells:
            if system.model == model and cell.column.name == column:
                cells.append(cell)
    assert len(cells) == 1
    return cells[0]


def test_every_table_is_recorded_with_all_its_cells() -> None:
    counts = {}
    for name, table in TABLES.items():
        lines = 0
        missing = 0
        for _, system in systems_of(table):
            lines += 1
            for cell in system.cells:
                if cell.published is None:
                    missing += 1
        counts[name] = (lines, table.cells, missing)
    assert counts == COUNTS


@pytest.mark.parametrize("table", TABLES)
def test_every_cell_has_a_source_and_a_fraction_or_a_reason(table: str) -> None:
    for excerpt, system in systems_of(TABLES[table]):
        assert excerpt.fractions == (table != "bow/speed")
        assert bool(excerpt.track) != bool(excerpt.reason)
        assert system.entrant or system.reason or excerpt.reason
        for cell in system.cells:
            assert cell.source
            if cell.published is None:
                assert cell.reason
                continue
            assert not cell.reason
            if excerpt.fractions:
                assert 0 < cell.published < 1


def test_a_wrong_print_is_corrected_and_both_numbers_are_recorded() -> None:
    _, recall, dl19 = find_system("dupmae/table-1", "coCondenser").cells
    assert (recall.published, recall.printed) == (0.984, 0.717)
    assert (dl19.published, dl19.printed) == (0.717, 0.684)
    assert "arXiv:2211.08769v1" in recall.note
    contriever = find_cell("dupmae/table-3", "Contriever", "AVERAGE (18 sets) nDCG@10")
    assert (contriever.published, contriever.printed) == (0.4436, 0.448)
    dupmae = find_cell("dupmae/table-3", "DupMAE", "AVERAGE (18 sets) nDCG@10")
    assert (dupmae.published, dupmae.printed) == (0.477, 0.475)


def test_wrong_headers_are_recorded() -> None:
    headers: list[str] = []
    for excerpt in TABLES["retromae/table-6"].excerpts:
        headers += [column.header for column in excerpt.columns]
    assert headers == ["", "MRR@100", "", "", "MRR@10", "MRR@100", "R@100", "R@1000"]
    assert find_cell("retromae/table-6", "decoding: enhanced", "msmarco-titled:dev Recall@10").published == 0.6356
    bow = TABLES["bow/table-3"].excerpts[0]
    assert [column.header for column in bow.columns] == ["", "R@50", "R@1k"]
    assert ".865" in bow.note
    assert find_cell("simlm/model-card", "coCondenser", "msmarco-titled:dev Success@50").published == 0.865


def test_the_means_of_18_printed_averages_are_those_of_the_cells() -> None:
    for table in ("retromae/table-1", "dupmae/table-3"):
        for system in TABLES[table].excerpts[0].systems:
            *scores, average = [cell.published or 0.0 for cell in system.cells]
            mean = sum(scores) / 18
            assert average == pytest.approx(mean, abs=6e-4), system.model


PAPERS = {
    "RetroMAE EMNLP2022": "retromae",
    "DupMAE ACL2023": "dupmae",
    "DupMAE arXiv": "dupmae",
    "BoW SIGIR2024": "bow",
}
# Other sources of the list, each of one table.
SOURCES = {
    "caskcsg/ir@94ed5dc cotmae/": "cot-mae/readme",
    "caskcsg/ir@94ed5dc cotmae-qc/": "cot-mae-qc/readme",
    "microsoft/unilm@768a3c8 simlm/": "simlm/readme",
    "HF card intfloat/simlm": "simlm/model-card",
    "LexMAE abstract": "lexmae/abstract",
}
SUCCESS = {"bow", *SOURCES.values()}  # R@k on MS MARCO is success there, elsewhere recall
# Datasets as the list names them -> as the claims name them.
DATASETS = {
    "MS MARCO passage dev": "msmarco-titled:dev",
    "TREC DL 2019 passage": "msmarco-titled:dl19",
    "TREC DL 2020 passage": "msmarco-titled:dl20",
    "AVERAGE": "AVERAGE (18 sets)",
    "Touche-2020": "beir/webis-touche2020/v2",
    "CQADupStack": GROUPS["beir/cqadupstack"].average,
    "FiQA-2018": "beir/fiqa/test",
    "DBPedia": "beir/dbpedia-entity/test",
    "NFCorpus": "beir/nfcorpus/test",
    "HotpotQA": "beir/hotpotqa/test",
    "Quora": "beir/quora/test",
    "FEVER": "beir/fever/test",
    "SciFact": "beir/scifact/test",
    "TREC-COVID": "beir/trec-covid",
    "NQ": "beir/nq",
    "ArguAna": "beir/arguana",
    "SCIDOCS": "beir/scidocs",
    "Climate-FEVER": "beir/climate-fever",
}


class Key(NamedTuple):
    """The place of a number in the papers."""

    table: str
    preprint: bool
    column: str
    model: str


def table_of(source: str, heading: str) -> str | None:
    """Return the id of a table of the list; None for sources whose numbers are no claims."""
    for start, table in SOURCES.items():
        if source.startswith(start):
            return table
    for start, paper in PAPERS.items():
        if source.startswith(start):
            number = heading.split(" ")[1]
            return f"{paper}/table-{number}"
    return None


def measure_of(metric: str, table: str, dataset: str) -> str:
    """Return the claims' name of a measure."""
    measure, _, _ = metric.partition(" (")
    is_msmarco = dataset.startswith("msmarco-titled") or "document" in dataset
    if not is_msmarco or not measure.startswith("R@"):
        return measure
    if {table, table.partition("/")[0]} & SUCCESS:
        return measure.replace("R@", "Success@")
    return measure.replace("R@", "Recall@")


def listed() -> dict[Key, float]:
    """Return the published numbers of the papers' tables, by the names that the list has for models."""
    numbers: dict[Key, float] = {}
    lines = PUBLISHED.read_text(encoding="utf-8").splitlines()
    for row in csv.DictReader(lines):
        table = table_of(row["source"], row["table"])
        if table is None:
            continue
        preprint = row["source"].startswith("DupMAE arXiv")
        dataset = DATASETS.get(row["dataset"], row["dataset"])
        measure = measure_of(row["metric"], table, dataset)
        model = row["model"]
        if table == "retromae/table-6":
            model = row["setup"]
        elif table == "simlm/readme":
            model = f"{row['model']}, {row['setup']}"
        key = Key(table, preprint, f"{dataset} {measure}", model)
        numbers[key] = float(row["value"])
    return numbers


def claimed() -> dict[Key, Cell]:
    cells: dict[Key, Cell] = {}
    for name, table in TABLES.items():
        if name == "bow/speed":
            continue
        for excerpt, system in systems_of(table):
            preprint = "2211.08769" in excerpt.source
            for cell in system.cells:
                if cell.published is not None:
                    key = Key(name, preprint, cell.column.name, system.model)
                    cells[key] = cell
    return cells


def models_of(keys: Iterable[Key], table: str) -> list[str]:
    """Return the models of a table in their order."""
    models: list[str] = []
    for key in keys:
        if key.table == table and key.model not in models:
            models.append(key.model)
    return models


def test_every_published_number_is_a_claim_and_every_claim_a_published_number() -> None:
    if not PUBLISHED.is_file():
        pytest.skip(f"the list of published numbers is not at hand: {PUBLISHED}")
    numbers = listed()
    cells = claimed()
    assert len(numbers) == 919 + 75
    claimed_names = {"BoW Prediction": "BoW"}
    for table in ("retromae/table-6", "dupmae/table-4"):  # ablations have equal orders and different names
        pairs = zip(models_of(numbers, table), models_of(cells, table), strict=True)
        claimed_names.update(pairs)
    matched = set()
    for listed_key, value in numbers.items():
        model = claimed_names.get(listed_key.model, listed_key.model)
        key = listed_key._replace(model=model)
        cell = cells[key]
        assert value in (cell.published, cell.printed), key
        matched.add(key)
    shifted_in_print = {
        Key("dupmae/table-1", False, "msmarco-titled:dev Recall@1000", "coCondenser"),
        Key("dupmae/table-1", False, "msmarco-titled:dl19 nDCG@10", "coCondenser"),
    }
    assert cells.keys() - matched == shifted_in_print


# --- the recipes


TITLES = {True: "space", False: "none", "[SEP]": "[SEP]"}  # a track's setting -> a claim's


def recipe_of(excerpt: Excerpt, system: System) -> Experiment:
    """Return the experiment that measures a claim. Settings of any value, KEY=*, stay as the track has them."""
    overrides = [override for override in (*excerpt.set, *system.set) if not override.endswith("=*")]
    file = locate(excerpt.track, ROOT / "leaderboards")
    track = read_track(file, excerpt.track, overrides)
    entrant = read_entrant(system.entrant, discover(), overrides)
    return Experiment(track, entrant, 0)


@pytest.mark.parametrize("excerpt", tracked_excerpts(), ids=lambda excerpt: f"{excerpt.id} {excerpt.title}")
def test_a_track_accepts_the_recipes_of_its_claims(excerpt: Excerpt) -> None:
    datasets = {column.dataset for column in excerpt.columns}
    for system in excerpt.systems:
        if not system.entrant:
            continue
        track = recipe_of(excerpt, system).track
        claimed = claimed_recipe(excerpt, system).track
        for section, settings in resolve(track).items():
            for key, value in settings.items():
                assert claimed[f"{section}.{key}"] == value
        assert system.round in ("", "in-batch", "mined", "distilled")
        texts = track.test_reading
        for dataset in datasets & excerpt.datasets.keys():
            needs = excerpt.datasets[dataset].needs
            assert needs["query_length"] == texts.query_length
            assert needs["passage_length"] == texts.passage_length
            assert needs["titles"] == TITLES[texts.titles]
            assert needs["similarity"] == "dot"


def test_there_are_claims_on_every_track() -> None:
    tracks: set[str] = set()
    entrants: set[str] = set()
    for excerpt in tracked_excerpts():
        tracks.add(excerpt.track)
        entrants |= {system.entrant for system in excerpt.systems}
    assert tracks == {"msmarco", "msmarco-dupmae", "msmarco-bow", "beir", "beir-dupmae", "beir-bow"}
    assert entrants == {
        "",
        "bert",
        "retromae",
        "dupmae",
        "bow-mae",
        "condenser",
        "cocondenser:as_released",
        "cot-mae",
        "simlm:as_released",
        "lexmae",
        "contriever",
    }


def test_the_public_sets_of_beir_are_all_in_its_tables() -> None:
    public = {*GROUPS["beir"].members, GROUPS["beir/cqadupstack"].average} - {"beir/cqadupstack"}
    for table in ("retromae/table-1", "dupmae/table-3"):
        excerpt = TABLES[table].excerpts[0]
        datasets = {column.dataset for column in excerpt.columns if column.dataset.startswith("beir/")}
        assert datasets == public
        assert set(GROUPS["beir/cqadupstack"].members) < excerpt.datasets.keys()
        refused = [dataset for dataset in excerpt.datasets.values() if dataset.reason]
        assert len(refused) == 5, "four licensed sets, and the mean of 18"
