"""Every case of every benchmark on the device: its models and buffers are there, and its sides agree."""

from __future__ import annotations

import pytest

from retrobench.bench import BENCHMARKS, feeds
from retrobench.bench.setting import Setting
from retrobench.bench.worker import load

# `scale` holds the host's memory against a limit, and the pretend device lives in it.
NAMES = sorted(BENCHMARKS.keys() - {"scale"})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # a loader forks
def test_both_sides_of_every_case_agree_and_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "WORKERS", 1)
    count = 0
    for case in load(BENCHMARKS[name])(Setting("cuda", smoke=True)):
        assert case.check()
        case.ours()
        if case.peer is not None:
            case.peer()
        count += 1
    assert count > 0
