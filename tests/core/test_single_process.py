"""A single process is a team of one."""

from __future__ import annotations

from retrobench.core import processes


def test_a_single_process_does_not_wait() -> None:
    processes.meet()
    assert processes.size() == 1
    assert processes.rank() == 0
    assert processes.leads()
    assert processes.agree(True)
    assert not processes.agree(False)
