"""
The README of a track's folder, rendered from the files beside it alone.

`python -m retrobench.leaderboard DIR` writes it, for a track's folder or for all below DIR. With `--check` it
writes nothing, names each README that is not current, and exits with 1 if there is one. With `--clusters` it writes the
missing files of clusters of a track's folder, with `--curves` those of the logs of its trainings, from the store.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from retrobench.core import Column, Markdown, Table, atomic_write, escape_markdown, read_toml
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import performance
from retrobench.leaderboard.comparison import Board, Comparison
from retrobench.leaderboard.guide import find_guide, is_current, write_generated
from retrobench.leaderboard.report import Plot, can_draw, draw, plots_of
from retrobench.leaderboard.reproduce import render_claims
from retrobench.leaderboard.rows import Row, write_missing_clusters, write_missing_curves
from retrobench.leaderboard.tables import (
    clock,
    compare_board,
    coverage_records,
    coverage_sections,
    format_number,
    lay_out,
    list_facts,
    one_line,
    page_sections,
    probed_sections,
    read_probed,
    shell_block,
)
from retrobench.store import default_root

__all__ = ["find_stale", "main", "render_readme", "write_readme"]

PUBLISHED = (
    "The numbers that the papers print, from [`claims.toml`](claims.toml), beside the rows of this folder. "
    "`retrobench reproduce TABLE` prints a whole table."
)


def render_readme(folder: Path) -> str:
    """Return the README of a folder of results, claims or benchmarks. Equal files give equal text."""
    if (folder / performance.AIMS).exists():
        return performance.render_page(folder)
    board = Board.read(folder)
    return _render(folder, board, compare_board(board))


def _render(folder: Path, board: Board, comparisons: Sequence[Comparison]) -> str:
    paragraphs = list(_heading(folder))
    if board.rows:
        images = [f"![{plot.caption}]({file})" for file, plot in _drawn_plots(folder, board, comparisons).items()]
        results = [*page_sections(board, comparisons), *coverage_sections(board), *probed_sections(board)]
        paragraphs += ["## Results", *images, lay_out(results, "md")]
    elif _has_results(folder):
        paragraphs += ["## Results", "No rows yet."]
    if (folder / "claims.toml").exists():
        paragraphs += ["## Published and measured", PUBLISHED, render_claims(folder)]
    if board.rows:
        paragraphs += _details(board, comparisons)
    return "\n\n".join(paragraphs) + "\n"


def _plots(board: Board, comparisons: Sequence[Comparison]) -> dict[str, Plot]:
    """Return the plots of the unchanged track by their paths in its folder; none without rows of it."""
    for comparison in comparisons:
        if not comparison.is_changed:
            plots = plots_of(comparison, coverage_records(board), read_probed(board))
            return {f"plots/{name}.svg": plot for name, plot in plots.items()}
    return {}


def _drawn_plots(folder: Path, board: Board, comparisons: Sequence[Comparison]) -> dict[str, Plot]:
    """Return those plots whose file is in the folder: only the extra `report` draws them."""
    return {file: plot for file, plot in _plots(board, comparisons).items() if (folder / file).exists()}


def _specification(plot: Plot) -> str:
    return json.dumps(plot.spec, indent=1, sort_keys=True) + "\n"


def _has_results(folder: Path) -> bool:
    """Return whether the folder has a track or rows. A folder of claims alone has neither."""
    if (folder / "track.toml").exists() or (folder / "rows.jsonl").exists():
        return True
    return not (folder / "claims.toml").exists()


def _heading(folder: Path) -> Iterator[str]:
    """Yield the title, the sources and the description of a folder."""
    sources = []
    if (folder / "claims.toml").exists():
        sources.append("claims.toml")
    if _has_results(folder):
        sources += ["rows.jsonl", "track.toml"]
    about: dict[str, Any] = {}
    for name in ("track.toml", "claims.toml"):
        if (folder / name).exists():
            about = read_toml(folder / name)
            break
    yield f"# {about.get('title', f'Track {folder.resolve().name}')}"
    yield f"<!-- Rendered by `python -m retrobench.leaderboard` from {_listed(sources)}: edits are lost. -->"
    description = str(about.get("description", "")).strip()
    if description:
        yield description
    if (folder / "track.toml").exists():
        yield "[`track.toml`](track.toml) fixes everything but the objective."


def _details(board: Board, comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield the costs, the provenance and the commands of rows."""
    yield "## Cost"
    yield "Time of each stage as h:mm:ss, mean over seeds."
    for comparison in comparisons:
        yield f"### {escape_markdown(one_line(comparison.heading))}"
        yield _costs(comparison).markdown()
    yield "## Rows"
    yield (
        "The provenance of each row, and its values by query. `retrobench show ROW` prints everything that a row "
        "stands on. The keys of its encoder and its run name folders below `finetune` and `search` in the store."
    )
    for comparison in comparisons:
        yield f"### {escape_markdown(one_line(comparison.heading))}"
        yield from _provenance(comparison.rows)
    yield "## Rerun"
    yield "The commands of the rows. Rows may share one."
    commands = dict.fromkeys(row.command for row in board.rows)
    yield shell_block(commands)


