"""
One self-contained HTML file about tracks, made from `leaderboards/`, and from runs of the store that are at hand.

* write_report   write the file of some tracks, or of all with rows
* Report         its path and size
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from retrobench.core import Column, Table, atomic_write, retrobench_version
from retrobench.errors import RetrobenchError, unknown
from retrobench.leaderboard import performance
from retrobench.leaderboard.comparison import BASELINES
from retrobench.leaderboard.report import plots
from retrobench.leaderboard.report.differing import NamedPair, check_pairs, differing, licences
from retrobench.leaderboard.report.drawing import draw
from retrobench.leaderboard.report.figures import Figures, question_texts, read_figures
from retrobench.leaderboard.report.markup import render_block, render_paragraph, render_table
from retrobench.leaderboard.reproduce import published_sections
from retrobench.leaderboard.rows import folders_with_rows, nearest_files
from retrobench.leaderboard.tables import (
    Section,
    coverage_records,
    coverage_sections,
    entrant_table,
    expectation_sections,
    notes,
    probed_sections,
    read_probed,
    read_variants,
    transfer_blocks,
)

__all__ = ["Report", "write_report"]

NAME = "report.html"
SCRIPTS = ("vendor/vega.min.js", "vendor/vega-lite.min.js", "vendor/vega-embed.min.js", "assets/page.js")


class Report(NamedTuple):
    """The written file."""

    file: Path
    tracks: tuple[str, ...]
    size: int  # bytes
    lacking: tuple[str, ...]  # lines whose runs are not in the store, as TRACK:LINE

    def text(self) -> str:
        """Return a line about the file, and one about the runs that it lacks."""
        size = f"{self.size / 1e6:.1f} MB"
        lines = [f"{self.file}: {', '.join(self.tracks)}, {size}. Open it in a browser; it needs no server."]
        if self.lacking:
            lines.append(
                f"Without the first documents of {', '.join(self.lacking)}: their runs are not in the store. "
                "RETROBENCH_HOME names another."
            )
        return "\n".join(lines)


class _Plot(NamedTuple):
    name: str
    id: str
    caption: str
    svg: Markup


def write_report(
    tracks: Sequence[str],
    output: Path,
    leaderboard: Path | None = None,
    has_texts: bool = True,
    pairs: Sequence[NamedPair] = (),
) -> Report:
    """Write `report.html` about tracks, all with rows where none is named, into the folder `output`.

    `has_texts` puts the texts of questions and passages into it, where their licence allows copies. The questions
    that differ most have passages for `pairs` and for each line with the baseline.
    RetrobenchError for a track without rows, a pair of no track, and where the folder cannot be written.
    """
    known = folders_with_rows(leaderboard)
    for track in tracks:
        if track not in known:
            raise unknown("track with rows", track, known, "--leaderboard DIR adds another folder of tracks.")
    shown: list[Figures] = []
    for track in tracks or sorted(known):
        figures = read_figures(track, leaderboard)
        if figures is not None:
            shown.append(figures)
    if not shown:
        raise RetrobenchError("No track has rows yet. `retrobench run --objective NAME` appends one.")
    check_pairs(pairs, shown)
    documents = [_document(figures, pairs, has_texts) for figures in shown]
    content = _render(shown, documents, leaderboard, has_texts).encode()
    file = output / NAME
    try:
        output.mkdir(parents=True, exist_ok=True)
        atomic_write(file, content)
    except OSError as error:
        raise RetrobenchError(f"Cannot write {file}: {error.strerror}. Name another folder with --output.") from error
    lacking = []
    for document in documents:
        lacking += [f"{document['track']}:{name}" for name in document["differing"].get("lacking", [])]
    return Report(file, tuple(figures.track for figures in shown), len(content), tuple(lacking))


def _document(figures: Figures, pairs: Sequence[NamedPair], has_texts: bool) -> dict[str, Any]:
    """Return everything that the page's script reads of a track."""
    document = figures.document()
    document["differing"] = {}
    if document["questions"]:
        document["differing"] = differing(figures, document["questions"], pairs, has_texts)
    return document


def _render(
    shown: Sequence[Figures], documents: Sequence[dict[str, Any]], leaderboard: Path | None, has_texts: bool
) -> str:
    import jinja2

    specs: dict[str, plots.Spec] = {}
    tracks = [_track(figures, document, specs) for figures, document in zip(shown, documents, strict=True)]
    asked = {document["questions"]["dataset"] for document in documents if document["questions"]}
    texts = {dataset: question_texts(dataset) for dataset in sorted(asked)} if has_texts else {}
    page_data = {"tracks": documents, "plots": specs, "texts": texts}
    scripts = [_script(name) for name in SCRIPTS]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_asset("assets/page.html.j2"))
    return template.render(
        title="Objectives for dense retrieval, compared",
        policy=_policy(scripts),
        style=Markup(_asset("assets/page.css")),
        version=retrobench_version(),
        tracks=tracks,
        **_published(leaderboard),
        performance=_performance(leaderboard),
        has_questions=bool(asked),
        licences=render_table(licences(sorted(asked), {dataset for dataset in texts if texts[dataset]})),
        data=Markup(_inline(page_data)),
        scripts=[Markup(script) for script in scripts],
    )


