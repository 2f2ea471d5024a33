"""One benchmark in a process of its own: `python -m retrobench.bench.worker LOCATION NAME DEVICE SMOKE`.

LOCATION is `module:function` within this package. Every case is a line of JSON on standard output.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, cast

import torch

from retrobench.bench.ceilings import Ceilings, ceilings
from retrobench.bench.frame import Case, Measured, Setting, measured
from retrobench.core import keep_freed_memory, provenance, quiet_transformers, retrobench_version, say
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import BenchmarkResult

__all__ = ["load", "main"]

# Benchmarks of a training loop, which `retrobench run` gives such memory to; `retrobench evaluate` has none.
TRAIN = ("bow-mae", "contrastive", "objectives", "retromae")


def load(location: str) -> Callable[[Setting], Iterator[Case]]:
    """Import the function that yields a benchmark's cases."""
    module, _, function = location.partition(":")
    cases: Callable[[Setting], Iterator[Case]] = getattr(
        importlib.import_module(f"retrobench.bench.{module}"), function
    )
    return cases


def main(words: Sequence[str]) -> int:
    """Measure every case of a benchmark; return the exit code."""
    location, name, device, smoke = words
    quiet_transformers()
    if name in TRAIN:
        keep_freed_memory()
    setting = Setting(cast(Literal["cpu", "cuda"], device), smoke == "1")
    if setting.smoke:
        torch.set_num_threads(1)  # on a busy machine threads take longer to meet than such small work takes

    @cache
    def machine() -> Ceilings:
        rates = ceilings(setting)
        say(f"{rates}")
        return rates

    try:
        for case in load(location)(setting):
            numbers = measured(case, setting, lambda floor: machine().seconds(floor))
            say(_line(case, numbers))
            print(json.dumps(asdict(_result(name, case, numbers, setting)), allow_nan=False), flush=True)
    except RetrobenchError as error:
        print(f"Error: {name}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _line(case: Case, numbers: Measured) -> str:
    ratio = "" if numbers.ratio is None else f", {numbers.ratio:.3g}x {case.peer_name}"
    return f"{case.name}: {numbers.ours:,.4g} {case.unit}{ratio}; {numbers.equal}"


def _result(name: str, case: Case, numbers: Measured, setting: Setting) -> BenchmarkResult:
    known: dict[str, Any] = asdict(numbers)
    if setting.smoke:  # times of small work mean nothing
        known |= {"floor_share": None, "says": ""}
    return BenchmarkResult(
        **known,
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