def _listed(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def write_readme(folder: Path) -> Path:
    """Render the README of a track's folder into it, with its plots where they can be drawn, and return its path."""
    file = folder / "README.md"
    if (folder / performance.AIMS).exists():
        atomic_write(file, performance.render_page(folder))
        return file
    board = Board.read(folder)
    comparisons = compare_board(board)
    for name, plot in _plots(board, comparisons).items():
        if can_draw():
            (folder / name).parent.mkdir(exist_ok=True)
            atomic_write(folder / name, draw(plot.spec))
            atomic_write((folder / name).with_suffix(".vl.json"), _specification(plot))
    atomic_write(file, _render(folder, board, comparisons))
    return file


def find_stale(folder: Path) -> list[str]:
    """Return the READMEs and the specifications of plots, of the folder or of those in it, that are not current.

    The bytes of a drawn plot depend on the library that drew it, so its specification is compared.
    """
    stale = []
    for track in _tracks(folder):
        board = Board.read(track)
        comparisons = compare_board(board)
        file = track / "README.md"
        is_benchmarks = (track / performance.AIMS).exists()
        text = performance.render_page(track) if is_benchmarks else _render(track, board, comparisons)
        if not file.exists() or file.read_text("utf-8") != text:
            stale.append(str(file))
        for name, plot in _drawn_plots(track, board, comparisons).items():
            specification = (track / name).with_suffix(".vl.json")
            if not specification.exists() or specification.read_text("utf-8") != _specification(plot):
                stale.append(str(specification))
    guide = find_guide(folder)
    if guide and not is_current(guide):
        stale.append(str(guide))
    return stale


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    folders = [Path(argument) for argument in arguments if not argument.startswith("--")]
    try:
        if not folders:
            raise RetrobenchError(
                "No folder. Usage: python -m retrobench.leaderboard [--check | --clusters | --curves] DIR ..."
            )
        if "--check" in arguments:
            return _check(folders)
        if "--clusters" in arguments:
            for folder in folders:
                print(*write_missing_clusters(folder), sep="\n")
            return 0
        if "--curves" in arguments:
            for folder in folders:
                print(*write_missing_curves(folder, default_root()), sep="\n")
            return 0
        for folder in folders:
            for track in _tracks(folder):
                print(write_readme(track))
            guide = find_guide(folder)
            if guide:
                write_generated(guide)
                print(guide)
    except RetrobenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _check(folders: Sequence[Path]) -> int:
    stale: list[str] = []
    for folder in folders:
        stale += find_stale(folder)
    for file in stale:
        print(f"{file} is not current: run python -m retrobench.leaderboard {Path(file).parent}", file=sys.stderr)
    return 1 if stale else 0


def _tracks(folder: Path) -> list[Path]:
    tracks = [track for track in (folder, *sorted(folder.glob("*/"))) if _is_track(track)]
    if not tracks:
        raise RetrobenchError(
            f"No track in {folder}. Name a folder that holds a track.toml, a rows.jsonl or a claims.toml."
        )
    return tracks


def _is_track(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("track.toml", "rows.jsonl", "claims.toml", performance.AIMS))


def _costs(comparison: Comparison) -> Table:
    """Return the time of every stage, a row for each entrant."""
    # The row with the most stages leads, so that an entrant which skips some does not set the order of all.
    rows = sorted(comparison.rows, key=lambda row: -len(row.cost))
    stages: dict[str, None] = {}
    for row in rows:
        stages |= dict.fromkeys(row.cost)
    columns = [Column(""), Column("entrant"), Column("representation")]
    columns += [Column(stage, "right", "cost") for stage in stages]
    body = []
    for index, line in enumerate(comparison.lines):
        times = [clock(line.seconds(stage)) for stage in stages]
        body.append([comparison.letter(index), line.entrant, line.representation, *times])
    return Table(columns, body)


def _provenance(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table, and a legend of the numbered machines and sets of libraries, which rows share."""
    machines: dict[str, int] = {}
    libraries: dict[str, int] = {}
    records: list[dict[str, Any]] = []
    for row in rows:
        record = _provenance_record(row)
        record["machine"] = machines.setdefault(list_facts(row.hardware), len(machines) + 1)
        record["libraries"] = libraries.setdefault(list_facts(row.libraries), len(libraries) + 1)
        record["date"] = row.date
        record["per query"] = Markdown(f"[values]({row.per_query})")
        records.append(record)
    yield Table.from_records(records).markdown()
    legend = [f"- Machine {number}: {escape_markdown(one_line(text))}" for text, number in machines.items()]
    legend += [f"- Libraries {number}: {escape_markdown(one_line(text))}" for text, number in libraries.items()]
    yield "\n".join(legend)


def _provenance_record(row: Row) -> dict[str, Any]:
    validation = ", ".join(f"{name} {value:.4f}" for name, value in row.selection.items())
    plugin = " ".join(map(str, row.plugin.values()))
    measure, value = next(iter(next(iter(row.measures.values())).items()))
    return {
        "row": row.id[:8],
        "entrant": row.entrant,
        "representation": row.representation,
        "seed": format_number(row.seed, "d"),
        "validation": validation or "-",
        "chosen": row.chosen or "-",
        measure: f"{value:.4f}",
        "negatives": format_number(row.negatives or None, ",.0f"),
        "plugin": plugin or "-",
        "version": row.version,
        "commit": row.commit[:10],
        "encoder": row.encoder[:8],
        "run": row.run[:8],
    }
