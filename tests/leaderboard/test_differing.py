"""The questions on which two lines differ most: their passages and first documents, from a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from leaderboard_rows import DATASET, row
from stored_runs import write_search

from retrobench.data import load
from retrobench.errors import RetrobenchError
from retrobench.leaderboard.report import NamedPair, page
from retrobench.leaderboard.report.differing import LETTERS
from retrobench.leaderboard.report.figures import read_figures
from retrobench.leaderboard.rows import append

QUESTIONS = [query.id for query in load(DATASET).queries()][:60]
RELEVANT = {query: next(iter(load(DATASET).qrels()[query])) for query in QUESTIONS}


@pytest.fixture
def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a leaderboard whose retromae gains the most on the first questions. The store lacks the runs of mlm."""
    store = tmp_path / "store"
    monkeypatch.setenv("RETROBENCH_HOME", str(store))
    for entrant, gain in (("bert", 0.0), ("mlm", 0.1), ("retromae", 1.0)):
        values = {query: gain / (number + 1) for number, query in enumerate(QUESTIONS)}
        for seed in range(2):
            key = f"{entrant}-{seed}".ljust(20, "0")
            measured = row(entrant, seed, [sum(values.values()) / 60], artifacts={f"search {DATASET}": key})
            append(tmp_path / "boards" / "other", measured, {DATASET: {"MRR@10": values}})
    passages = list(dict.fromkeys(RELEVANT.values()))
    for entrant, first in (("bert", 1), ("retromae", 0)):
        run = {}
        for query in QUESTIONS:
            others = [passage for passage in passages if passage != RELEVANT[query]][:12]
            run[query] = [*others[:first], RELEVANT[query], *others[first:]]
        write_search(store, f"{entrant}-1".ljust(20, "0"), run)
    return tmp_path / "boards"


def differing(boards: Path, pairs: list[NamedPair], has_texts: bool = True) -> dict[str, Any]:
    figures = read_figures("other", boards)
    assert figures is not None
    document = page._document(figures, pairs, has_texts)
    lines = document["questions"]["lines"]
    return {**document["differing"], "lines": {name: lines.index(name) for name in lines}}


def test_passages_and_first_documents_are_those_of_the_runs(boards: Path) -> None:
    part = differing(boards, [])
    lines = part["lines"]
    assert part["pairs"] == [(lines["retromae"], lines["mlm"]), (lines["bert"], lines["mlm"])], "mlm is the baseline"
    assert part["lacking"] == ["mlm"]
    assert not part["is_named"]
    assert part["seeds"] == {str(lines["bert"]): 1, str(lines["retromae"]): 1}, "seed 0 has no run in the store"
    tops = part["tops"]
    assert list(tops[str(lines["retromae"])]) == [str(number) for number in range(50)], "the ten others differ less"
    for number in range(50):
        relevant = part["documents"].index(RELEVANT[QUESTIONS[number]])
        assert tops[str(lines["retromae"])][str(number)][0] == relevant
        assert tops[str(lines["bert"])][str(number)][1] == relevant
        assert len(tops[str(lines["bert"])][str(number)]) == 10
        assert [relevant, 1] in part["judged"][str(number)]
    texts = dict(zip(part["documents"], part["texts"], strict=True))
    passage = load(DATASET).find_documents([RELEVANT[QUESTIONS[0]]])[RELEVANT[QUESTIONS[0]]]
    assert texts[passage.id].removesuffix(" ...") == f"{passage.title} {passage.text}"[:LETTERS].rstrip()


def test_a_named_pair_comes_first_and_texts_can_be_left_out(boards: Path) -> None:
    part = differing(boards, [NamedPair("other:bert", "retromae")], has_texts=False)
    assert part["pairs"][0] == (part["lines"]["bert"], part["lines"]["retromae"])
    assert len(part["pairs"]) == 3
    assert part["is_named"]
    assert part["texts"] == []
    assert len(part["documents"]) > 10


def test_a_licence_can_forbid_copies_and_is_shown(boards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = page.write_report(["other"], boards, boards).file.read_text("utf-8")
    assert f"<td>{DATASET}</td><td>CC BY-SA 4.0</td><td>yes</td>" in shown
    monkeypatch.setattr("retrobench.data.catalogue.forbids_copies", lambda name: True)
    assert differing(boards, [])["texts"] == []
    shown = page.write_report(["other"], boards, boards).file.read_text("utf-8")
    assert f"<td>{DATASET}</td><td>CC BY-SA 4.0</td><td>no: the licence forbids copies</td>" in shown


def test_the_command_names_lines_without_runs_and_unknown_lines(boards: Path) -> None:
    report = page.write_report(["other"], boards, boards)
    assert report.lacking == ("other:mlm",)
    assert "Without the first documents of other:mlm" in report.text()
    with pytest.raises(RetrobenchError, match=r"'nolm'.*Known: other:bert, other:mlm.*of one track"):
        page.write_report(["other"], boards, boards, pairs=[NamedPair("nolm", "bert")])
