"""JSON and TOML that cannot be read are a user's error of one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrobench.core import parse_json, parse_toml, read_json, read_toml
from retrobench.errors import RetrobenchError, printable, quote

FAULTS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "deep JSON": (parse_json, "[" * 100_000, "nested too deeply"),
    "deep TOML": (parse_toml, "a = " + "[" * 100_000, "nested too deeply"),
    "digits in JSON": (parse_json, "9" * 5000, "a number of 5000 digits"),
    "digits in TOML": (parse_toml, "a = " + "9" * 5000, "digits"),
    "NaN": (parse_json, "[NaN]", "NaN is no number"),
    "an infinite number": (parse_json, "1e999", "1e999 is no number"),
    "an infinite TOML number": (parse_toml, "a = inf", "inf is no number"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_document_that_cannot_be_read(kind: str) -> None:
    parse, text, fault = FAULTS[kind]
    with pytest.raises(ValueError, match=fault):
        parse(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b'a = "\xff"')
    for read in (read_toml, lambda file: read_json(file, "Correct it there.")):
        with pytest.raises(RetrobenchError, match=r"a\.toml is not (TOML|JSON): .*utf-8.* Correct it there\."):
            read(file)
        with pytest.raises(RetrobenchError, match=r"Cannot read .*: Is a directory"):
            read(tmp_path)
    with pytest.raises(RetrobenchError, match=r"Cannot read .*home"):
        read_toml(Path("~nobody-has-this-name/a.toml"))


def test_an_error_is_printable_and_quotes_little_of_the_input() -> None:
    assert len(quote("a" * 5000)) == 200
    assert quote(10**5000) == "a int too large to show"
    assert str(RetrobenchError("a\x1b[31m\u202eb\n" + "c" * 5000)) == r"a\u001b[31m\u202eb " + "c" * 196 + " ..."
    assert printable("tab\tand\nline, ü") == "tab\tand\nline, ü"
