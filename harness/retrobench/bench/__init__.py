"""
Speed and memory beside peers: both sides run in one process, and are compared before they are timed.

* bench        run benchmarks, each in a process of its own, and append the results to a leaderboard
* BENCHMARKS   name -> `module:function` of `benchmarks`; the function yields `Case`s for a `Setting`
* accept       check that a device computes as a processor does, then run benchmarks until the time is up

Read `frame` first: it defines a case. Peers are installed libraries where possible; `peers` holds released algorithms
that cannot be installed, written anew from their description.
"""

from retrobench.bench.acceptance import accept
from retrobench.bench.run import BENCHMARKS, bench

__all__ = ["BENCHMARKS", "accept", "bench"]
