"""Every published number of the three papers is recorded, with a recipe that its track accepts."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from retrobench.config import Experiment
from retrobench.config.discovery import discover
from retrobench.config.reading import read_entrant, read_track, resolve
from retrobench.data.rules import GROUPS, MEANS
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.claims import Cell, ClaimedTable, Excerpt, System, read_excerpts, read_tables
from retrobench.leaderboard.folders import locate
from retrobench.leaderboard.reproduce.recipes import claimed_recipe

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "reference" / "published.csv"
TABLES = {table.id: table for table in read_tables(ROOT / "leaderboards")}
EXCERPTS = [excerpt for table in TABLES.values() for excerpt in table.excerpts]
TRACKED = [excerpt for excerpt in EXCERPTS if excerpt.track]

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
}


def systems_of(table: ClaimedTable) -> Iterator[tuple[Excerpt, System]]:
    for excerpt in table.excerpts:
        for system in excerpt.systems:
            yield excerpt, system


def find_system(table: str, model: str) -> System:
    """Return the first line of a table for a model."""
    return next(system for _, system in systems_of(TABLES[table]) if system.model == model)


def find_cell(table: str, model: str, column: str) -> Cell:
    cells: list[Cell] = []
    for _, system in systems_of(TABLES[table]):
        if system.model == model:
            cells += [cell for cell in system.cells if cell.column.name == column]
    assert len(cells) == 1
    return cells[0]


def test_every_table_is_recorded_with_all_its_cells() -> None:
    counts = {}
    for name, table in TABLES.items():
        systems = [system for _, system in systems_of(table)]
        missing = 0
        for system in systems:
            missing += sum(cell.published is None for cell in system.cells)
        counts[name] = (len(systems), table.cells, missing)
    assert counts == COUNTS


@pytest.mark.parametrize("table", TABLES)
def test_every_cell_has_a_source_and_a_fraction_or_a_reason(table: str) -> None:
    for excerpt, system in systems_of(TABLES[table]):
        assert excerpt.fractions == (table != "bow/speed")
        assert bool(excerpt.track) != bool(excerpt.reason)
        assert system.entrant or system.reason or excerpt.reason
        for cell in system.cells:
            assert cell.source
            assert (cell.published is None) == bool(cell.reason)
            if cell.published is not None and excerpt.fractions:
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


def test_the_means_of_18_printed_averages_are_those_of_the_cells() -> None:
    for table in ("retromae/table-1", "dupmae/table-3"):
        for system in TABLES[table].excerpts[0].systems:
            numbers = [cell.published or 0.0 for cell in system.cells]
            mean = sum(numbers[:-1]) / 18
            assert numbers[-1] == pytest.approx(mean, abs=6e-4), system.model


PAPERS = {
    "RetroMAE EMNLP2022": "retromae",
    "DupMAE ACL2023": "dupmae",
    "DupMAE arXiv": "dupmae",
    "BoW SIGIR2024": "bow",
}
DATASETS = {
    "MS MARCO passage dev": "msmarco-titled:dev",
    "TREC DL 2019 passage": "msmarco-titled:dl19",
    "TREC DL 2020 passage": "msmarco-titled:dl20",
    "AVERAGE": "AVERAGE (18 sets)",
    "Touche-2020": "beir/webis-touche2020/v2",
    "CQADupStack": MEANS["beir/cqadupstack"],
    "FiQA-2018": "beir/fiqa/test",
    "DBPedia": "beir/dbpedia-entity/test",
} | {name: f"beir/{name.lower()}/test" for name in ("NFCorpus", "HotpotQA", "Quora", "FEVER", "SciFact")}
DATASETS |= {name: f"beir/{name.lower()}" for name in ("TREC-COVID", "NQ", "ArguAna", "SCIDOCS", "Climate-FEVER")}

Key = tuple[str, bool, str, str]  # table, whether of the preprint, column, model


def listed() -> dict[Key, float]:
    """Return the published numbers of the papers' tables, by the names that the list has for models."""
    numbers: dict[Key, float] = {}
    for row in csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines()):
        papers = [paper for start, paper in PAPERS.items() if row["source"].startswith(start)]
        if not papers:
            continue  # of a repository or a model card
        paper = papers[0]
        dataset = DATASETS.get(row["dataset"], row["dataset"])
        measure = row["metric"].split(" (")[0]
        if measure.startswith("R@") and (dataset.startswith("msmarco-titled") or "document" in dataset):
            measure = measure.replace("R@", "Success@" if paper == "bow" else "Recall@")
        table = f"{paper}/table-{row['table'].split(' ')[1]}"
        model = row["setup"] if table == "retromae/table-6" else row["model"]
        preprint = row["source"].startswith("DupMAE arXiv")
        numbers[table, preprint, f"{dataset} {measure}", model] = float(row["value"])
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
                    cells[name, preprint, cell.column.name, system.model] = cell
    return cells


