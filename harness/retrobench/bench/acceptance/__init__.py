"""
Acceptance of a machine: whether it computes as a processor does, and how fast, in the order of importance.

* accept    run the checks and then benchmarks until the time is up
* CHECKS    name -> `module:function` of this folder; the function yields `Check`s for a `Setting`

Each check runs in a process of its own, so that a fault of the device stops no other.
"""

from retrobench.bench.acceptance.run import CHECKS, Accepted, accept

__all__ = ["CHECKS", "Accepted", "accept"]
