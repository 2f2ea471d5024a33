"""The variables of torchrun: a value that it would not set is a user's error."""

from __future__ import annotations

import pytest

from retrobench.core import processes
from retrobench.errors import RetrobenchError

WRONG = {
    "no number": ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE is 'two', and must be a whole number"),
    "digits": ({"WORLD_SIZE": "9" * 5000, "RANK": "0"}, "WORLD_SIZE is '999"),
    "rank alone": ({"RANK": "1"}, "WORLD_SIZE is not set"),
    "size alone": ({"WORLD_SIZE": "2"}, "RANK is not set"),
    "rank beyond": ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2, and must be below WORLD_SIZE, 2"),
    "nobody": ({"WORLD_SIZE": "0", "RANK": "0"}, "RANK is 0, and must be below WORLD_SIZE, 0"),
    "no address": ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
    "no port": ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}, "MASTER_PORT is not set"),
}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("kind", WRONG)
def test_a_team_that_cannot_meet(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables, message = WRONG[kind]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RetrobenchError, match=message):
        processes.check_address()


def test_one_process_needs_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.check_address()
    assert (processes.rank(), processes.size()) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    processes.check_address()
    assert (processes.rank(), processes.size(), processes.leads()) == (0, 1, True)