def models_of(keys: Iterable[Key], table: str) -> list[str]:
    """Return the models of a table in their order."""
    return list(dict.fromkeys(key[3] for key in keys if key[0] == table))


def test_every_published_number_is_a_claim_and_every_claim_a_published_number() -> None:
    if not PUBLISHED.is_file():
        pytest.skip(f"the list of published numbers is not at hand: {PUBLISHED}")
    numbers = listed()
    cells = claimed()
    assert len(numbers) == 919
    names = {"BoW Prediction": "BoW"}
    for table in ("retromae/table-6", "dupmae/table-4"):  # ablations have equal orders and different names
        names |= dict(zip(models_of(numbers, table), models_of(cells, table), strict=True))
    matched = set()
    for (table, preprint, column, model), value in numbers.items():
        key = (table, preprint, column, names.get(model, model))
        assert value in (cells[key].published, cells[key].printed), key
        matched.add(key)
    corrected = {"msmarco-titled:dev Recall@1000", "msmarco-titled:dl19 nDCG@10"}  # of a row that is shifted in print
    assert cells.keys() - matched == {("dupmae/table-1", False, column, "coCondenser") for column in corrected}


# --- the recipes


@pytest.mark.parametrize("excerpt", TRACKED, ids=lambda excerpt: f"{excerpt.id} {excerpt.title}")
def test_a_track_accepts_the_recipes_of_its_claims(excerpt: Excerpt) -> None:
    discovered = discover()
    for system in [system for system in excerpt.systems if system.entrant]:
        sets = [text for text in (*excerpt.set, *system.set) if not text.endswith("=*")]
        track = read_track(locate(excerpt.track, ROOT / "leaderboards"), excerpt.track, sets)
        entrant = read_entrant(system.entrant, discovered, sets)
        claimed = claimed_recipe(excerpt, system).track
        for section, settings in resolve(track).items():
            for key, value in settings.items():
                expected = list(value) if isinstance(value, tuple) else value
                assert claimed[f"{section}.{key}"] == expected
        texts = Experiment(track, entrant, 0).track.test_reading
        for dataset in {column.dataset for column in excerpt.columns} & excerpt.datasets.keys():
            needs = excerpt.datasets[dataset].needs
            assert (needs["query_length"], needs["passage_length"]) == (texts.query_length, texts.passage_length)
            joined = {True: "space", False: "none", "[SEP]": "[SEP]"}[texts.titles]
            assert (needs["titles"], needs["similarity"]) == (joined, "dot")
            assert system.round in ("", "in-batch", "mined", "distilled")


def test_there_are_claims_on_every_track() -> None:
    tracks = {"msmarco", "msmarco-dupmae", "msmarco-bow", "beir", "beir-dupmae", "beir-bow"}
    assert {excerpt.track for excerpt in TRACKED} == tracks
    entrants: set[str] = set()
    for excerpt in TRACKED:
        entrants |= {system.entrant for system in excerpt.systems}
    assert entrants == {"", "bert", "retromae", "dupmae", "bow-mae"}


def test_the_public_sets_of_beir_are_all_in_its_tables() -> None:
    public = {*GROUPS["beir"], MEANS["beir/cqadupstack"]} - {"beir/cqadupstack"}
    for table in ("retromae/table-1", "dupmae/table-3"):
        excerpt = TABLES[table].excerpts[0]
        datasets = {column.dataset for column in excerpt.columns}
        assert {dataset for dataset in datasets if dataset.startswith("beir/")} == public
        assert set(GROUPS["beir/cqadupstack"]) < excerpt.datasets.keys()
        refused = [claimed for claimed in excerpt.datasets.values() if claimed.reason]
        assert len(refused) == 5, "four licensed sets, and the mean of 18"


# --- the file