def _track(figures: Figures, document: dict[str, Any], specs: dict[str, plots.Spec]) -> dict[str, Any]:
    comparison = figures.comparison
    main = figures.tested[figures.columns[0]]
    extra = []
    transfer = transfer_blocks(comparison)
    if transfer:
        extra.append(Section("Transfer to other collections", tuple(transfer)))
    extra += expectation_sections(main, figures.board.declared.expectations)
    extra += read_variants(figures.board, BASELINES).sections
    extra += coverage_sections(figures.board)
    extra += probed_sections(figures.board)
    curves = plots.curves(document["curves"])
    return {
        "name": figures.track,
        "title": figures.title,
        "description": [render_paragraph(text) for text in figures.description.split("\n\n") if text],
        "leaderboard": render_table(entrant_table(main), f"Scores of track {figures.track}"),
        "notes": notes(main),
        "plots": list(_plots(figures, specs)),
        "curves": draw(curves) if curves is not None else None,
        "pairs": bool(main.pairs),
        "lacking": ", ".join(document["differing"].get("lacking", [])),
        "sections": [_section(section, figures.track) for section in extra],
        "rows": render_table(_rows(figures)),
    }


def _plots(figures: Figures, specs: dict[str, plots.Spec]) -> list[_Plot]:
    """Return the plots of a track, and add their specifications to `specs`."""
    drawn = []
    main = figures.tested[figures.columns[0]]
    board = figures.board
    for name, plot in plots.plots_of(main, coverage_records(board), read_probed(board)).items():
        identifier = f"{figures.track}-{name}"
        specs[identifier] = plot.spec
        drawn.append(_Plot(name, identifier, plot.caption, draw(plot.spec)))
    return drawn


def _section(section: Section, owner: str) -> dict[str, Any]:
    """Return a section. Its tables are named after it and its owner, such as a track: names of regions are unique."""
    blocks = []
    for number, block in enumerate(section.blocks, 1):
        blocks.append(render_block(block, f"{owner}, {section.heading}, {number}"))
    return {"heading": section.heading, "blocks": blocks}


def _rows(figures: Figures) -> Table:
    """Return a row for each row of the track: its id, its provenance and the command that repeats it."""
    names = ("row", "entrant", "read by", "seed", "commit", "date", "encoder", "run", "command")
    lines = []
    for line in figures.comparison.lines:
        for row in line.rows:
            seed = "-" if row.seed is None else row.seed
            lines.append(
                [
                    row.id,
                    row.entrant,
                    row.representation,
                    seed,
                    row.commit[:10],
                    row.date,
                    row.encoder,
                    row.run,
                    row.command,
                ]
            )
    return Table([Column(name) for name in names], lines)


def _published(leaderboard: Path | None) -> dict[str, Any]:
    """Return the papers' tables beside measured rows, and the numbers that papers print differently."""
    tables, conflicts = published_sections(leaderboard)
    published = {
        "id": "published",
        "title": "Published and measured",
        "text": "The numbers that papers print, beside rows of the same recipe and data, with verdicts and intervals.",
        "sections": [_section(section, f"published {number}") for number, section in enumerate(tables, 1)],
    }
    differing = {
        "id": "conflicts",
        "title": "Where papers differ",
        "text": "One system on one dataset, with numbers that differ between papers.",
        "sections": [_section(section, f"conflict {number}") for number, section in enumerate(conflicts, 1)],
    }
    return {"published": published if tables else None, "conflicts": differing if conflicts else None}


def _performance(leaderboard: Path | None) -> Markup | None:
    """Return the results of benchmarks, a table for each device; None without results."""
    file = nearest_files(performance.RESULTS, leaderboard).get("performance")
    if file is None:
        return None
    tables = performance.result_tables(file.parent)
    return Markup("").join(render_table(table, title) for title, table in tables.items())


def _asset(name: str) -> str:
    return files("retrobench.leaderboard.report").joinpath(name).read_text("utf-8")


def _script(name: str) -> str:
    """Return a script without the address of a source map, which a browser would ask for."""
    lines = _asset(name).splitlines()
    return "\n".join(line for line in lines if not line.startswith("//# sourceMappingURL")) + "\n"


def _policy(scripts: Sequence[str]) -> str:
    """Return the content security policy: these scripts by their hashes, inline styles, and no request at all."""
    hashes = []
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        hashes.append(f"'sha256-{digest}'")
    return (
        f"default-src 'none'; script-src {' '.join(hashes)}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _inline(document: object) -> str:
    """Return JSON that may stand in a script element: no text in it can end the element."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
