"""One benchmark in a process of its own: `python -m retrobench.bench.worker LOCATION NAME SETTING`.

LOCATION is `module:function` of `benchmarks`, and SETTING is JSON. Every case is a line of JSON on standard output.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import torch

from retrobench.bench.ceilings import Ceilings, measure_ceilings
from retrobench.bench.frame import Case, Floor, Measured, measure
from retrobench.bench.setting import Setting
from retrobench.core import keep_freed_memory, provenance, quiet_transformers, retrobench_version, say
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import BenchmarkResult

__all__ = ["load", "main"]

# Benchmarks of training. `retrobench run` keeps freed memory, so they do too; `retrobench evaluate` does not.
TRAIN = ("bow-mae", "contrastive", "objectives", "retromae")


def load(location: str) -> Callable[[Setting], Iterator[Case]]:
    """Import the function that yields a benchmark's cases."""
    name, _, function = location.partition(":")
    module = importlib.import_module(f"retrobench.bench.benchmarks.{name}")
    cases: Callable[[Setting], Iterator[Case]] = getattr(module, function)
    return cases


class _Machine:
    """The machine's ceilings, measured when first needed."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    @cached_property
    def ceilings(self) -> Ceilings:
        ceilings = measure_ceilings(self.setting)
        say(f"{ceilings}")
        return ceilings

    def seconds(self, floor: Floor) -> float:
        """Return the least time of a unit of work."""
        return self.ceilings.seconds(floor)


def main(words: Sequence[str]) -> int:
    """Measure every case of a benchmark; return the exit code."""
    location, name, setting_text = words
    quiet_transformers()
    if name in TRAIN:
        keep_freed_memory()
    setting = Setting(**json.loads(setting_text))
    if setting.smoke:
        torch.set_num_threads(1)  # on a busy machine threads wait for each other longer than this small work takes
    machine = _Machine(setting)
    try:
        for case in load(location)(setting):
            if setting.is_over():
                print(json.dumps({"not_reached": case.name}), flush=True)
                continue
            numbers = measure(case, setting, machine.seconds)
            say(_describe(case, numbers))
            result = _make_result(name, case, numbers, setting)
            print(json.dumps(asdict(result), allow_nan=False), flush=True)
    except RetrobenchError as error:
        print(f"Error: {name}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _describe(case: Case, numbers: Measured) -> str:
    ratio = ""
    if numbers.ratio is not None:
        ratio = f", {numbers.ratio:.3g}x {case.peer_name}"
    measured = f"{numbers.ours:,.4g} {case.unit}"
    return f"{case.name}: {measured}{ratio}; {numbers.equal}"


def _make_result(name: str, case: Case, numbers: Measured, setting: Setting) -> BenchmarkResult:
    measured: dict[str, Any] = asdict(numbers)
    if setting.smoke:  # times of small work mean nothing
        measured["floor_share"] = None
        measured["says"] = ""
    return BenchmarkResult(
        **measured,
        benchmark=name,
        case=case.name,
        device=setting.device,
        peer_name=case.peer_name,
        unit=case.unit,
        versions={"retrobench": retrobench_version(), **provenance.libraries()},
        commit=provenance.commit(),
        command=f"retrobench bench {name} --device {setting.device}",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware=provenance.hardware(),
        smoke=setting.smoke,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
