"""Every line of a file of rows is checked. A faulty line is named and left out, and the other rows stay."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from leaderboard_rows import DATASET, entrants, row

from retrobench.errors import RetrobenchError
from retrobench.leaderboard.rows import Row, append, find_duplicate, inspect, keep_track, read, read_file
from retrobench.leaderboard.rows.row import FIELDS

TRACK = {"model": {"base": "tiny"}}


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    """Return a track's folder with the rows of bert, mlm and retromae, in this order."""
    return entrants(tmp_path / "mini", seeds=1)


def lines(folder: Path) -> list[bytes]:
    return (folder / "rows.jsonl").read_bytes().splitlines()


def write_lines(folder: Path, lines: list[bytes]) -> None:
    (folder / "rows.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def documents(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(folder)]


def write_document(folder: Path, number: int, document: dict[str, Any]) -> None:
    """Put a document in the place of a line, counted from 1."""
    changed = lines(folder)
    changed[number - 1] = json.dumps(document).encode()
    write_lines(folder, changed)


def with_new_id(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with the id of its content, as a careful forger writes it."""
    known = {name: document[name] for name in FIELDS}
    later = {name: document[name] for name in document.keys() - known.keys()}
    return document | {"id": Row(**known, later=later).digest()}


def entrants_of(rows: list[Row]) -> list[str]:
    return [row.entrant for row in rows]


def check_that_only_line_2_is_left_out(folder: Path, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Read a folder whose second line is damaged, by both readers."""
    file = folder / "rows.jsonl"
    content = file.read_bytes()
    first, second, third = inspect(file)
    assert second.location == f"{file}:2"
    assert message in second.faults[0]
    assert first.faults == third.faults == ()
    assert first.row is not None
    assert third.row is not None
    assert capsys.readouterr().err == "", "only `read` prints"
    assert entrants_of(read(folder)) == ["bert", "retromae"]
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith(f"{file}:2: left out, because {'; '.join(second.faults)}. ")
    assert file.read_bytes() == content, "reading changes nothing"


def test_sound_rows_have_no_fault(mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.faults for line in inspect(mini / "rows.jsonl")] == [(), (), ()]
    assert entrants_of(read(mini)) == ["bert", "mlm", "retromae"]
    assert capsys.readouterr().err == ""


def test_the_id_is_the_hash_of_the_other_fields(mini: Path) -> None:
    for line in lines(mini):
        row_id = json.loads(line)["id"]
        unnamed = line.replace(f'"id": "{row_id}"'.encode(), b'"id": ""')
        assert unnamed != line
        assert row_id == hashlib.sha256(unnamed).hexdigest()[:16]


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_but_the_id_counts_in_the_id(name: str) -> None:
    plain = row()
    change: dict[str, Any] = {name: "another"}
    changed = replace(plain, **change)
    assert (changed.digest() == plain.digest()) is (name == "id")


def test_a_field_of_a_later_version_counts_in_the_id() -> None:
    assert row(later={"watts": 3}).digest() != row().digest()


FIRST = {"finetune in-batch": "a", "score": "s"}
MEASURED_ROUNDS = [
    ({"round": "in-batch"}, "in-batch"),
    ({"selection": {"in-batch": 0.3, "mined": 0.2}}, "in-batch"),
    ({"selection": {"in-batch": 0.3, "mined": 0.3}}, "mined"),  # the later of equal ones
    ({"selection": {}, "artifacts": FIRST}, "in-batch"),
    ({"selection": {}, "artifacts": {"finetune mined": "b", **FIRST}}, "mined"),
    ({"selection": {}, "artifacts": {"finetune distilled": "c", **FIRST}}, "distilled"),
    ({"selection": {}, "artifacts": {"score": "s"}}, ""),
]


@pytest.mark.parametrize(("changed", "measured"), MEASURED_ROUNDS)
def test_a_row_knows_the_round_that_was_measured(changed: dict[str, Any], measured: str) -> None:
    assert row(**changed).chosen == measured


RAW_LINES = {
    "cut short": (b'{"track": "mi', "it is not JSON (Unterminated string"),
    "a list": (b"[1]", "it is not a JSON object"),
    "no text": (b'{"track": "\xff"}', "it is not JSON ('utf-8' codec can't decode byte 0xff"),
    "not a number": (b'{"track": NaN}', "it is not JSON (NaN is no number)"),
    "another document": (b'{"trakc": "mini"}', "it lacks 'artifacts', 'checkpoint', "),
}


@pytest.mark.parametrize("kind", RAW_LINES)
def test_a_line_that_is_no_row_is_left_out(kind: str, mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, message = RAW_LINES[kind]
    first, _, third = lines(mini)
    write_lines(mini, [first, raw, third])
    assert inspect(mini / "rows.jsonl")[1].row is None
    check_that_only_line_2_is_left_out(mini, message, capsys)


def test_a_row_is_appended_behind_a_line_that_is_no_text(mini: Path) -> None:
    first, _, third = lines(mini)
    write_lines(mini, [first, b"\xff", third])
    append(mini, row("bow-mae"), {})
    assert entrants_of(read(mini)) == ["bert", "retromae", "bow-mae"]
    assert lines(mini)[:3] == [first, b"\xff", third]


def change_a_digit(document: dict[str, Any]) -> None:
    document["measures"][DATASET]["MRR@10"] += 0.1


def remove_a_setting(document: dict[str, Any]) -> None:
    del document["settings"]["mask_ratio"]


def add_a_field(document: dict[str, Any]) -> None:
    document["note"] = "by hand"


@pytest.mark.parametrize("edit", [change_a_digit, remove_a_setting, add_a_field])
def test_an_edited_row_is_left_out(
    edit: Callable[[dict[str, Any]], None], mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = documents(mini)[1]
    edit(document)
    write_document(mini, 2, document)
    message = f"its content does not have the id '{document['id']}'"
    check_that_only_line_2_is_left_out(mini, message, capsys)


# Each stands in a row with a new id, so that the type alone is wrong.
WRONG_TYPES = {
    "seed": "0",
    "processes": 1.5,
    "track": None,
    "checkpoint": "authors/model",
    "selection": {"in-batch": 0.2, "mined": "0.25"},
    "measures": {DATASET: {"nDCG@10": 0.3, "MRR@10": "0.251"}},
    "cost": [],
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_a_row_with_a_wrong_type_is_left_out(name: str, mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = with_new_id(documents(mini)[1] | {name: WRONG_TYPES[name]})
    write_document(mini, 2, document)
    check_that_only_line_2_is_left_out(mini, f"its {name} is {WRONG_TYPES[name]!r} (", capsys)


def test_a_row_of_another_schema_is_left_out(mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = with_new_id(documents(mini)[1] | {"schema": 2})
    write_document(mini, 2, document)
    check_that_only_line_2_is_left_out(mini, "it is a row of schema 2, and this version reads 1", capsys)


def test_a_row_that_lacks_a_field_is_left_out(mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = documents(mini)[1]
    del document["commit"]
    write_document(mini, 2, document)
    check_that_only_line_2_is_left_out(mini, "it lacks 'commit'", capsys)


def test_a_measure_that_is_not_the_mean_of_its_values_is_left_out(
    mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = documents(mini)[1]
    assert document["measures"][DATASET]["MRR@10"] == pytest.approx(0.251)
    document["measures"][DATASET]["MRR@10"] = 0.351
    write_document(mini, 2, with_new_id(document))
    message = f"its MRR@10 on {DATASET} is 0.351, and its values by query average to 0.251"
    check_that_only_line_2_is_left_out(mini, message, capsys)


def test_values_of_a_measure_that_the_row_lacks(mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = documents(mini)[1]
    document["measures"] = {DATASET: {"nDCG@10": 0.5}}
    write_document(mini, 2, with_new_id(document))
    check_that_only_line_2_is_left_out(mini, f"its MRR@10 on {DATASET} is None, and its values", capsys)


def test_a_row_whose_values_by_query_were_changed_is_left_out(mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = documents(mini)[1]["per_query"]
    content = gzip.decompress((mini / name).read_bytes())
    (mini / name).write_bytes(gzip.compress(content.replace(b"0.0", b"0.1", 1)))
    check_that_only_line_2_is_left_out(mini, f"{Path(name).name} was changed since it was written", capsys)


@pytest.mark.parametrize("kind", ["per_query", "queries"])
def test_rows_without_their_values_by_query_stay(kind: str, mini: Path) -> None:
    for file in (mini / kind).iterdir():
        file.unlink()
    assert [line.faults for line in inspect(mini / "rows.jsonl")] == [(), (), ()]


def test_rows_whose_kept_track_was_changed_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    identities = ["a" * 16, "b" * 16, "c" * 16]
    for identity, entrant in zip(identities, ("bert", "mlm", "retromae"), strict=True):
        digest = keep_track(tmp_path, identity, TRACK)
        append(tmp_path, row(entrant, identity=identity, track_toml=digest), {})
    assert len(read(tmp_path)) == 3
    with (tmp_path / "tracks" / f"{identities[1]}.toml").open("a") as file:
        file.write("# a thought\n")
    message = f"tracks/{identities[1]}.toml was changed since it was written"
    check_that_only_line_2_is_left_out(tmp_path, message, capsys)


def test_fields_of_a_later_version_are_kept(mini: Path, tmp_path: Path) -> None:
    later = {"watts": {"gpu": [1.5, None]}, "aaa": "before the known fields"}
    document = with_new_id(documents(mini)[1] | later)
    write_document(mini, 2, document)
    _, second, _ = read(mini)
    assert second.later == later
    assert json.loads(second.to_json()) == document
    copied = append(tmp_path / "copy", second, {})
    (written,) = documents(tmp_path / "copy")
    assert {name: written[name] for name in later} == later
    assert list(written) == sorted(written)
    assert read(tmp_path / "copy") == [copied]


def test_a_damaged_row_does_not_keep_its_measurement_from_being_appended(mini: Path) -> None:
    document = documents(mini)[1]
    change_a_digit(document)
    write_document(mini, 2, document)
    again = row("mlm", 0, [0.5])
    assert find_duplicate(read(mini), again) is None
    append(mini, again, {})
    assert entrants_of(read(mini)) == ["bert", "retromae", "mlm"]
    assert len(lines(mini)) == 4


def test_a_file_of_rows_is_read_wherever_it_lies(tmp_path: Path) -> None:
    append(tmp_path, row(), {})
    append(tmp_path, row("mlm"), {})
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n" + file.read_bytes().replace(b"\n", b"\r\n"))
    rows = read_file(file)
    assert rows.keys() == {f"{file}:2", f"{file}:3"}, "an empty line counts as a line and is no fault"
    assert rows[f"{file}:3"].entrant == "mlm"
    for unreadable in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(RetrobenchError, match=r"Cannot read rows from .*: .*Name a rows\.jsonl of a track"):
            read_file(unreadable)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_writes_nothing(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        append(tmp_path, row(values=[value]), {DATASET: {"MRR@10": {"q1": 0.5}}})
    assert list(tmp_path.iterdir()) == []


def test_rows_that_ship_are_sound() -> None:
    mini = Path(__file__).parents[2] / "leaderboards" / "mini"
    shipped = read(mini)
    assert [row.to_json().encode() for row in shipped] == lines(mini)
    assert {row.objective for row in shipped} == {"bert", "bm25", "mlm", "retromae", "bow-mae", "dupmae"}
    for sound in shipped:
        assert sound.schema == 1
        assert (mini / sound.per_query).is_file()
        if sound.seed is not None:
            assert {"finetune in-batch", "finetune mined"} <= sound.artifacts.keys()
