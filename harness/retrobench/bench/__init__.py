"""
Speed and memory beside peers: both sides run in one process, and are compared before they are timed.

* bench        run benchmarks, each in a process of its own, and keep the results
* BENCHMARKS   name -> `module:function` of this folder; the function yields `Case`s for a `Setting`

Read `frame` for the parts of a case. Peers are real libraries where there are some; `peers` holds released algorithms
written anew from their description.
"""

from retrobench.bench.run import BENCHMARKS, bench

__all__ = ["BENCHMARKS", "bench"]
