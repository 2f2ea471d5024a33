"""The report in a real browser: Chromium opens the file from disk. `make browser` installs what these tests need."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright
from stored_runs import write_search

from retrobench.data import load
from retrobench.leaderboard import Judged, side_by_side
from retrobench.leaderboard.comparison import Board
from retrobench.leaderboard.report import NamedPair, write_report
from retrobench.leaderboard.tables import read_probed

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
SCREENSHOTS = os.environ.get("SCREENSHOTS")  # a folder that keeps them, to be looked at
LEADERBOARDS = Path(__file__).parents[2] / "leaderboards"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
MEGABYTE = 1e6


class Opened:
    """The report in a browser, with everything that it asked for and said."""

    def __init__(self, browser: Browser, address: str, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, **context)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        self.page.goto(address)
        self.page.wait_for_load_state()


@pytest.fixture(scope="module", params=["mini", "small"])
def track(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def address(track: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a page about one track, so that every control is there once."""
    return write_report([track], tmp_path_factory.mktemp("report")).file.as_uri()


def test_a_page_about_all_tracks_is_small(tmp_path: Path) -> None:
    report = write_report([], tmp_path, has_texts=False)
    assert {"mini", "small"} <= set(report.tracks)
    assert report.size < 4 * MEGABYTE
    assert write_report([], tmp_path).size > report.size


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "install Debian's chromium, or name a browser with CHROMIUM=FILE"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Opened]:
    opened = Opened(browser, address)
    opened.page.wait_for_selector("[data-plot=forest] svg")
    yield opened
    opened.context.close()


