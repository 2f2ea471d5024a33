"""Progress on a terminal and in a log."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from retrobench.core import progress
from retrobench.core.progress import bar, duration, say

RATE = r"[\d,.]+ steps/s"


def test_a_line_goes_to_standard_error_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = "score: new ([bold]k[/bold] :smile: 1, " + "very " * 60 + "long)"
    say(text)
    assert capsys.readouterr() == ("", text + "\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (83.2, "83 s"), (754, "13 min"), (5999, "100 min"), (7560, "2.1 h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_short_bar_in_a_log_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("pretrain", 2000, "steps") as advance:
        for _ in range(2000):
            advance(1)
    output, errors = capsys.readouterr()
    assert output == ""
    assert re.fullmatch(rf"pretrain: 2,000/2,000 steps, {RATE}, 0\.\d s\n", errors)


def test_a_long_bar_in_a_log_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.1)
    with bar("pretrain", 40, "steps", done=10) as advance:
        for _ in range(30):
            time.sleep(0.01)
            advance(1)
    *between, last = capsys.readouterr().err.splitlines()
    assert 1 <= len(between) <= 5
    for line in between:
        assert re.fullmatch(rf"pretrain: \d\d/40 steps, {RATE}, \d\.\d s left", line)
    rate = re.fullmatch(rf"pretrain: 40/40 steps, ({RATE}), \d\.\d s", last)
    assert rate is not None
    steps_per_second = float(rate[1].split()[0])
    assert 1 <= steps_per_second <= 100  # 30 steps of at least 0.01 s, without the earlier 10


def test_a_bar_shows_its_count_after_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), bar("encode", 10, "passages") as advance:
        advance(3)
        raise KeyError
    assert capsys.readouterr().err.startswith("encode: 3/10 passages, ")


def test_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("encode", 0, "passages"):
        pass
    assert capsys.readouterr().err == "encode: 0/0 passages, 0 passages/s, 0.0 s\n"


DRAWN = """
import time
from retrobench.core import bar, say
with bar("outer {x}", 2, "epochs") as outer:
    with bar("pretrain [b]", 20, "steps") as advance:
        for n in range(20):
            time.sleep(0.02)
            advance(1)
            if n == 10:
                say("a line [b] between")
    outer(2)
print("result")
"""


def test_a_bar_on_a_terminal() -> None:
    master, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    command = [sys.executable, "-W", "error", "-c", DRAWN]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=environment)
    os.close(terminal)
    seen = b"".join(iter(lambda: read(master), b"")).decode()
    output, _ = process.communicate()
    assert output == b"result\n"
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", seen)
    assert text != seen
    assert "a line [b] between\r\n" in text
    assert re.search(rf"pretrain \[b\] [━╺╸]+\s+\d+/20 steps, {RATE}, \d\.\d s left", text)
    assert re.search(r"outer \{x\} [━╺╸]+\s+0/2 epochs", text)


def read(master: int) -> bytes:
    """Read from a terminal; empty at its end."""
    try:
        return os.read(master, 65536)
    except OSError:  # on Linux, the other end is closed
        return b""


def test_a_quiet_process_prints_nothing_and_a_normal_one_no_explanations(capsys: pytest.CaptureFixture[str]) -> None:
    progress.set_verbosity(0)
    say("a line")
    with bar("encode", 1, "texts") as advance:
        advance(1)
    progress.set_verbosity(1)
    say("", "why")
    say("short", "long")
    with bar("encode", 1, "texts") as advance:
        advance(1)
    assert capsys.readouterr().err == "short\n", "a short bar leaves no line"


def test_facts_stand_behind_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("pretrain", 2, "steps") as advance:
        advance(1)
        advance(0, "loss 5.31")
        advance(1)
    assert re.fullmatch(rf"pretrain: 2/2 steps, {RATE}, 0\.\d s, loss 5\.31\n", capsys.readouterr().err)