SMALL = """
title = "T"
[reasons]
plugin = "no such plugin"
none = "no number"
[dataset]
"*" = { documents = 3, titles = "space" }
"d:dev" = { label = "dev", queries = 2 }
[[table]]
id = "paper/table-1"
title = "Title"
paper = "Paper (2020)"
source = "arXiv:1, Table 1"
set = ["adapt.corpus=[]"]
round = "mined"
columns = ["d:dev MRR@10", "d:dev Recall@10"]
headers = ["", "MRR@100"]
rows = [
    { model = "A", entrant = "bert", values = [0.25, "none"] },
    { model = "B", reason = "plugin", round = "in-batch", values = [0.5, 0.75] },
]
[[table.corrections]]
model = "B"
column = "d:dev MRR@10"
printed = 0.05
source = "arXiv:2"
note = "a digit fell out"
"""


def written(folder: Path, text: str, track: str = "small") -> Path:
    file = folder / track / "claims.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def test_a_file_is_read_with_its_reasons_and_corrections(tmp_path: Path) -> None:
    (excerpt,) = read_excerpts(written(tmp_path, SMALL))
    assert (excerpt.track, excerpt.set) == ("small", ("adapt.corpus=[]",))
    assert excerpt.columns[1].header == "MRR@100"
    measured, missing = excerpt.systems
    assert (measured.entrant, measured.round) == ("bert", "mined")
    assert measured.cells[0].published == 0.25
    assert measured.cells[1].reason == "no number"
    assert (missing.reason, missing.round) == ("no such plugin", "in-batch")
    assert missing.cells[0].printed == 0.05
    assert missing.cells[0].note == "a digit fell out (arXiv:2)"
    assert excerpt.datasets["d:dev"].needs == {"documents": 3, "queries": 2, "titles": "space"}


def test_excerpts_of_a_table_are_joined_and_the_nearest_file_of_a_track_counts(tmp_path: Path) -> None:
    written(tmp_path, SMALL)
    written(tmp_path, SMALL.replace('round = "mined"', 'reason = "nothing measures it"', 1), "other")
    tables = {table.id: table for table in read_tables(tmp_path)}
    table = tables["paper/table-1"]
    assert [excerpt.track for excerpt in table.excerpts] == ["small", ""]
    assert (table.cells, table.title) == (8, "Title")
    assert "retromae/table-2" in tables


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "round =",
            "rounds =",
            r"Unknown setting 'rounds'\. Did you mean 'round'\? .*claims.toml paper/table-1",
        ),
        ('title = "T"', 'titel = "T"', r"Unknown setting 'titel'\. Did you mean 'title'\? .*small/claims.toml"),
        ("label =", "lable =", r"Unknown setting 'lable'\. Did you mean 'label'\? .*dataset\.\"d:dev\"\]"),
        ("[0.25,", "[25.0,", r"paper/table-1, A: 25\.0 is no fraction\. Divide percentages by 100\."),
        ("[0.25,", "[", r"paper/table-1, A: 1 values for 2 columns\. "),
        ('["", "MRR@100"]', '[""]', r"1 headers for 2 columns\. "),
        ('"plugin", r', '"plugn", r', r"Unknown reason in .*, B 'plugn'\. Did you mean 'plugin'\?"),
        (
            'entrant = "bert", ',
            "",
            r"paper/table-1, A: neither an entrant .* nor a reason",
        ),
        (
            'column = "d:dev MRR@10"',
            'column = "d:dev MRR"',
            r"Unknown cell to correct .*'d:dev MRR of B'\. Did you mean",
        ),
        ('source = "arXiv:1, Table 1"', 'source = ""', r"needs an id PAPER/TABLE, a title, a paper and a source\."),
        ('"paper/table-1"', '"table 1"', r"claims.toml table 1: needs an id PAPER/TABLE"),
        (
            'model = "B", r',
            'model = "A", r',
            r"Unknown cell|a model or a column stands twice\.",
        ),
        ('source = "arXiv:2"', "", r"source is missing .*paper/table-1"),
        ('["d:dev MRR@10", ', '["MRR@10", ', r"column 'MRR@10' is not DATASET MEASURE\. Write both"),
        ("[[table]]", "[table", r"claims\.toml is not TOML: .*Correct it there\."),
    ],
)
def test_a_fault_is_one_line_that_names_it(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(RetrobenchError, match=message) as raised:
        read_excerpts(written(tmp_path, SMALL.replace(old, new, 1)))
    assert "\n" not in str(raised.value)
