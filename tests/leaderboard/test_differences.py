"""The sentences under a table name the method that the number of clusters and seeds calls for."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from leaderboard_rows import DATASET, row

from retrobench.leaderboard.comparison import Comparison, compare
from retrobench.leaderboard.rows import PerQuery, Row
from retrobench.leaderboard.tables import about_differences, difference_table, format_ranks


def table_of(means: Mapping[str, list[float]], queries: int) -> Comparison:
    """Return a comparison of entrants with a mean for each seed. Each query departs from it by 0.01, up or down."""
    rows = []
    for entrant, seed_means in means.items():
        for seed, mean in enumerate(seed_means):
            rows.append(row(entrant, seed, [mean]))

    def load(scored: Row) -> PerQuery:
        mean = scored.measures[DATASET]["MRR@10"]
        sign = 1 if scored.entrant == "mlm" else -1
        return {DATASET: {"MRR@10": {f"q{i}": mean + sign * 0.01 * (-1) ** i for i in range(queries)}}}

    (table,) = compare(rows, load)
    return table


THREE = {"mlm": [0.30, 0.31, 0.32], "bert": [0.300, 0.312, 0.318], "dupmae": [0.60, 0.61, 0.62]}


@pytest.mark.parametrize(
    ("queries", "phrase"),
    [(60, "sign-flip test over clusters"), (200, "200 clusters are enough for t"), (1000, "read d before p")],
)
def test_the_test_fits_the_number_of_clusters(queries: int, phrase: str) -> None:
    text = " ".join(about_differences(table_of(THREE, queries)))
    assert phrase in text
    for other in {"sign-flip test", "are enough for t", "read d before p"}:
        assert (other in text) == (other in phrase)
    effect = "bert does not beat mlm at this size: +0.0000, d = "
    assert (effect in text) == (queries == 1000)


def test_lines_that_cannot_be_told_apart_share_ranks() -> None:
    table = table_of(THREE, 200)
    assert [line.entrant for line in table.lines] == ["dupmae", "bert", "mlm"]
    assert [format_ranks(table, index) for index in range(3)] == ["1", "2-3", "2-3"]


def test_with_two_seeds_there_is_no_letter_and_with_one_no_interval() -> None:
    table = table_of({"mlm": [0.3, 0.31, 0.32], "bert": [0.6], "dupmae": [0.80, 0.81]}, 200)
    assert [table.beaten(index) for index in range(3)] == [[], [], []]
    assert [format_ranks(table, index) for index in range(3)] == ["1-3"] * 3
    few = "Too few seeds for a letter, and with one seed for an interval: dupmae (2), bert (1)."
    assert few in about_differences(table)
    rows = difference_table(table).rows
    assert [row[1] for row in rows] == ["dupmae", "bert"]
    assert rows[1][3:5] == ["-", "-"]
    assert "-" not in rows[0][3:5]


def test_the_power_is_given_for_the_pairs_with_the_baseline() -> None:
    table = table_of(THREE, 200)
    detectable = {table.name(index): pair.smallest_detectable for index, _, pair in table.against_baseline()}
    (sentence,) = [sentence for sentence in about_differences(table) if sentence.startswith("Smallest true difference")]
    assert f"{detectable['dupmae']:.4f} (dupmae - mlm)" in sentence
    assert f"{detectable['bert']:.4f} (bert - mlm)" in sentence


def test_seeds_wanted_stand_in_the_table() -> None:
    wanted = {row[1]: row[-1] for row in difference_table(table_of(THREE, 200)).rows}
    assert wanted == {"dupmae": "3", "bert": "none"}
