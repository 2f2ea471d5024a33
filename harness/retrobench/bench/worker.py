"""One benchmark, a line for each case: `python -m retrobench.bench.worker MODULE NAME DEVICE SMOKE COMMAND`."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, cast

import torch

from retrobench.bench.ceilings import Ceilings, ceilings
from retrobench.bench.frame import Case, Measured, Setting, measured
from retrobench.core import keep_freed_memory, provenance, quiet_transformers, retrobench_version, say
from retrobench.errors import RetrobenchError
from retrobench.leaderboard import Result

# Modules that time a training loop, which `retrobench run` gives such memory to; `retrobench evaluate` has none.
TRAIN = ("bow_mae", "contrastive", "objectives", "retromae")


def main(words: Sequence[str]) -> int:
    """Measure every case of a benchmark; gives the exit code."""
    module, name, device, smoke, command = words
    quiet_transformers()
    if module in TRAIN:
        keep_freed_memory()
    setting = Setting(cast(Literal["cpu", "cuda"], device), smoke == "1")
    if setting.smoke:
        torch.set_num_threads(1)  # work so small is done sooner than threads have met on a busy machine

    @cache
    def top() -> Ceilings:
        found = ceilings(device, setting.smoke)
        say(f"{found}")
        return found

    cases = importlib.import_module(f"retrobench.bench.{module}").cases(setting)
    try:
        for case in cases:
            found = measured(case, setting, top)
            say(_told(case, found))
            print(json.dumps(asdict(_result(name, case, found, setting, command)), allow_nan=False), flush=True)
    except RetrobenchError as error:
        print(f"Error: {name}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _told(case: Case, found: Measured) -> str:
    ratio = "" if found.ratio is None else f", {found.ratio:.3g}x {case.peer_name}"
    return f"{case.name}: {found.ours:,.4g} {case.unit}{ratio}; {found.equal}"


def _result(name: str, case: Case, found: Measured, setting: Setting, command: str) -> Result:
    about: dict[str, Any] = {"retrobench": retrobench_version(), **provenance.libraries()}
    return Result(
        benchmark=name,
        case=case.name,
        device=setting.device,
        ours=found.ours,
        peer=found.peer,
        peer_name=case.peer_name,
        unit=case.unit,
        ratio=found.ratio,
        floor_share=None if setting.smoke else found.floor_share,
        memory=found.memory,
        equal=found.equal,
        versions=about,
        commit=provenance.commit(),
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware=provenance.hardware(),
        smoke=setting.smoke,
        rounds=found.rounds,
        spread=found.spread,
        says="" if setting.smoke else found.says,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
