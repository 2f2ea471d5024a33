"""
The base of all rooms. Nothing in it depends on retrieval.

* energy       the energy of stages.
* files        hashes of files, and atomic writes.
* machine_load whether other processes keep this machine busy.
* memory       peak memory of this process, and settings of the allocator.
* processes    rank, world size and agreement among the processes of an experiment.
* processor    facts about the processor.
* progress     lines and bars on standard error.
* provenance   facts about the program and the machine.
* screen       the width of the terminal.
* settings     typed settings of frozen records.
* tables       tables as text, Markdown, CSV, JSON and LaTeX.
* threads      loops compiled by numba, and work shared among threads.
"""

from retrobench.core import processes, provenance
from retrobench.core.energy import ENERGY, EnergyMeter
from retrobench.core.files import KEY_LENGTH, atomic_write, file_hash, move, read_toml, sync, tree_hash
from retrobench.core.machine_load import sleep_when_busy
from retrobench.core.memory import gpu_memory, keep_freed_memory, peak_memory, release_freed_memory
from retrobench.core.processor import computes_bf16, computes_int8, processor_name
from retrobench.core.progress import Position, bar, duration, quiet_transformers, say, set_position, set_verbosity
from retrobench.core.provenance import retrobench_version
from retrobench.core.screen import fold_text, set_width, width_for
from retrobench.core.settings import build_record, describe, from_text, try_build_record, types_of
from retrobench.core.tables import Column, Table, escape_latex
from retrobench.core.threads import in_threads, jit

__all__ = [
    "ENERGY",
    "KEY_LENGTH",
    "Column",
    "EnergyMeter",
    "Position",
    "Table",
    "atomic_write",
    "bar",
    "build_record",
    "computes_bf16",
    "computes_int8",
    "describe",
    "duration",
    "escape_latex",
    "file_hash",
    "fold_text",
    "from_text",
    "gpu_memory",
    "in_threads",
    "jit",
    "keep_freed_memory",
    "move",
    "peak_memory",
    "processes",
    "processor_name",
    "provenance",
    "quiet_transformers",
    "read_toml",
    "release_freed_memory",
    "retrobench_version",
    "say",
    "set_position",
    "set_verbosity",
    "set_width",
    "sleep_when_busy",
    "sync",
    "tree_hash",
    "try_build_record",
    "types_of",
    "width_for",
]
