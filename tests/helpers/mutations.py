"""Damaged copies of valid files, chosen by a seed."""

from __future__ import annotations

import json
import random
import re
from typing import Any

# Bytes that readers must refuse, or take for what they are.
HOSTILE = (
    *(b"\xff", b"\r", b"\0", b"\xef\xbb\xbf", b"\x1b[31m", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\\ud800", b"\n\n"),
    *(b"\t", b" ", b'"', b"'", b"=", b"#", b"{}", b"[]", b"null", b"true", b"NaN", b"1e999", b"-1", b"0x", b"../x"),
    *(b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"a" * 5000, b"0." + b"9" * 5000, b"[[x]]\n", b"1979-05-27"),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1.5,
        2**70,
        10**400,
        "",
        "text",
        "../../x",
        "/etc/passwd",
        "\0",
        "\x1b[31m",
        "\ud800",
        "a" * 5000,
    ),
    *([], {}, [None], [[]], {"": 1}, {"x": "y"}, ["a", 1], {"x": {"y": []}}),
)
NUMBER = re.compile(rb"-?\d+(\.\d+)?")


def damage(content: bytes, draw: random.Random) -> bytes:
    """Return the content with one to three changes of its bytes, words, numbers or lines."""
    for _ in range(draw.randint(1, 3)):
        content = draw.choice(CHANGES)(content, draw)
    return content


def _insert(content: bytes, draw: random.Random) -> bytes:
    position = draw.randint(0, len(content))
    return content[:position] + draw.choice(HOSTILE) + content[position:]


def _cut(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + content[end:]


def _repeat(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:end] + content[start:end] + content[end:]


def _flip(content: bytes, draw: random.Random) -> bytes:
    if not content:
        return content
    position = draw.randrange(len(content))
    return content[:position] + bytes([draw.randrange(256)]) + content[position + 1 :]


def _replace_number(content: bytes, draw: random.Random) -> bytes:
    numbers = list(NUMBER.finditer(content))
    if not numbers:
        return content
    number = draw.choice(numbers)
    return content[: number.start()] + draw.choice(HOSTILE) + content[number.end() :]


def _swap_lines(content: bytes, draw: random.Random) -> bytes:
    lines = content.split(b"\n")
    draw.shuffle(lines)
    return b"\n".join(lines)


def _span(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randint(0, len(content))
    return start, min(len(content), start + draw.randint(0, 40))


CHANGES = (_insert, _cut, _repeat, _flip, _replace_number, _swap_lines)


def change_value(document: Any, draw: random.Random) -> Any:
    """Return a copy of a JSON document in which one value, at any depth, is another or is missing."""
    document = json.loads(json.dumps(document))
    parent, key = draw.choice(list(_places(document)))
    if draw.random() < 0.1:
        del parent[key]
    else:
        parent[key] = draw.choice(VALUES)
    return document


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Return every container of a document with each of its keys."""
    places: list[tuple[Any, Any]] = []
    items = list(document.items()) if isinstance(document, dict) else list(enumerate(document))
    for key, value in items:
        places.append((document, key))
        if isinstance(value, dict | list) and value:
            places += _places(value)
    return places
