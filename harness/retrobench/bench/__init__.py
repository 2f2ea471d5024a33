"""
Speed and memory beside what else there is: peers and ours in one process, equal before they are timed.

* bench        run benchmarks, each in a process of its own, and keep what they gave
* BENCHMARKS   name -> module; one of them is a function `cases(setting) -> Iterator[Case]` in a file of this folder

Read `frame` for what a case is. Peers are real libraries where there are some, and in `peers` the released algorithms
written anew from their description.
"""

from retrobench.bench.run import BENCHMARKS, bench

__all__ = ["BENCHMARKS", "bench"]