def rows(track: str) -> list[dict[str, Any]]:
    """Return the rows of the unchanged track."""
    lines = (LEADERBOARDS / track / "rows.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if not row["overrides"]]


def lines_of(track: str) -> set[tuple[str, str]]:
    return {(row["entrant"], row["representation"]) for row in rows(track)}


def column(page: Page, number: int) -> list[str]:
    """Return the texts of a column of the leaderboard, counted from 1."""
    texts: list[str] = page.locator(f"[data-role=scores] tbody tr td:nth-child({number})").all_inner_texts()
    return texts


def test_it_opens_from_disk_without_a_request_or_an_error(opened: Opened, address: str) -> None:
    assert [url for url in opened.requests if not url.startswith(("data:", "blob:"))] == [address]
    assert opened.messages == []


def test_its_policy_stops_scripts_that_are_not_its_own(opened: Opened) -> None:
    opened.page.evaluate(
        "const script = document.createElement('script'); script.textContent = 'window.broken = 1';"
        "document.body.append(script)"
    )
    assert opened.page.evaluate("window.broken") is None
    assert any("Content Security Policy" in message for message in opened.messages)


def test_its_numbers_are_those_of_the_rows(opened: Opened, track: str) -> None:
    measured: dict[tuple[str, str], list[float]] = {}
    for row in rows(track):
        values = measured.setdefault((row["entrant"], row["representation"]), [])
        values.append(row["measures"]["retrobench/squad/test"]["MRR@10"])
    shown = dict(
        zip(zip(column(opened.page, 2), column(opened.page, 3), strict=True), column(opened.page, 5), strict=True)
    )
    assert shown.keys() == measured.keys()
    for line, values in measured.items():
        assert shown[line].split(" ")[0] == f"{sum(values) / len(values):.4f}", line


def test_another_measure_seed_and_representation_can_be_chosen(opened: Opened, track: str) -> None:
    page = opened.page
    page.locator("select[name=measure]").select_option("Recall@100")
    page.locator("select[name=seeds]").select_option("3")
    page.locator("select[name=representation]").select_option("cls")
    (expected,) = [
        row["measures"]["retrobench/squad/test"]["Recall@100"]
        for row in rows(track)
        if (row["entrant"], row["representation"], row["seed"]) == ("mlm", "cls", 3)
    ]
    shown = dict(zip(column(page, 2), column(page, 5), strict=True))
    assert shown["mlm"] == f"{expected:.4f} ± -"
    assert set(column(page, 3)) == {"cls"}


def test_it_sorts_and_filters_and_the_url_holds_the_state(opened: Opened) -> None:
    page = opened.page
    header = page.locator("[data-role=scores] th", has_text="entrant")
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(page, 2) == sorted(column(page, 2))
    header.get_by_role("button").click()
    assert column(page, 2) == sorted(column(page, 2), reverse=True)
    page.locator("input[name=filter]").fill("dupmae")
    assert set(column(page, 2)) == {"dupmae"}
    page.reload()
    page.wait_for_selector("[data-plot=forest] svg")
    assert "filter=dupmae" in page.url
    assert set(column(page, 2)) == {"dupmae"}


def test_two_lines_side_by_side_have_the_numbers_of_compare(opened: Opened, track: str) -> None:
    page = opened.page
    page.locator("select[name=a]").select_option("bow-mae")
    page.locator("select[name=b]").select_option("bert")
    text = page.locator("[data-role=pair]").inner_text()
    compared = side_by_side(f"{track}:bow-mae", f"{track}:bert", Judged(), leaderboard=LEADERBOARDS)
    assert compared.pair.interval is not None
    low, high = compared.pair.interval
    assert f"95 % interval [{low:+.4f}, {high:+.4f}]" in text
    wins, ties, losses = compared.counts
    assert f"better on {wins} questions, bert on {losses}, both are equal on {ties}." in text
    first = page.locator("[data-role=questions] tbody tr").first.locator("td").all_inner_texts()
    assert first[3] == f"{compared.questions[0].difference:+.4f}"


def test_a_question_opens_its_passages_and_the_first_documents(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page begins with the named pair. The keyboard opens a question, and axe reads the opened page."""
    dataset = load("retrobench/squad/test")
    relevant = {query: next(iter(grades)) for query, grades in dataset.qrels().items()}
    passages = list(dict.fromkeys(relevant.values()))[:11]
    for entrant in ("bert", "bow-mae"):
        (row, *_) = [row for row in rows("small") if row["entrant"] == entrant]
        run = {
            query: ([relevant[query]] + [name for name in passages if name != relevant[query]])[:11]
            for query in relevant
        }
        write_search(tmp_path, row["artifacts"][f"search {dataset.id}"], run)
    monkeypatch.setenv("RETROBENCH_HOME", str(tmp_path))
    report = write_report(["small"], tmp_path, pairs=[NamedPair("bert", "small:bow-mae")])
    opened = Opened(browser, report.file.as_uri(), bypass_csp=True)  # the policy would stop axe's script
    page = opened.page
    page.wait_for_selector("[data-plot=forest] svg")
    assert [page.locator(f"select[name={name}]").input_value() for name in "ab"] == ["bert", "bow-mae"]
    details = page.locator("[data-role=questions] details")
    assert details.count() == 50
    details.first.locator("summary").focus()
    page.keyboard.press("Enter")
    details.first.locator(".tops ol").nth(1).wait_for()
    headings = details.first.locator("h4").all_inner_texts()
    assert headings == ["Relevant passages", "First 10 of bert, seed 1", "First 10 of bow-mae, seed 1"]
    question = page.locator("[data-role=questions] tbody tr").first.locator("td").first.inner_text()
    first = details.first.locator(".tops li").first.inner_text()
    assert first.startswith(f"{relevant[question]} relevant (1) ")
    assert Axe().run(page).violations_count == 0
    if SCREENSHOTS:
        page.locator("section.pairs").screenshot(path=f"{SCREENSHOTS}/pair.png")
    page.locator("select[name=b]").select_option("condenser")
    assert page.locator("[data-role=questions] details").count() == 0, "no pair with the baseline, and not named"
    assert opened.messages == []
    opened.context.close()


def test_curves_can_be_drawn_against_steps_tokens_and_minutes(opened: Opened, track: str) -> None:
    page = opened.page
    curves = page.locator("section.curves")
    if track == "mini":
        assert curves.count() == 0, "its trainings' logs were not kept"
        return
    for axis in ("tokens", "minutes", "step"):
        curves.locator("select[name=against]").select_option(axis)
        page.wait_for_function(
            "axis => document.querySelector('section.curves .plot').textContent.includes(axis)", arg=axis
        )
    assert opened.messages == []


def test_data_can_be_saved(opened: Opened) -> None:
    with opened.page.expect_download() as download:
        opened.page.get_by_role("button", name="Data as CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith("line,entrant,representation,seeds,dataset,measure,mean,sd")
    assert len(lines) == 1 + len(column(opened.page, 2))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(scheme: str, browser: Browser, address: str) -> None:
    opened = Opened(browser, address, color_scheme=scheme, bypass_csp=True)  # the policy would stop axe's script
    opened.page.wait_for_selector("[data-plot=forest] svg")
    results = Axe().run(opened.page)
    assert results.violations_count == 0, results.generate_report()
    opened.context.close()


def test_tables_and_plots_are_there_without_javascript(browser: Browser, address: str, track: str) -> None:
    opened = Opened(browser, address, java_script_enabled=False)
    assert opened.page.locator("[data-role=scores] tbody tr").count() == len(lines_of(track))
    has_coverage = (LEADERBOARDS / track / "coverage.jsonl").exists()
    has_probes = bool(read_probed(Board.read(LEADERBOARDS / track)))
    assert opened.page.locator("figure .plot svg").count() == 3 + has_coverage + has_probes
    assert not opened.page.locator("form.controls").first.is_visible()
    opened.context.close()


@pytest.mark.parametrize("name", ["light", "dark", "narrow", "print"])
def test_nothing_is_wider_than_the_screen(name: str, browser: Browser, address: str, track: str) -> None:
    opened = Opened(browser, address, color_scheme="dark" if name == "dark" else "light")
    page = opened.page
    if name == "narrow":
        page.set_viewport_size({"width": 400, "height": 900})
    if name == "print":
        page.emulate_media(media="print")
    page.wait_for_selector("[data-plot=forest] svg")
    widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    if name != "print":  # a printer scales
        assert widths[0] <= widths[1]
    else:
        assert page.locator("td details > summary").first.is_visible(), "a question's text"
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{track}-{name}.png", full_page=True)
    opened.context.close()
