"""Results of benchmarks, made up."""

from __future__ import annotations

from typing import Any

from retrobench.leaderboard.performance import BenchmarkResult


def make_result(**fields: Any) -> BenchmarkResult:
    defaults: dict[str, Any] = {
        "benchmark": "retromae",
        "case": "step alone",
        "device": "cpu",
        "ours": 8.0,
        "peer": 2.0,
        "peer_name": "another",
        "unit": "tokens/s",
        "ratio": 4.0,
        "floor_share": 0.6,
        "memory": None,
        "equal": "all",
        "versions": {},
        "commit": "abc",
        "command": "retrobench bench",
        "date": "now",
        "hardware": {},
    }
    return BenchmarkResult(**{**defaults, **fields})
