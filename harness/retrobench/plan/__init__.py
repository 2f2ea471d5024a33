"""Plan a track before anything starts: downloads, disk, memory, hours, and settings that do not fit."""

from retrobench.plan import arithmetic
from retrobench.plan.arithmetic import Shape
from retrobench.plan.page import plan
from retrobench.plan.parts import parts_of

__all__ = ["Shape", "arithmetic", "parts_of", "plan"]
